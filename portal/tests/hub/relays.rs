//! Relays come and go; each peer has two if there are two.

use std::collections::BTreeSet;
use std::time::Duration;

use connlib_portal::hub::CloseReason;
use serde_json::{Value, json};

use crate::lab::{Lab, POLICY, key};

const STATIC: &str = r#"
[[relay]]
name = "turn"
type = "turn"
addresses = ["203.0.113.5:3478", "[2001:db8::5]:3478"]
username = "u"
password = "p"
[[relay]]
name = "stun"
type = "stun"
addresses = ["198.51.100.7:3478"]
"#;

fn ids(relays: &Value) -> BTreeSet<String> {
    let relays = relays.as_array().expect("a list").iter();
    relays.map(|relay| relay["id"].as_str().expect("an id").to_owned()).collect()
}

#[test]
fn relays_of_the_file_are_handed_out_as_they_are() {
    let mut lab = Lab::new(&format!("{POLICY}{STATIC}"));
    let (_, init) = lab.client("alice", key(2));
    let relays = init["relays"].as_array().unwrap();
    let turn: Vec<_> = relays.iter().filter(|relay| relay["type"] == "turn").collect();
    let addresses: Vec<_> = turn.iter().map(|relay| &relay["addr"]).collect();
    assert_eq!(addresses, ["203.0.113.5:3478", "[2001:db8::5]:3478"]);
    assert_eq!(turn[0]["id"], turn[1]["id"]);
    assert_eq!((&turn[0]["username"], &turn[0]["password"]), (&json!("u"), &json!("p")));
    let stun: Vec<_> = relays.iter().filter(|relay| relay["type"] == "stun").collect();
    assert_eq!(stun.len(), 1);
    assert_eq!(stun[0]["addr"], "198.51.100.7:3478");
}

#[test]
fn a_relay_that_joins_is_handed_out_after_a_second() {
    let mut lab = Lab::new(POLICY);
    let (client, init) = lab.client("alice", key(2));
    let (gateway, _) = lab.gateway("gw-1", key(1));
    assert_eq!(init["relays"], json!([]));
    lab.say(client, "client", "no_relays", json!({}));
    let none = json!({ "disconnected_ids": [], "connected": [] });
    assert_eq!(lab.hear(client, "relays_presence"), none);

    // The stamp secret and the id are those of a recorded session.
    lab.relay(5, "3e936fa3a500a3bfd471119b58e53c3ce4036bdabb686ab5d3d86072190f388c");
    lab.hear_nothing(client);
    lab.wait(Duration::from_secs(1));

    let presence = lab.hear(client, "relays_presence");
    let relay = &presence["connected"][0];
    assert_eq!(presence["connected"].as_array().unwrap().len(), 1);
    assert_eq!(relay["id"], "f0044ae1-d86b-4afd-bb80-412e72b09b43");
    assert_eq!(relay["addr"], "203.0.113.5:3478");
    let user = relay["username"].as_str().unwrap();
    assert!(user.starts_with("2145916800:"), "{user}");
    assert_ne!(lab.hear(gateway, "relays_presence")["connected"][0]["username"], *user);

    lab.say(client, "client", "no_relays", json!({}));
    assert_eq!(lab.hear(client, "relays_presence")["connected"][0], *relay);
    // And to those who come later, from the start.
    assert_eq!(lab.client("bob", key(3)).1["relays"].as_array().unwrap().len(), 1);
}

#[test]
fn credentials_of_a_client_end_with_its_token() {
    let mut lab = Lab::new(POLICY);
    lab.relay(5, "secret");
    let client = lab.connect_client_until("alice", key(2), Some(1_000_500));
    let init = lab.join(client, "client", Value::Null);
    assert_eq!(init["relays"][0]["expires_at"], 1_000_500);
}

#[test]
fn a_short_absence_of_a_relay_is_none() {
    let mut lab = Lab::new(POLICY);
    let relay = lab.relay(5, "secret");
    lab.wait(Duration::from_secs(1));
    let (client, _) = lab.client("alice", key(2));
    lab.disconnect(relay);
    lab.wait(Duration::from_millis(900));
    lab.set_policy(POLICY);
    lab.relay(5, "secret");
    lab.wait(Duration::from_secs(10));
    lab.hear_nothing(client);
}

#[test]
fn a_relay_that_restarts_or_goes_is_replaced() {
    let mut lab = Lab::new(POLICY);
    let relays: Vec<_> = (1..=3).map(|n| lab.relay(n, &format!("secret {n}"))).collect();
    lab.wait(Duration::from_secs(1));
    let (client, init) = lab.client("alice", key(2));
    let given = ids(&init["relays"]);
    assert_eq!(given.len(), 2);
    // All three go, one after the other; the client always has what there is.
    let mut known = given;
    for (relay, left) in relays.into_iter().zip([2, 1, 0]) {
        lab.disconnect(relay);
        lab.wait(Duration::from_secs(1));
        if lab.unheard(client) > 0 {
            let presence = lab.hear(client, "relays_presence");
            for gone in presence["disconnected_ids"].as_array().unwrap() {
                assert!(known.remove(gone.as_str().unwrap()));
            }
            known.extend(ids(&presence["connected"]));
        }
        assert_eq!(known.len(), left);
    }
}

#[test]
fn a_relay_that_is_back_with_another_secret_replaces_the_old_one_at_once() {
    let mut lab = Lab::new(POLICY);
    let relay = lab.relay(1, "a secret");
    lab.wait(Duration::from_secs(1));
    let (client, init) = lab.client("alice", key(2));
    lab.disconnect(relay);
    lab.relay(1, "another secret");
    lab.wait(Duration::ZERO);
    let presence = lab.hear(client, "relays_presence");
    let gone = presence["disconnected_ids"][0].as_str().unwrap();
    assert!(ids(&init["relays"]).contains(gone));
    assert_eq!(ids(&presence["connected"]).len(), 1);
}

#[test]
fn a_client_keeps_its_two_relays_when_a_third_one_comes() {
    let mut lab = Lab::new(POLICY);
    for n in 1..=2 {
        lab.relay(n, &format!("secret {n}"));
    }
    lab.wait(Duration::from_secs(1));
    let clients: Vec<_> = ["alice", "bob"].map(|name| lab.client(name, key(2)).0).into();
    for n in 3..=9 {
        lab.relay(n, &format!("secret {n}"));
    }
    lab.wait(Duration::from_secs(5));
    for client in clients {
        lab.hear_nothing(client);
    }
}

#[test]
fn a_restart_of_the_portal_takes_no_relay_away() {
    let mut lab = Lab::new(POLICY);
    for n in 1..=2 {
        lab.relay(n, &format!("secret {n}"));
    }
    let (_, before) = lab.client("alice", key(2));
    lab.restart_portal();
    let (client, init) = lab.client("alice", key(2));
    assert_eq!(init["relays"], before["relays"]);
    // One comes back, the other one does not.
    lab.relay(1, "secret 1");
    lab.wait(Duration::from_secs(119));
    lab.hear_nothing(client);
    lab.wait(Duration::from_secs(2));
    let presence = lab.hear(client, "relays_presence");
    assert_eq!(presence["disconnected_ids"].as_array().unwrap().len(), 1);
    assert_eq!(presence["connected"], json!([]));
    assert_eq!(lab.store.relays().unwrap().len(), 1);
}

#[test]
fn a_relay_whose_token_is_revoked_is_withdrawn_at_once() {
    let mut lab = Lab::new(POLICY);
    let relay = lab.relay(1, "secret");
    let (client, init) = lab.client("alice", key(2));
    lab.revoke("relay-token");
    assert_eq!(lab.hear(relay, "disconnect")["reason"], "token_expired");
    let presence = lab.hear(client, "relays_presence");
    assert_eq!(presence["disconnected_ids"][0], init["relays"][0]["id"]);
    assert_eq!(lab.store.relays().unwrap(), []);
}

#[test]
fn a_relay_must_say_its_secret() {
    let mut lab = Lab::new(POLICY);
    let relay = lab.connect_relay(1);
    lab.say(relay, "relay", "phx_join", json!({}));
    let reply = lab.hear(relay, "phx_reply");
    assert_eq!(reply["response"]["reason"], "invalid_stamp_secret");
    assert_eq!(lab.closed, [(relay, CloseReason::Left)]);
}

#[test]
fn a_gateway_without_relays_is_given_some_and_asked_again() {
    let mut lab = Lab::new(&format!("{POLICY}{STATIC}"));
    let (gateway, _) = lab.gateway("gw-1", key(1));
    let (client, _) = lab.client("alice", key(2));
    lab.request(client, "net");
    let create = lab.hear(gateway, "create_authorization");
    lab.wait(Duration::from_secs(1));
    lab.say(gateway, "gateway", "no_relays", json!({}));
    lab.hear(gateway, "relays_presence");
    assert_eq!(lab.hear(gateway, "create_authorization"), create);
    // It says so again at once: that is no reason to go round in circles.
    lab.say(gateway, "gateway", "no_relays", json!({}));
    lab.hear(gateway, "relays_presence");
    lab.hear_nothing(gateway);
}
