//! Gateways, clients and the portal itself come and go; what works goes on working.

use std::time::Duration;

use serde_json::{Value, json};

use crate::lab::{Lab, POLICY, key};

#[test]
fn a_restarted_gateway_gets_the_authorizations_of_its_clients_by_itself() {
    let mut lab = Lab::new(POLICY);
    let (gateway, _) = lab.gateway("gw-1", key(1));
    let (client, _) = lab.client("alice", key(2));
    lab.authorize(client, gateway, "net");
    lab.authorize(client, gateway, "web");
    lab.disconnect(gateway);
    lab.wait(Duration::from_secs(1));
    lab.hear_nothing(client);

    let (gateway, _) = lab.gateway("gw-1", key(9));

    lab.hear_nothing(client);
    for _ in 0..2 {
        let create = lab.confirm(gateway);
        let created = lab.hear(client, "authorization_created");
        assert_eq!(created["gateway_public_key"], key(9).to_base64());
        assert_eq!(created["preshared_key"], create["client"]["preshared_key"]);
        assert_eq!(created["resource_id"], create["resource"]["id"]);
    }
    lab.hear_nothing(gateway);
    lab.hear_nothing(client);
    // The next restart starts from there.
    assert!(lab.store.authorizations().unwrap().iter().all(|a| a.gateway_key == key(9)));
}

#[test]
fn many_authorizations_move_to_a_restarted_gateway_some_at_a_time() {
    let mut text = POLICY.to_owned();
    let names: Vec<_> = (0..40).map(|n| format!("net-{n}")).collect();
    for (n, name) in names.iter().enumerate() {
        text += &format!(
            "[[resource]]\nname = \"{name}\"\ntype = \"cidr\"\naddress = \"10.0.{n}.0/24\"\n\
             sites = [\"hq\"]\n[[policy]]\nname = \"{name}\"\nclients = [\"alice\"]\n\
             resources = [\"{name}\"]\n"
        );
    }
    let mut lab = Lab::new(&text);
    let (gateway, _) = lab.gateway("gw-1", key(1));
    let (client, _) = lab.client("alice", key(2));
    for name in &names {
        lab.authorize(client, gateway, name);
    }
    lab.disconnect(gateway);
    let (gateway, _) = lab.gateway("gw-1", key(9));
    assert_eq!(lab.unheard(gateway), 16);
    for _ in &names {
        lab.confirm(gateway);
        lab.hear(client, "authorization_created");
    }
    lab.hear_nothing(gateway);
}

#[test]
fn a_client_that_was_away_while_its_gateway_restarted_is_told_when_it_is_back() {
    let mut lab = Lab::new(POLICY);
    let (gateway, _) = lab.gateway("gw-1", key(1));
    let (client, _) = lab.client("alice", key(2));
    lab.authorize(client, gateway, "net");
    lab.disconnect(client);
    lab.disconnect(gateway);
    let (gateway, _) = lab.gateway("gw-1", key(9));
    lab.hear_nothing(gateway);
    let (client, _) = lab.client("alice", key(2));
    lab.confirm(gateway);
    lab.hear(client, "authorization_created");
}

#[test]
fn a_restarted_gateway_that_does_not_answer_shall_forget_what_it_was_asked() {
    let mut lab = Lab::new(POLICY);
    let (gateway, _) = lab.gateway("gw-1", key(1));
    let (client, _) = lab.client("alice", key(2));
    lab.authorize(client, gateway, "net");
    lab.disconnect(gateway);
    let (gateway, _) = lab.gateway("gw-1", key(9));
    lab.hear(gateway, "create_authorization");
    lab.wait(Duration::from_secs(15));
    lab.hear(gateway, "reject_access");
    // The client did not ask, so it is told nothing; its next request starts anew.
    lab.hear_nothing(client);
    lab.authorize(client, gateway, "net");
}

#[test]
fn a_client_that_reconnects_with_its_key_disturbs_nothing() {
    let mut lab = Lab::new(POLICY);
    let (gateway, _) = lab.gateway("gw-1", key(1));
    let (client, first) = lab.client("alice", key(2));
    lab.authorize(client, gateway, "net");
    lab.disconnect(client);
    let (client, second) = lab.client("alice", key(2));
    assert_eq!(first, second);
    lab.hear_nothing(gateway);
    lab.hear_nothing(client);
}

#[test]
fn a_restarted_client_leaves_nothing_behind() {
    let mut lab = Lab::new(POLICY);
    let (gateway, _) = lab.gateway("gw-1", key(1));
    let (client, _) = lab.client("alice", key(2));
    lab.authorize(client, gateway, "net");
    let (client, _) = lab.client("alice", key(3));
    lab.hear(gateway, "reject_access");
    assert_eq!(lab.store.authorizations().unwrap(), []);
    lab.authorize(client, gateway, "net");
}

#[test]
fn a_gateway_that_reconnects_hears_all_that_still_holds() {
    let mut lab = Lab::new(POLICY);
    let (gateway, _) = lab.gateway("gw-1", key(1));
    let (client, _) = lab.client("alice", key(2));
    lab.authorize(client, gateway, "net");
    lab.authorize(client, gateway, "web");
    lab.disconnect(gateway);
    lab.set_policy(&POLICY.replace("resources = [\"net\", \"web\"]", "resources = [\"web\"]"));
    lab.hear(client, "resource_deleted");
    let (gateway, init) = lab.gateway("gw-1", key(1));
    let web = json!({
        "client_id": lab.client_id("alice"),
        "resource_id": lab.resource_id("web"),
        "expires_at": null,
    });
    assert_eq!(init["authorizations"], json!([web]));
    lab.hear_nothing(gateway);
    lab.hear_nothing(client);
}

#[test]
fn a_restart_of_the_portal_revokes_nothing() {
    let text = POLICY.replace(
        "resources = [\"net\", \"web\"]",
        "resources = [\"net\", \"web\"]\nmax_session = \"1h\"",
    );
    let mut lab = Lab::new(&text);
    let (gateway, _) = lab.gateway("gw-1", key(1));
    let (client, _) = lab.client("alice", key(2));
    lab.authorize(client, gateway, "net");
    lab.wait(Duration::from_secs(600));

    lab.restart_portal();

    let (gateway, init) = lab.gateway("gw-1", key(1));
    let net = json!({
        "client_id": lab.client_id("alice"),
        "resource_id": lab.resource_id("net"),
        "expires_at": 1_003_600,
    });
    assert_eq!(init["authorizations"], json!([net]));
    let (client, _) = lab.client("alice", key(2));
    lab.hear_nothing(gateway);
    lab.hear_nothing(client);
    // And it ends when it would have ended.
    lab.wait(Duration::from_secs(3_000));
    lab.hear(gateway, "reject_access");
}

#[test]
fn a_gateway_and_the_portal_that_restart_together_find_their_clients_again() {
    let mut lab = Lab::new(POLICY);
    let (gateway, _) = lab.gateway("gw-1", key(1));
    let (client, _) = lab.client("alice", key(2));
    lab.authorize(client, gateway, "net");
    lab.restart_portal();
    let (client, _) = lab.client("alice", key(2));
    let (gateway, _) = lab.gateway("gw-1", key(9));
    lab.confirm(gateway);
    lab.hear(client, "authorization_created");
}

#[test]
fn what_the_policy_forbids_by_now_does_not_survive_a_restart_of_the_portal() {
    let mut lab = Lab::new(POLICY);
    let (gateway, _) = lab.gateway("gw-1", key(1));
    let (client, _) = lab.client("alice", key(2));
    lab.authorize(client, gateway, "net");
    // The file changed while no portal ran.
    let before = lab.store.authorizations().unwrap();
    lab.set_policy(&POLICY.replace("resources = [\"net\", \"web\"]", "resources = [\"web\"]"));
    let change = connlib_portal::store::Change::PutAuthorization(before[0].clone());
    lab.store.apply(&change, 0).unwrap();
    lab.restart_portal();
    assert_eq!(lab.store.authorizations().unwrap(), []);
    assert_eq!(lab.gateway("gw-1", key(1)).1["authorizations"], Value::Array(Vec::new()));
}
