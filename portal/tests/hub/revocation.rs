//! What ends, ends at once, and everybody concerned is told.

use std::time::Duration;

use connlib_portal::hub::CloseReason;
use serde_json::{Value, json};

use crate::lab::{Lab, POLICY, key};

/// What names an authorization to a gateway.
fn pair(lab: &Lab, client: &str, resource: &str) -> Value {
    json!({ "client_id": lab.client_id(client), "resource_id": lab.resource_id(resource) })
}

#[test]
fn a_policy_that_goes_takes_its_authorizations_along() {
    let mut lab = Lab::new(POLICY);
    let (gateway, _) = lab.gateway("gw-1", key(1));
    let (client, _) = lab.client("alice", key(2));
    lab.authorize(client, gateway, "net");
    lab.authorize(client, gateway, "web");
    let (net, rejected) = (lab.resource_id("net"), pair(&lab, "alice", "net"));

    lab.set_policy(&POLICY.replace("resources = [\"net\", \"web\"]", "resources = [\"web\"]"));

    assert_eq!(lab.hear(gateway, "reject_access"), rejected);
    assert_eq!(lab.hear(client, "resource_deleted"), json!(net));
    lab.hear_nothing(gateway);
    lab.hear_nothing(client);
    let left = lab.store.authorizations().unwrap();
    assert_eq!(left.len(), 1);
    lab.request(client, "net");
    assert_eq!(lab.hear(client, "authorization_creation_failed")["reason"], "forbidden");
}

#[test]
fn a_policy_that_goes_while_the_gateway_is_asked_ends_the_request() {
    let mut lab = Lab::new(POLICY);
    let (gateway, _) = lab.gateway("gw-1", key(1));
    let (client, _) = lab.client("alice", key(2));
    lab.request(client, "net");
    let create = lab.hear(gateway, "create_authorization");
    lab.set_policy(&POLICY.replace("resources = [\"net\", \"web\"]", "resources = [\"web\"]"));
    lab.hear(gateway, "reject_access");
    assert_eq!(lab.hear(client, "authorization_creation_failed")["reason"], "forbidden");
    lab.hear(client, "resource_deleted");
    lab.say(gateway, "gateway", "authorization_created", json!({ "ref": create["ref"] }));
    lab.hear_nothing(client);
}

#[test]
fn a_new_policy_shows_its_resources() {
    let mut lab = Lab::new(POLICY);
    let (client, _) = lab.client("alice", key(2));
    let vault = lab.resource_id("vault");
    lab.set_policy(&POLICY.replace("clients = [\"bob\"]", "groups = [\"everyone\"]"));
    let resource = lab.hear(client, "resource_created_or_updated");
    assert_eq!(resource["id"], vault);
    assert_eq!(resource["gateway_groups"][0]["name"], "dc");
    assert_eq!(resource.get("sites"), None);
    lab.hear_nothing(client);
}

#[test]
fn the_same_policy_again_tells_nobody_anything() {
    let mut lab = Lab::new(POLICY);
    let (gateway, _) = lab.gateway("gw-1", key(1));
    let (client, _) = lab.client("alice", key(2));
    lab.authorize(client, gateway, "net");
    lab.set_policy(&format!("# another comment\n{POLICY}"));
    lab.hear_nothing(gateway);
    lab.hear_nothing(client);
}

#[test]
fn filters_change_in_place() {
    let mut lab = Lab::new(POLICY);
    let (gateway, _) = lab.gateway("gw-1", key(1));
    let (idle, _) = lab.gateway("gw-2", key(4));
    let (client, _) = lab.client("alice", key(2));
    let request = json!({
        "resource_id": lab.resource_id("web"),
        "connected_gateway_ids": [lab.gateway_id("gw-1")],
    });
    lab.say(client, "client", "request_authorization", request);
    lab.confirm(gateway);
    lab.hear(client, "authorization_created");
    lab.set_policy(&POLICY.replace("[\"tcp/443\"]", "[\"tcp/443\", \"icmp\"]"));
    let filters = json!([
        { "protocol": "tcp", "port_range_start": 443, "port_range_end": 443 },
        { "protocol": "icmp" },
    ]);
    assert_eq!(lab.hear(gateway, "resource_updated")["filters"], filters);
    assert_eq!(lab.hear(client, "resource_created_or_updated")["filters"], filters);
    lab.hear_nothing(gateway);
    lab.hear_nothing(client);
    lab.hear_nothing(idle);
}

#[test]
fn a_request_under_way_is_repeated_with_the_filters_of_now() {
    let mut lab = Lab::new(POLICY);
    let (gateway, _) = lab.gateway("gw-1", key(1));
    let (client, _) = lab.client("alice", key(2));
    lab.request(client, "web");
    lab.hear(gateway, "create_authorization");
    lab.set_policy(&POLICY.replace("[\"tcp/443\"]", "[\"icmp\"]"));
    lab.hear(gateway, "resource_updated");
    lab.wait(Duration::from_secs(2));
    lab.request(client, "web");
    let create = lab.hear(gateway, "create_authorization");
    assert_eq!(create["resource"]["filters"], json!([{ "protocol": "icmp" }]));
}

#[test]
fn another_address_is_another_resource_to_the_gateway_and_the_client() {
    let mut lab = Lab::new(POLICY);
    let (gateway, _) = lab.gateway("gw-1", key(1));
    let (client, _) = lab.client("alice", key(2));
    lab.authorize(client, gateway, "net");
    let (net, rejected) = (lab.resource_id("net"), pair(&lab, "alice", "net"));
    lab.set_policy(&POLICY.replace("10.88.0.0/24", "10.77.0.0/24"));
    assert_eq!(lab.hear(gateway, "reject_access"), rejected);
    assert_eq!(lab.hear(client, "resource_deleted"), json!(net));
    let resource = lab.hear(client, "resource_created_or_updated");
    assert_eq!((&resource["id"], &resource["address"]), (&json!(net), &json!("10.77.0.0/24")));
}

#[test]
fn a_gateway_that_leaves_the_policy_is_signed_out_and_its_clients_ask_anew() {
    let mut lab = Lab::new(POLICY);
    let (gateway, _) = lab.gateway("gw-1", key(1));
    let (client, _) = lab.client("alice", key(2));
    lab.authorize(client, gateway, "net");
    let net = lab.resource_id("net");
    lab.set_policy(&POLICY.replace("[[gateway]]\nname = \"gw-1\"\nsite = \"hq\"\n", ""));
    lab.hear(gateway, "reject_access");
    assert_eq!(lab.hear(gateway, "disconnect")["reason"], "token_expired");
    assert_eq!(lab.closed, [(gateway, CloseReason::TokenEnded)]);
    assert_eq!(lab.hear(client, "resource_deleted"), json!(net));
    assert_eq!(lab.hear(client, "resource_created_or_updated")["id"], net);
}

#[test]
fn a_client_that_leaves_the_policy_is_signed_out() {
    let mut lab = Lab::new(POLICY);
    let (gateway, _) = lab.gateway("gw-1", key(1));
    let (client, _) = lab.client("alice", key(2));
    lab.authorize(client, gateway, "net");
    let text = POLICY.replace("[[client]]\nname = \"alice\"\n", "");
    lab.set_policy(&text.replace("clients = [\"alice\"]", "clients = [\"bob\"]"));
    lab.hear(gateway, "reject_access");
    assert_eq!(lab.hear(client, "disconnect")["reason"], "token_expired");
    assert_eq!(lab.closed, [(client, CloseReason::TokenEnded)]);
}

#[test]
fn resolvers_change_while_clients_run() {
    let mut lab = Lab::new(POLICY);
    let (client, init) = lab.client("alice", key(2));
    assert_eq!(init["interface"]["upstream_do53"], json!([]));
    assert_eq!(init["interface"]["search_domain"], json!(null));
    let dns = "[dns]\nupstream_do53 = [\"9.9.9.9\"]\nsearch_domain = \"corp.example\"\n";
    lab.set_policy(&format!("{POLICY}{dns}"));
    let interface = &lab.hear(client, "config_changed")["interface"];
    assert_eq!(interface["upstream_do53"], json!([{ "ip": "9.9.9.9" }]));
    assert_eq!(interface["search_domain"], "corp.example");
    assert_eq!(interface["ipv4"], init["interface"]["ipv4"]);
}

#[test]
fn a_policy_ends_on_its_date_also_for_what_runs() {
    // Unix second 1 000 100; the lab begins at 1 000 000.
    let text = POLICY.replace(
        "resources = [\"net\", \"web\"]",
        "resources = [\"net\", \"web\"]\nexpires = 1970-01-12T13:48:20Z",
    );
    let mut lab = Lab::new(&text);
    let (gateway, _) = lab.gateway("gw-1", key(1));
    let (client, _) = lab.client("alice", key(2));
    lab.request(client, "net");
    assert_eq!(lab.confirm(gateway)["expires_at"], 1_000_100);
    lab.hear(client, "authorization_created");
    lab.wait(Duration::from_secs(99));
    lab.hear_nothing(gateway);
    lab.hear_nothing(client);
    lab.wait(Duration::from_secs(1));
    let rejected = pair(&lab, "alice", "net");
    assert_eq!(lab.hear(gateway, "reject_access"), rejected);
    lab.hear(client, "resource_deleted");
    lab.hear(client, "resource_deleted");
    lab.hear_nothing(client);
    assert_eq!(lab.store.authorizations().unwrap(), []);
}

#[test]
fn a_session_that_is_too_long_ends_and_the_client_asks_anew() {
    let text = POLICY.replace(
        "resources = [\"net\", \"web\"]",
        "resources = [\"net\", \"web\"]\nmax_session = \"1h\"",
    );
    let mut lab = Lab::new(&text);
    let (gateway, _) = lab.gateway("gw-1", key(1));
    let (client, _) = lab.client("alice", key(2));
    lab.request(client, "net");
    assert_eq!(lab.confirm(gateway)["expires_at"], 1_003_600);
    lab.hear(client, "authorization_created");
    lab.wait(Duration::from_secs(3_600));
    let net = lab.resource_id("net");
    lab.hear(gateway, "reject_access");
    assert_eq!(lab.hear(client, "resource_deleted"), json!(net));
    assert_eq!(lab.hear(client, "resource_created_or_updated")["id"], net);
    lab.hear_nothing(client);
    lab.authorize(client, gateway, "net");
}

/// Gateways look at their own clocks: one that is a blink ahead sends its client away, which asks anew before the session
/// has ended here. Taking back the old session must not take the new one along.
#[test]
fn a_client_that_asks_anew_as_its_session_ends_keeps_the_new_one() {
    let text = POLICY.replace(
        "resources = [\"net\", \"web\"]",
        "resources = [\"net\", \"web\"]\nmax_session = \"1h\"",
    );
    let mut lab = Lab::new(&text);
    let (gateway, _) = lab.gateway("gw-1", key(1));
    let (client, _) = lab.client("alice", key(2));
    lab.authorize(client, gateway, "net");
    lab.wait(Duration::from_secs(3_599));
    lab.request(client, "net");
    let create = lab.hear(gateway, "create_authorization");
    lab.wait(Duration::from_secs(1));
    lab.hear_nothing(gateway);
    lab.hear_nothing(client);
    lab.say(gateway, "gateway", "authorization_created", json!({ "ref": create["ref"] }));
    lab.hear(client, "authorization_created");
    assert_eq!(lab.store.authorizations().unwrap().len(), 1);
}

#[test]
fn an_expired_token_ends_the_session_and_what_it_was_authorized_for() {
    let mut lab = Lab::new(POLICY);
    let (gateway, _) = lab.gateway("gw-1", key(1));
    let client = lab.connect_client_until("alice", key(2), Some(1_000_050));
    lab.join(client, "client", Value::Null);
    lab.request(client, "net");
    assert_eq!(lab.confirm(gateway)["expires_at"], 1_000_050);
    lab.hear(client, "authorization_created");
    lab.wait(Duration::from_secs(50));
    lab.hear(gateway, "reject_access");
    assert_eq!(lab.hear(client, "disconnect")["reason"], "token_expired");
    assert_eq!(lab.closed, [(client, CloseReason::TokenEnded)]);
}

#[test]
fn a_revoked_token_ends_connections_and_authorizations_also_of_a_client_that_is_away() {
    let mut lab = Lab::new(POLICY);
    let (gateway, _) = lab.gateway("gw-1", key(1));
    let (client, _) = lab.client("alice", key(2));
    lab.authorize(client, gateway, "net");
    lab.disconnect(client);
    lab.hear_nothing(gateway);
    lab.revoke("alice-token");
    let rejected = pair(&lab, "alice", "net");
    assert_eq!(lab.hear(gateway, "reject_access"), rejected);
    lab.revoke("gw-1-token");
    assert_eq!(lab.hear(gateway, "disconnect")["reason"], "token_expired");
    assert_eq!(lab.closed, [(gateway, CloseReason::TokenEnded)]);
}

#[test]
fn an_end_beyond_all_clocks_is_none() {
    let mut lab = Lab::new(POLICY);
    let (gateway, _) = lab.gateway("gw-1", key(1));
    let client = lab.connect_client_until("alice", key(2), Some(u64::MAX));
    lab.join(client, "client", Value::Null);
    lab.authorize(client, gateway, "net");
    lab.wait(Duration::from_secs(1_000));
    lab.hear_nothing(client);
    // It is looked at now and then all the same, since the wall clock may jump.
    lab.disconnect(client);
    lab.disconnect(gateway);
    assert!(lab.wake_at.is_some_and(|at| at <= lab.now.instant + Duration::from_secs(60)));
}

#[test]
fn the_wall_clock_may_jump() {
    let mut lab = Lab::new(POLICY);
    let client = lab.connect_client_until("alice", key(2), Some(2_000_000));
    lab.join(client, "client", Value::Null);
    lab.now.unix = 2_000_000;
    lab.wait(Duration::from_secs(60));
    lab.hear(client, "disconnect");
}
