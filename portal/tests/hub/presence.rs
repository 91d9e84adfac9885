//! The channel: joins, heartbeats, silence, second connections, nonsense.

use std::time::Duration;

use connlib_portal::hub::{AlreadyConnected, CloseReason};
use serde_json::{Value, json};

use crate::lab::{Lab, POLICY, key};

#[test]
fn heartbeats_are_answered_and_silence_ends_a_connection() {
    let mut lab = Lab::new(POLICY);
    let relay = lab.relay(5, "secret");
    let (client, _) = lab.client("alice", key(2));
    let (gateway, _) = lab.gateway("gw-1", key(1));
    for _ in 0..3 {
        lab.wait_in_silence(Duration::from_secs(10));
        lab.say(client, "phoenix", "heartbeat", json!({}));
        assert_eq!(lab.hear(client, "phx_reply")["status"], "ok");
    }
    lab.wait_in_silence(Duration::from_secs(10)); // 40 s
    assert_eq!(lab.closed, [(gateway, CloseReason::Silent)]);
    lab.wait_in_silence(Duration::from_secs(2)); // 42 s
    assert_eq!(lab.closed[1..], [(relay, CloseReason::Silent)]);
    lab.wait_in_silence(Duration::from_secs(30));
    assert_eq!(lab.closed[2..], [(client, CloseReason::Silent)]);
    assert_eq!(lab.hub.connections(), 0);
}

#[test]
fn a_connection_that_does_not_join_ends_after_5_seconds() {
    let mut lab = Lab::new(POLICY);
    let client = lab.connect_client("alice", key(2));
    lab.say(client, "phoenix", "heartbeat", json!({}));
    lab.hear(client, "phx_reply");
    lab.wait_in_silence(Duration::from_secs(5));
    assert_eq!(lab.closed, [(client, CloseReason::NotJoined)]);
}

#[test]
fn what_is_said_before_joining_or_to_another_topic_is_unmatched() {
    let mut lab = Lab::new(POLICY);
    let client = lab.connect_client("alice", key(2));
    for (topic, event) in [
        ("client", "no_relays"),
        ("gateway", "phx_join"),
        ("relay", "phx_join"),
        ("phoenix", "phx_join"),
    ] {
        lab.say(client, topic, event, json!({}));
        assert_eq!(lab.hear(client, "phx_reply")["response"]["reason"], "unmatched topic");
    }
    lab.join(client, "client", Value::Null);
    // A peer that heard "unmatched topic" joins again.
    lab.join(client, "client", Value::Null);
}

#[test]
fn nonsense_is_skipped() {
    let mut lab = Lab::new(POLICY);
    let (client, _) = lab.client("alice", key(2));
    for text in ["", "null", "[]", "{\"topic\":1}", "\u{0}", &"[".repeat(100_000)] {
        lab.hub.handle_text(client, text, lab.now);
    }
    lab.say(client, "client", "from_the_future", json!({ "x": 1 }));
    lab.say(client, "client", "request_authorization", json!({ "resource_id": 7 }));
    lab.say(client, "client", "request_authorization", Value::Null);
    lab.hear_nothing(client);
    assert_eq!(lab.closed, []);
    lab.say(client, "phoenix", "heartbeat", json!({}));
    lab.hear(client, "phx_reply");
}

#[test]
fn a_second_connection_of_a_client_replaces_the_first() {
    let mut lab = Lab::new(POLICY);
    let (first, _) = lab.client("alice", key(2));
    let (second, _) = lab.client("alice", key(3));
    assert_eq!(lab.closed, [(first, CloseReason::Replaced)]);
    // The news of its end comes late and must not hit the second.
    lab.disconnect(first);
    lab.say(second, "phoenix", "heartbeat", json!({}));
    lab.hear(second, "phx_reply");
    assert_eq!(lab.hub.connections(), 1);
}

#[test]
fn a_gateway_that_reconnects_replaces_its_dead_connection() {
    let mut lab = Lab::new(POLICY);
    let (first, _) = lab.gateway("gw-1", key(1));
    lab.gateway("gw-1", key(1));
    assert_eq!(lab.closed, [(first, CloseReason::Replaced)]);
}

#[test]
fn a_second_gateway_of_the_same_name_is_refused_while_the_first_lives() {
    let mut lab = Lab::new(POLICY);
    let (first, _) = lab.gateway("gw-1", key(1));
    assert_eq!(lab.try_connect_gateway("gw-1", key(9)), Err(AlreadyConnected));
    assert_eq!(lab.pinged, [first]);
    lab.hub.handle_alive(first, lab.now); // its pong
    lab.wait_in_silence(Duration::from_secs(3));
    assert_eq!(lab.closed, []);

    // And let in once the first is found dead.
    assert_eq!(lab.try_connect_gateway("gw-1", key(9)), Err(AlreadyConnected));
    lab.wait_in_silence(Duration::from_secs(1));
    assert_eq!(lab.try_connect_gateway("gw-1", key(9)), Err(AlreadyConnected));
    lab.wait_in_silence(Duration::from_secs(1));
    assert_eq!(lab.closed, [(first, CloseReason::Silent)]);
    assert_eq!(lab.pinged, [first, first]);
    lab.try_connect_gateway("gw-1", key(9)).unwrap();
}

#[test]
fn addresses_of_all_peers_differ() {
    let mut lab = Lab::new(POLICY);
    let inits = [
        lab.gateway("gw-1", key(1)).1,
        lab.gateway("gw-2", key(2)).1,
        lab.client("alice", key(3)).1,
        lab.client("bob", key(4)).1,
    ];
    let mut addresses: Vec<_> =
        inits.iter().map(|init| init["interface"]["ipv4"].clone()).collect();
    addresses.dedup();
    assert_eq!(addresses, ["100.64.0.1", "100.64.0.2", "100.64.0.3", "100.64.0.4"]);
}

#[test]
fn device_pools_are_not_found() {
    let mut lab = Lab::new(POLICY);
    let (client, _) = lab.client("alice", key(2));
    let query = json!({ "resource_id": lab.resource_id("net"), "domain": "x.example" });
    lab.say(client, "client", "resolve_device_pool_domain", query);
    let failed = lab.hear(client, "device_pool_domain_resolution_failed");
    assert_eq!(failed["reason"], "not_found");
    let candidates = json!({ "client_id": lab.client_id("bob"), "candidates": ["c"] });
    lab.say(client, "client", "new_client_ice_candidates", candidates);
    assert_eq!(lab.hear(client, "client_ice_candidate_error")["reason"], "not_found");
}

#[test]
fn an_idle_portal_sleeps() {
    let mut lab = Lab::new(POLICY);
    assert_eq!(lab.wake_at, None);
    let (client, _) = lab.client("alice", key(2));
    let mut wakes = 0;
    let end = lab.now.instant + Duration::from_secs(600);
    while lab.now.instant < end {
        let heartbeat = lab.now.instant + Duration::from_secs(10);
        while let Some(at) = lab.wake_at.filter(|at| *at < heartbeat) {
            lab.now.instant = at;
            lab.wait_in_silence(Duration::ZERO);
            wakes += 1;
        }
        lab.now.instant = heartbeat;
        lab.say(client, "phoenix", "heartbeat", json!({}));
        lab.hear(client, "phx_reply");
    }
    // Every 27 to 37 s, to see whether it is still there.
    assert!(wakes <= 23, "{wakes}");
}

#[test]
fn a_portal_that_stops_closes_all_connections_and_revokes_nothing() {
    let mut lab = Lab::new(POLICY);
    let (gateway, _) = lab.gateway("gw-1", key(1));
    let (client, _) = lab.client("alice", key(2));
    lab.authorize(client, gateway, "net");
    lab.hub.shut_down(lab.now);
    lab.wait_in_silence(Duration::ZERO);
    assert_eq!(lab.closed, [(gateway, CloseReason::Shutdown), (client, CloseReason::Shutdown)]);
    lab.hear_nothing(gateway);
    assert_eq!(lab.store.authorizations().unwrap().len(), 1);
}
