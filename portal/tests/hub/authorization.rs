//! From the request of a client to the answer of a gateway, and all that may go wrong between.

use std::time::Duration;

use crate::lab::{Lab, POLICY, key};
use serde_json::json;

#[test]
fn the_client_hears_of_the_gateway_once_the_gateway_is_ready() {
    let mut lab = Lab::new(POLICY);
    let (gateway, init) = lab.gateway("gw-1", key(1));
    assert_eq!(init["authorizations"], json!([]));
    assert_eq!(init["account_slug"], "lab");
    assert_eq!(init["flow_logs"]["upload_interval_secs"], 0);
    let (client, init) = lab.client("alice", key(2));
    assert_eq!(init["flow_logs"]["upload_interval_secs"], 0);
    let names: Vec<_> = init["resources"].as_array().unwrap().iter().map(|r| &r["name"]).collect();
    assert_eq!(names.len(), 2);
    assert!(names.contains(&&json!("net")) && names.contains(&&json!("web")));

    lab.request(client, "web");
    lab.hear_nothing(client);
    let create = lab.confirm(gateway);
    let created = lab.hear(client, "authorization_created");

    assert_eq!(create["resource"]["type"], "dns");
    assert_eq!(create["resource"]["address"], "web.example");
    assert_eq!(
        create["resource"]["filters"],
        json!([{ "protocol": "tcp", "port_range_start": 443, "port_range_end": 443 }])
    );
    assert_eq!(create["expires_at"], json!(null));
    assert_eq!(create["client"]["id"], lab.client_id("alice").to_string());
    assert_eq!(create["client"]["public_key"], key(2).to_base64());
    assert_eq!(create["client"]["ipv4"], init["interface"]["ipv4"]);
    assert_eq!(created["gateway_id"], lab.gateway_id("gw-1").to_string());
    assert_eq!(created["gateway_public_key"], key(1).to_base64());
    // Both ends hold the same secrets.
    assert_eq!(created["preshared_key"], create["client"]["preshared_key"]);
    for side in ["client_ice_credentials", "gateway_ice_credentials"] {
        assert_eq!(created[side], create[side]);
    }
    for message in [&create, &created] {
        let token = message["flow_logs_ingest_token"].as_str().unwrap();
        assert_eq!(token.split('.').count(), 3);
    }
}

#[test]
fn secrets_of_a_pair_stay_while_both_keep_their_keys() {
    let mut lab = Lab::new(POLICY);
    let (gateway, _) = lab.gateway("gw-1", key(1));
    let (client, _) = lab.client("alice", key(2));
    let mut secrets = Vec::new();
    for (resource, client_key) in [("net", 2), ("web", 2), ("net", 3)] {
        let client = match client_key {
            2 => client,
            _ => {
                let (client, _) = lab.client("alice", key(client_key));
                lab.hear(gateway, "reject_access");
                lab.hear(gateway, "reject_access");
                client
            }
        };
        lab.request(client, resource);
        let create = lab.confirm(gateway);
        secrets.push((
            create["client"]["preshared_key"].clone(),
            create["client_ice_credentials"].clone(),
        ));
    }
    assert_eq!(secrets[0], secrets[1]);
    assert_ne!(secrets[0].0, secrets[2].0);
    assert_ne!(secrets[0].1, secrets[2].1);
}

#[test]
fn what_no_policy_allows_is_forbidden_and_what_does_not_exist_is_not_found() {
    let mut lab = Lab::new(POLICY);
    let (gateway, _) = lab.gateway("gw-dc", key(1));
    let (client, _) = lab.client("alice", key(2));
    lab.request(client, "vault");
    let failed = lab.hear(client, "authorization_creation_failed");
    assert_eq!(failed["reason"], "forbidden");
    assert_eq!(failed["resource_id"], lab.resource_id("vault"));

    let unknown = "9f1e952f-78e4-4439-a244-53b065c2ff0c";
    let request = json!({ "resource_id": unknown, "connected_gateway_ids": [] });
    lab.say(client, "client", "request_authorization", request);
    let failed = lab.hear(client, "authorization_creation_failed");
    assert_eq!(
        (failed["reason"].as_str(), failed["resource_id"].as_str()),
        (Some("not_found"), Some(unknown))
    );
    lab.hear_nothing(gateway);
}

#[test]
fn without_a_gateway_the_resource_is_offline_at_once() {
    let mut lab = Lab::new(POLICY);
    lab.gateway("gw-dc", key(1));
    lab.connect_gateway("gw-1", key(3)); // It has not joined.
    let (client, _) = lab.client("alice", key(2));
    lab.request(client, "net");
    assert_eq!(lab.hear(client, "authorization_creation_failed")["reason"], "offline");
}

#[test]
fn a_gateway_that_does_not_answer_is_offline_after_15_seconds() {
    let mut lab = Lab::new(POLICY);
    let (gateway, _) = lab.gateway("gw-1", key(1));
    let (client, _) = lab.client("alice", key(2));
    lab.request(client, "net");
    let create = lab.hear(gateway, "create_authorization");
    lab.wait(Duration::from_millis(14_999));
    lab.hear_nothing(client);
    lab.wait(Duration::from_millis(1));
    assert_eq!(lab.hear(client, "authorization_creation_failed")["reason"], "offline");
    // It may have come to life in between: it shall not grant what nobody waits for.
    lab.hear(gateway, "reject_access");
    lab.say(gateway, "gateway", "authorization_created", json!({ "ref": create["ref"] }));
    lab.hear_nothing(client);
    assert_eq!(lab.store.authorizations().unwrap(), []);
}

#[test]
fn a_client_that_asks_again_makes_the_gateway_hear_the_same_again_and_not_too_often() {
    let mut lab = Lab::new(POLICY);
    let (gateway, _) = lab.gateway("gw-1", key(1));
    let (client, _) = lab.client("alice", key(2));
    lab.request(client, "net");
    let first = lab.hear(gateway, "create_authorization");
    for _ in 0..100 {
        lab.request(client, "net");
    }
    lab.hear_nothing(gateway);
    lab.wait(Duration::from_secs(2));
    lab.request(client, "net");
    assert_eq!(lab.confirm(gateway), first);
    lab.hear(client, "authorization_created");
    lab.hear_nothing(client);
}

#[test]
fn only_the_gateway_that_was_asked_can_confirm() {
    let mut lab = Lab::new(POLICY);
    let (gateway, _) = lab.gateway("gw-1", key(1));
    let (client, _) = lab.client("alice", key(2));
    let (other, _) = lab.gateway("gw-dc", key(3));
    lab.request(client, "net");
    let create = lab.hear(gateway, "create_authorization");
    lab.say(other, "gateway", "authorization_created", json!({ "ref": create["ref"] }));
    lab.say(gateway, "gateway", "authorization_created", json!({ "ref": "made up" }));
    lab.hear_nothing(client);
    lab.say(gateway, "gateway", "authorization_created", json!({ "ref": create["ref"] }));
    lab.hear(client, "authorization_created");
}

#[test]
fn a_gateway_that_the_client_is_connected_to_comes_first() {
    let mut lab = Lab::new(POLICY);
    let gateways = [lab.gateway("gw-1", key(1)).0, lab.gateway("gw-2", key(2)).0];
    let ids = [lab.gateway_id("gw-1"), lab.gateway_id("gw-2")];
    let (client, _) = lab.client("alice", key(3));
    let mut moved = false;
    for n in [0, 1, 0] {
        let request =
            json!({ "resource_id": lab.resource_id("web"), "connected_gateway_ids": [ids[n]] });
        lab.say(client, "client", "request_authorization", request);
        lab.confirm(gateways[n]);
        assert_eq!(lab.hear(client, "authorization_created")["gateway_id"], ids[n].to_string());
        // What moved away from a gateway has ended there.
        let left = gateways[1 - n];
        assert_eq!(lab.unheard(left), usize::from(moved));
        if moved {
            lab.hear(left, "reject_access");
        }
        moved = true;
    }
}

#[test]
fn all_resources_of_a_site_go_through_one_gateway_and_the_other_takes_over() {
    let mut lab = Lab::new(POLICY);
    let gateways = [lab.gateway("gw-1", key(1)).0, lab.gateway("gw-2", key(2)).0];
    let (client, _) = lab.client("alice", key(3));
    lab.request(client, "net");
    lab.request(client, "web");
    let chosen = usize::from(lab.unheard(gateways[0]) == 0);
    let (chosen, other) = (gateways[chosen], gateways[1 - chosen]);
    lab.hear_nothing(other);
    // It goes before it answers: the other one is asked, and the client never knows.
    lab.disconnect(chosen);
    lab.confirm(other);
    lab.confirm(other);
    lab.hear(client, "authorization_created");
    lab.hear(client, "authorization_created");
}

#[test]
fn candidates_go_both_ways_between_those_who_have_an_authorization_in_common() {
    let mut lab = Lab::new(POLICY);
    let (gateway, _) = lab.gateway("gw-1", key(1));
    let (stranger, _) = lab.gateway("gw-dc", key(4));
    let (client, _) = lab.client("alice", key(2));
    let (bystander, _) = lab.client("bob", key(3));
    lab.authorize(client, gateway, "net");
    let ids = [lab.client_id("alice"), lab.client_id("bob")];
    let gateway_id = lab.gateway_id("gw-1");

    let candidates = json!(["candidate:1 1 udp 2130706175 10.0.0.1 52625 typ host"]);
    for (say, hear) in [
        ("new_gateway_ice_candidates", "ice_candidates"),
        ("invalidate_gateway_ice_candidates", "invalidate_ice_candidates"),
    ] {
        let message = json!({ "gateway_id": gateway_id, "candidates": candidates });
        lab.say(client, "client", say, message.clone());
        let heard = lab.hear(gateway, hear);
        assert_eq!(heard, json!({ "client_id": ids[0], "candidates": candidates }));
        lab.say(bystander, "client", say, message);
        lab.hear_nothing(gateway);
    }
    for (say, hear) in [
        ("broadcast_ice_candidates", "gateway_ice_candidates"),
        ("broadcast_invalidated_ice_candidates", "invalidate_gateway_ice_candidates"),
    ] {
        let message = json!({ "client_ids": ids, "candidates": candidates });
        lab.say(gateway, "gateway", say, message.clone());
        let heard = lab.hear(client, hear);
        assert_eq!(heard, json!({ "gateway_id": gateway_id, "candidates": candidates }));
        lab.say(stranger, "gateway", say, message);
        lab.hear_nothing(client);
    }
    lab.hear_nothing(bystander);
}

#[test]
fn too_many_and_too_long_candidates_are_left_out() {
    let mut lab = Lab::new(POLICY);
    let (gateway, _) = lab.gateway("gw-1", key(1));
    let (client, _) = lab.client("alice", key(2));
    lab.authorize(client, gateway, "net");
    let mut candidates: Vec<_> = (0..1000).map(|n| format!("candidate:{n}")).collect();
    candidates[0] = "x".repeat(10_000);
    let message = json!({ "gateway_id": lab.gateway_id("gw-1"), "candidates": candidates });
    lab.say(client, "client", "new_gateway_ice_candidates", message);
    let heard = lab.hear(gateway, "ice_candidates");
    assert_eq!(heard["candidates"], json!(candidates[1..65]));
}
