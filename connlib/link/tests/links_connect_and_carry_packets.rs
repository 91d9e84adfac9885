//! Two ends that know each other's keys and credentials find a path and carry packets.
#![allow(missing_docs)]

mod common;

use std::time::Duration;

use common::{CLIENT, GATEWAY, Pair, addr, packet};
use connlib_link::{Event, Failure, Upsert};

#[test]
fn packets_that_came_before_the_path_travel_once_it_stands() {
    let mut pair = Pair::new();
    let config = pair.gateway_config();
    pair.gateway.node.upsert(config, pair.now);
    let config = pair.client_config();
    assert_eq!(pair.client.node.upsert(config, pair.now), Upsert::Created);
    pair.upload(&packet(b"early"));
    pair.run(Duration::from_secs(2));
    assert_eq!(pair.gateway.packets, [packet(b"early")]);
    let connected = |event: &Event| matches!(event, Event::Connected { .. });
    assert_eq!(pair.client.events.iter().filter(|e| connected(e)).count(), 1);
    assert_eq!(pair.gateway.events.iter().filter(|e| connected(e)).count(), 1);

    pair.download(&packet(b"answer"));
    pair.run(Duration::from_secs(1));
    assert_eq!(pair.client.packets, [packet(b"answer")]);
}

#[test]
fn a_client_that_only_the_gateway_has_no_candidate_of_is_found_by_its_checks() {
    let mut pair = Pair::new();
    // The gateway never hears of the client's candidates, as behind a symmetric NAT.
    let config = pair.gateway_config();
    pair.gateway.node.upsert(config, pair.now);
    let config = pair.client_config();
    pair.client.node.upsert(config, pair.now);
    pair.client.node.set_local_addresses(&[addr("192.0.2.99:52625")], pair.now);
    pair.client.addresses = vec![addr("192.0.2.99:52625")];
    pair.upload(&packet(b"1"));
    pair.run(Duration::from_secs(3));
    assert_eq!(pair.gateway.packets.len(), 1);
}

#[test]
fn a_new_address_of_the_client_costs_no_session_and_no_portal() {
    let mut pair = Pair::new();
    pair.connect();
    pair.upload(&packet(b"before"));
    pair.run(Duration::from_secs(1));
    let new = addr("203.0.113.7:52625");
    pair.client.addresses = vec![new];
    pair.client.node.set_local_addresses(&[new], pair.now);
    pair.upload(&packet(b"after"));
    pair.run(Duration::from_millis(1));
    assert_eq!(pair.gateway.packets, [packet(b"before"), packet(b"after")]);
    pair.download(&packet(b"back"));
    pair.run(Duration::from_millis(1));
    assert_eq!(pair.client.packets, [packet(b"back")]);
    assert_eq!(pair.gateway.node.path(CLIENT).unwrap().remote, new);
    pair.run(Duration::from_secs(30));
    assert_eq!(pair.client.node.path(GATEWAY).unwrap().local, Some(new));
    assert!(!pair.client.events.iter().any(|e| matches!(e, Event::Failed { .. })));
}

#[test]
fn a_lost_handshake_is_retried_within_a_second() {
    let mut pair = Pair::new();
    pair.lose = |datagram| {
        use std::sync::atomic::{AtomicUsize, Ordering};
        static INITIATIONS: AtomicUsize = AtomicUsize::new(0);
        datagram[..4] == [1, 0, 0, 0] && INITIATIONS.fetch_add(1, Ordering::Relaxed) < 1
    };
    let start = pair.now;
    pair.connect();
    assert!(pair.client.node.path(GATEWAY).is_some());
    assert!(pair.now < start + Duration::from_secs(4));
}

#[test]
fn the_same_configuration_again_disturbs_nothing_and_signals_candidates() {
    let mut pair = Pair::new();
    pair.connect();
    pair.client.events.clear();
    let config = pair.client_config();
    assert_eq!(pair.client.node.upsert(config, pair.now), Upsert::Reused);
    pair.run(Duration::from_secs(1));
    assert!(matches!(&pair.client.events[..], [Event::NewCandidates { .. }]));
    assert!(pair.client.node.path(GATEWAY).is_some());
}

#[test]
fn other_keys_make_another_link() {
    let mut pair = Pair::new();
    pair.connect();
    let mut config = pair.client_config();
    config.preshared_key = [8; 32];
    assert_eq!(pair.client.node.upsert(config, pair.now), Upsert::Replaced);
    assert!(pair.client.node.path(GATEWAY).is_none());
}

#[test]
fn a_wrong_preshared_key_fails_the_link_instead_of_retrying_forever() {
    let mut pair = Pair::new();
    let mut config = pair.gateway_config();
    config.preshared_key = [8; 32];
    pair.gateway.node.upsert(config, pair.now);
    let config = pair.client_config();
    pair.client.node.upsert(config, pair.now);
    pair.run(Duration::from_secs(30));
    assert!(
        pair.client
            .events
            .contains(&Event::Failed { peer: GATEWAY, failure: Failure::HandshakeTimeout })
    );
    assert!(!pair.client.node.has_link(GATEWAY));
}

#[test]
fn a_peer_without_candidates_fails_the_link() {
    let mut pair = Pair::new();
    let config = pair.client_config();
    pair.client.node.upsert(config, pair.now);
    pair.run(Duration::from_secs(11));
    assert!(
        pair.client
            .events
            .contains(&Event::Failed { peer: GATEWAY, failure: Failure::NoCandidates })
    );
}

#[test]
fn an_idle_link_sends_next_to_nothing_and_wakes_at_once() {
    let mut pair = Pair::new();
    pair.connect();
    pair.upload(&packet(b"1"));
    pair.run(Duration::from_secs(60));
    let before = pair.sent;
    pair.run(Duration::from_secs(100));
    assert!(pair.sent - before <= 20, "{} datagrams", pair.sent - before);
    pair.upload(&packet(b"2"));
    pair.run(Duration::from_millis(1));
    assert_eq!(pair.gateway.packets.len(), 2);
}

#[test]
fn noise_from_strangers_is_dropped() {
    let mut pair = Pair::new();
    pair.connect();
    let mut slot = vec![0; 2048];
    let mut noise = vec![0u8; 0];
    for len in 0..300 {
        for first in [0u8, 1, 2, 3, 4, 64, 255] {
            noise.clear();
            noise.resize(len, first);
            if len > 3 {
                noise[1..4].fill(0);
            }
            if len > 8 && first < 2 {
                noise[4..8].copy_from_slice(&0x2112_a442u32.to_be_bytes());
            }
            let datagram = connlib_link::Datagram {
                local: addr("192.0.2.1:52625"),
                remote: addr("203.0.113.66:1"),
                payload: &noise,
            };
            assert!(!matches!(
                pair.client.node.open(datagram, &mut slot, pair.now),
                connlib_link::Opened::Packet { .. }
            ));
        }
    }
    pair.upload(&packet(b"still works"));
    pair.run(Duration::from_millis(1));
    assert_eq!(pair.gateway.packets.len(), 1);
}

#[test]
fn a_client_that_has_left_all_its_addresses_is_not_given_up() {
    let mut pair = Pair::new();
    pair.connect();
    pair.run(Duration::from_secs(60));
    pair.client.addresses = vec![];
    pair.client.node.set_local_addresses(&[], pair.now);
    pair.run(Duration::from_secs(1));
    let new = addr("203.0.113.7:52625");
    pair.client.addresses = vec![new];
    pair.client.node.set_local_addresses(&[new], pair.now);
    pair.run(Duration::from_secs(1));
    pair.upload(&packet(b"after"));
    pair.run(Duration::from_millis(1));
    assert_eq!(pair.gateway.packets, [packet(b"after")]);
    assert!(!pair.gateway.events.iter().any(|e| matches!(e, Event::Failed { .. })));
}

#[test]
fn a_client_of_many_resources_may_still_change_its_address() {
    let mut pair = Pair::new();
    pair.connect();
    for _ in 0..200 {
        // Another resource: both ends signal their candidates once more.
        let config = pair.gateway_config();
        pair.gateway.node.upsert(config, pair.now);
        let config = pair.client_config();
        pair.client.node.upsert(config, pair.now);
        pair.run(Duration::from_millis(10));
    }
    // A second address, and then only that one.
    let (old, new) = (pair.client.addresses[0], addr("203.0.113.7:52625"));
    pair.client.addresses = vec![old, new];
    pair.client.node.set_local_addresses(&[old, new], pair.now);
    pair.run(Duration::from_secs(1));
    pair.client.addresses = vec![new];
    pair.client.node.set_local_addresses(&[new], pair.now);
    pair.run(Duration::from_secs(30));
    assert_eq!(pair.client.node.path(GATEWAY).unwrap().local, Some(new));
    assert_eq!(pair.gateway.node.path(CLIENT).unwrap().remote, new);
    assert!(!pair.client.events.iter().any(|e| matches!(e, Event::Failed { .. })));
}

#[test]
fn a_peer_that_invents_addresses_is_not_remembered_without_end() {
    let mut pair = Pair::new();
    pair.connect();
    for number in 0..10_000u32 {
        let [_, _, high, low] = number.to_be_bytes();
        let candidate = format!("candidate:1 1 udp 2130706431 10.9.{high}.{low} 52625 typ host");
        pair.gateway.node.add_remote_candidate(CLIENT, &candidate, pair.now);
        pair.gateway.node.remove_remote_candidate(CLIENT, &candidate, pair.now);
    }
    pair.upload(&packet(b"still works"));
    pair.run(Duration::from_secs(1));
    assert_eq!(pair.gateway.packets, [packet(b"still works")]);
}

#[test]
fn a_gateway_that_has_lost_the_link_gets_a_new_session_with_the_next_authorization() {
    let mut pair = Pair::new();
    pair.connect();
    pair.run(Duration::from_secs(5));
    pair.gateway.node.remove(CLIENT);
    let config = pair.gateway_config();
    assert_eq!(pair.gateway.node.upsert(config, pair.now), Upsert::Created);
    let config = pair.client_config();
    assert_eq!(pair.client.node.upsert(config, pair.now), Upsert::Reused);
    pair.run(Duration::from_secs(1));
    pair.upload(&packet(b"again"));
    pair.run(Duration::from_secs(1));
    assert_eq!(pair.gateway.packets, [packet(b"again")]);
}

#[test]
fn a_gateway_that_has_lost_the_link_a_moment_ago_gets_a_new_session_as_well() {
    let mut pair = Pair::new();
    pair.connect();
    // The client has just heard of it.
    pair.download(&packet(b"before"));
    pair.run(Duration::from_millis(100));
    pair.gateway.node.remove(CLIENT);
    let config = pair.gateway_config();
    assert_eq!(pair.gateway.node.upsert(config, pair.now), Upsert::Created);
    let config = pair.client_config();
    assert_eq!(pair.client.node.upsert(config, pair.now), Upsert::Reused);
    pair.run(Duration::from_millis(700));
    pair.upload(&packet(b"again"));
    pair.run(Duration::from_secs(1));
    assert_eq!(pair.gateway.packets, [packet(b"again")]);
}

#[test]
fn a_session_that_goes_on_is_not_made_anew_by_the_next_authorization() {
    let mut pair = Pair::new();
    pair.connect();
    pair.download(&packet(b"before"));
    pair.run(Duration::from_millis(100));
    let before = pair.initiations;
    let config = pair.client_config();
    assert_eq!(pair.client.node.upsert(config, pair.now), Upsert::Reused);
    pair.run(Duration::from_millis(100));
    pair.download(&packet(b"after"));
    pair.run(Duration::from_secs(3));
    assert_eq!(pair.initiations, before);
}

#[test]
fn a_gateway_that_does_not_know_the_client_any_more_is_asked_about_soon() {
    for is_connected in [true, false] {
        let mut pair = Pair::new();
        if is_connected {
            pair.connect();
            pair.run(Duration::from_secs(60));
            pair.gateway.node.remove(CLIENT);
        } else {
            let config = pair.client_config();
            pair.client.node.upsert(config, pair.now);
        }
        let silent = |pair: &Pair| {
            pair.client.events.iter().filter(|event| matches!(event, Event::Silent { .. })).count()
        };
        pair.run(Duration::from_secs(3));
        assert_eq!(silent(&pair), 0, "there was nothing to answer");
        pair.upload(&packet(b"hello?"));
        pair.run(Duration::from_millis(1900));
        assert_eq!(silent(&pair), 0);
        pair.run(Duration::from_millis(200));
        assert_eq!(silent(&pair), 1, "connected: {is_connected}");
        pair.run(Duration::from_secs(10));
        assert!((1..=3).contains(&silent(&pair)));
    }
}

#[test]
fn a_gateway_that_answers_checks_alone_is_not_silent() {
    let mut pair = Pair::new();
    pair.connect();
    for _ in 0..100 {
        pair.upload(&packet(b"to somebody who says nothing"));
        pair.run(Duration::from_secs(1));
    }
    pair.run(Duration::from_secs(100));
    pair.upload(&packet(b"once more"));
    pair.run(Duration::from_secs(10));
    assert!(!pair.client.events.iter().any(|event| matches!(event, Event::Silent { .. })));
}
