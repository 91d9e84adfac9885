//! Where a network lets no datagrams through, relays are reached by streams, and no longer than they have to.
#![allow(missing_docs)]

mod common;

use std::net::SocketAddr;
use std::time::Duration;

use common::{GATEWAY, Pair, RelayHost, addr, packet};
use connlib_link::{Event, StreamServer};

const STEP: Duration = Duration::from_millis(20);

fn pair(relays: u8) -> Pair {
    let mut pair = Pair::new();
    pair.relays = (1..=relays).map(|number| RelayHost::new(number, pair.now)).collect();
    for relay in &mut pair.relays {
        relay.latency = Duration::from_millis(10);
    }
    pair.portal_latency = Duration::from_millis(50);
    pair.connects = |_| true;
    pair.announce_relays();
    pair
}

fn is_client(address: SocketAddr) -> bool {
    address.ip() == addr("192.0.2.1:1").ip()
}

/// The client's network lets no datagrams through.
fn client_is_walled(from: SocketAddr, to: SocketAddr) -> bool {
    is_client(from) || is_client(to)
}

/// Nobody's does.
fn nothing_passes(from: SocketAddr, to: SocketAddr) -> bool {
    let is_end = |a: SocketAddr| is_client(a) || a.ip() == addr("198.51.100.1:1").ip();
    is_end(from) || is_end(to)
}

/// The way between the ends is closed, that to relays is not.
fn no_direct(from: SocketAddr, to: SocketAddr) -> bool {
    nothing_passes(from, from) && nothing_passes(to, to)
}

/// Sends numbered packets both ways. Says how many of them arrived, and the longest time that none did.
fn talk(pair: &mut Pair, duration: Duration) -> (usize, usize, Duration) {
    let steps = duration.as_millis() / STEP.as_millis();
    pair.gateway.packets.clear();
    pair.client.packets.clear();
    let (mut stall, mut longest_stall) = (Duration::ZERO, Duration::ZERO);
    for number in 0..steps as u32 {
        let before = (pair.gateway.packets.len(), pair.client.packets.len());
        pair.upload(&packet(&number.to_be_bytes()));
        pair.download(&packet(&number.to_be_bytes()));
        pair.run(STEP);
        let is_flowing =
            pair.gateway.packets.len() > before.0 && pair.client.packets.len() > before.1;
        stall = if is_flowing { Duration::ZERO } else { stall + STEP };
        longest_stall = longest_stall.max(stall);
    }
    pair.run(Duration::from_millis(500));
    (steps as usize, pair.gateway.packets.len().min(pair.client.packets.len()), longest_stall)
}

fn assert_all_arrive(pair: &mut Pair, seconds: u64) {
    let (sent, arrived, _) = talk(pair, Duration::from_secs(seconds));
    assert_eq!(arrived, sent);
}

fn assert_never_failed(pair: &Pair) {
    for end in [&pair.client, &pair.gateway] {
        assert!(!end.events.iter().any(|e| matches!(e, Event::Failed { .. })), "{:?}", end.events);
    }
}

fn uses_stream(pair: &Pair) -> bool {
    pair.streams.iter().any(|(_, of_client, _)| *of_client)
}

#[test]
fn a_walled_client_takes_a_stream_and_the_other_end_does_not() {
    let mut pair = pair(2);
    pair.blocked = client_is_walled;
    pair.run(Duration::from_secs(4));
    assert_eq!(pair.streams.iter().map(|(_, of_client, _)| *of_client).collect::<Vec<_>>(), [true]);
    pair.connect();
    assert!(pair.client.node.path(GATEWAY).is_some());
    assert_all_arrive(&mut pair, 700);
    assert_eq!(pair.streams.len(), 1);
    assert_never_failed(&pair);
}

#[test]
fn both_ends_may_be_walled() {
    for relays in [1, 2] {
        let mut pair = pair(relays);
        pair.blocked = nothing_passes;
        pair.run(Duration::from_secs(4));
        pair.connect();
        assert_all_arrive(&mut pair, 60);
        assert_never_failed(&pair);
    }
}

#[test]
fn tls_is_taken_where_nothing_else_passes() {
    let mut pair = pair(1);
    pair.blocked = client_is_walled;
    pair.connects = |server| matches!(server, StreamServer::Tls(_));
    pair.run(Duration::from_secs(4));
    let (_, _, server) = pair.streams.first().unwrap();
    assert_eq!(*server, StreamServer::Tls(addr("203.0.113.1:443")));
    pair.connect();
    assert_all_arrive(&mut pair, 10);
}

#[test]
fn where_datagrams_pass_nobody_asks_for_a_stream() {
    let mut pair = pair(2);
    pair.blocked = no_direct;
    pair.connect();
    assert_all_arrive(&mut pair, 600);
    assert!(pair.streams.is_empty());
}

#[test]
fn traffic_moves_to_a_stream_and_back_without_loss() {
    for relays in [1, 2] {
        let mut pair = pair(relays);
        pair.blocked = no_direct;
        pair.run(Duration::from_secs(1));
        pair.connect();
        assert_all_arrive(&mut pair, 5);

        pair.blocked = client_is_walled;
        let (_, _, stall) = talk(&mut pair, Duration::from_secs(20));
        assert!(stall < Duration::from_secs(5), "{stall:?}");
        assert!(uses_stream(&pair));
        assert_all_arrive(&mut pair, 60);
        assert!(uses_stream(&pair));

        pair.blocked = no_direct;
        assert_all_arrive(&mut pair, 60);
        assert!(!uses_stream(&pair), "datagrams pass again");
        assert_never_failed(&pair);
    }
}

/// The peer can't be told of another way, and is not to be left without one.
#[test]
fn a_stream_stays_while_the_portal_is_away() {
    const GATEWAY_HOST: &str = "198.51.100.1:1";
    let mut pair = pair(2);
    let is_by_stream = |pair: &Pair| pair.streams.iter().any(|(_, of_client, _)| !*of_client);
    // Each end reaches one relay, the gateway its own by datagrams later.
    pair.connects = |server| server.address().ip() == addr("203.0.113.1:1").ip();
    pair.blocked = |from, to| {
        let is_end = |a: SocketAddr| is_client(a) || a.ip() == addr(GATEWAY_HOST).ip();
        is_end(from) && !(is_client(from) && to == addr("203.0.113.1:3478"))
            || is_end(to) && !(is_client(to) && from == addr("203.0.113.1:3478"))
    };
    pair.run(Duration::from_secs(4));
    pair.connect();
    assert_all_arrive(&mut pair, 5);
    assert!(is_by_stream(&pair));

    // What either end is told now, it hears when the portal is back.
    pair.portal_latency = Duration::from_secs(90);
    pair.blocked = |from, to| {
        let is_apart = |end: SocketAddr, other: SocketAddr| {
            is_client(end) && other != addr("203.0.113.1:3478")
                || end.ip() == addr(GATEWAY_HOST).ip() && other != addr("203.0.113.2:3478")
        };
        is_apart(from, to) || is_apart(to, from)
    };
    assert_all_arrive(&mut pair, 60);
    assert!(is_by_stream(&pair));
    assert_all_arrive(&mut pair, 90);
    assert!(!is_by_stream(&pair));
    assert_never_failed(&pair);
}

#[test]
fn who_sends_nothing_finds_out_as_well() {
    let mut pair = pair(2);
    pair.run(Duration::from_secs(60));
    pair.blocked = nothing_passes;
    pair.run(Duration::from_secs(40));
    let mut ends: Vec<_> = pair.streams.iter().map(|(_, of_client, _)| *of_client).collect();
    ends.sort_unstable();
    assert_eq!(ends, [false, true]);
}

#[test]
fn a_direct_way_ends_the_need_for_a_stream() {
    let mut pair = pair(1);
    pair.blocked = client_is_walled;
    pair.run(Duration::from_secs(4));
    pair.connect();
    assert_all_arrive(&mut pair, 5);
    pair.blocked = |_, _| false;
    assert_all_arrive(&mut pair, 120);
    assert!(!uses_stream(&pair));
    assert!(is_client(pair.client.node.path(GATEWAY).unwrap().local.unwrap()));
    assert_never_failed(&pair);
}

#[test]
fn a_stream_that_breaks_is_made_anew() {
    let mut pair = pair(2);
    pair.blocked = client_is_walled;
    pair.run(Duration::from_secs(4));
    pair.connect();
    for _ in 0..3 {
        assert_all_arrive(&mut pair, 5);
        pair.break_streams();
        let (_, _, stall) = talk(&mut pair, Duration::from_secs(5));
        assert!(stall < Duration::from_secs(2), "{stall:?}");
    }
    assert_all_arrive(&mut pair, 5);
    assert_never_failed(&pair);
}

#[test]
fn a_stream_that_says_nothing_is_left_for_another() {
    let mut pair = pair(1);
    pair.blocked = client_is_walled;
    pair.run(Duration::from_secs(4));
    pair.connect();
    let (local, ..) = pair.streams[0];
    // A router on the way forgets it, and answers nothing.
    pair.stuck.push(local);
    let (_, _, stall) = talk(&mut pair, Duration::from_secs(20));
    assert!(stall < Duration::from_secs(8), "{stall:?}");
    assert_ne!(pair.streams[0].0, local);
    assert_all_arrive(&mut pair, 5);
}

#[test]
fn relays_without_streams_are_asked_ever_more_rarely() {
    let mut pair = pair(4);
    pair.blocked = client_is_walled;
    pair.connects = |_| false;
    pair.run(Duration::from_secs(3600));
    assert!((50..150).contains(&pair.refused), "{}", pair.refused);
    // Elsewhere it may be otherwise.
    pair.connects = |_| true;
    let host = addr("192.0.2.1:52626");
    pair.client.addresses = vec![host];
    pair.client.node.set_local_addresses(&[host], pair.now);
    pair.run(Duration::from_secs(5));
    assert!(uses_stream(&pair));
}

#[test]
fn credentials_that_change_lose_nothing() {
    let mut pair = pair(1);
    pair.blocked = client_is_walled;
    pair.run(Duration::from_secs(4));
    pair.connect();
    for salt in 1..4 {
        pair.relays[0].salt = salt;
        pair.announce_relays();
        assert_all_arrive(&mut pair, 60);
    }
    assert_eq!(pair.streams.len(), 1);
}

#[test]
fn the_address_of_our_socket_is_no_stream_s() {
    let mut pair = pair(1);
    pair.blocked = client_is_walled;
    pair.connects = |_| false;
    pair.run(Duration::from_secs(4));
    let server = StreamServer::Tcp(addr("203.0.113.1:3478"));
    // Nobody asked for it.
    pair.client.node.handle_stream_opened(server, addr("192.0.2.1:30000"), pair.now);
    pair.client.node.handle_stream_opened(server, addr("192.0.2.1:52625"), pair.now);
    pair.client.node.handle_stream_closed(server, pair.now);
    pair.connects = |_| true;
    pair.run(Duration::from_secs(30));
    assert!(uses_stream(&pair));
}

#[test]
fn what_goes_to_a_relay_that_is_dead_goes_to_another() {
    let mut pair = pair(2);
    pair.blocked = client_is_walled;
    pair.run(Duration::from_secs(4));
    pair.connect();
    let (_, _, server) = pair.streams[0];
    let dead = pair.relays.iter().position(|relay| relay.has(server.address())).unwrap();
    pair.relays[dead].dead = true;
    pair.break_streams();
    let (_, _, stall) = talk(&mut pair, Duration::from_secs(15));
    assert!(stall < Duration::from_secs(2), "{stall:?}");
    let (_, _, other) = pair.streams[0];
    assert_ne!(server.address().ip(), other.address().ip());
    assert_never_failed(&pair);
}

#[test]
fn a_wall_that_comes_back_is_noticed_while_there_is_a_stream() {
    for pause in [0, 3, 12, 14] {
        let mut pair = pair(2);
        pair.blocked = client_is_walled;
        pair.run(Duration::from_secs(4));
        pair.connect();
        assert_all_arrive(&mut pair, 5);
        pair.blocked = no_direct;
        while pair.client.node.path(GATEWAY).unwrap().local != Some(addr("192.0.2.1:52625")) {
            talk(&mut pair, Duration::from_millis(200));
        }
        talk(&mut pair, Duration::from_secs(pause));
        pair.blocked = client_is_walled;
        let (_, _, stall) = talk(&mut pair, Duration::from_secs(30));
        assert!(stall < Duration::from_secs(6), "{pause} s: {stall:?}");
        assert_never_failed(&pair);
    }
}

#[test]
fn a_gateway_that_is_walled_is_found_again() {
    let mut pair = pair(2);
    pair.run(Duration::from_secs(1));
    pair.connect();
    assert_all_arrive(&mut pair, 5);
    let gateway = |a: SocketAddr| a.ip() == addr("198.51.100.1:1").ip();
    assert!(gateway(pair.client.node.path(GATEWAY).unwrap().remote), "direct");
    pair.blocked = |from, to| [from, to].iter().any(|a| a.ip() == addr("198.51.100.1:1").ip());
    let (_, _, stall) = talk(&mut pair, Duration::from_secs(30));
    assert!(stall < Duration::from_secs(9), "{stall:?}");
}

#[test]
fn connections_that_lead_nowhere_don_t_keep_others_out() {
    for relays in [1, 2, 4] {
        let mut pair = pair(relays);
        pair.blocked = client_is_walled;
        pair.is_mute = |server| matches!(server, StreamServer::Tcp(_));
        pair.run(Duration::from_secs(12));
        let is_granted = pair.relays.iter().any(|relay| relay.server.allocations() > 1);
        assert!(is_granted, "{relays} relays");
        assert_eq!(pair.streams.len(), 1);
        pair.connect();
        assert_all_arrive(&mut pair, 5);
    }
}

#[test]
fn what_was_refused_is_not_tried_while_a_connection_is_waited_for() {
    let mut pair = pair(2);
    pair.blocked = client_is_walled;
    pair.connects = |server| matches!(server, StreamServer::Tcp(_));
    pair.is_mute = |_| true;
    pair.run(Duration::from_secs(10));
    assert!(pair.refused > 0);
}

#[test]
fn streams_that_always_break_are_made_ever_more_rarely() {
    let mut pair = pair(2);
    pair.blocked = client_is_walled;
    let mut broken = 0;
    for _ in 0..3000 {
        pair.run(Duration::from_millis(100));
        broken += pair.streams.len();
        pair.break_streams();
    }
    assert!((10..80).contains(&broken), "{broken}");
}

#[test]
fn a_relay_that_is_not_listed_any_more_is_left() {
    let mut pair = pair(2);
    pair.blocked = client_is_walled;
    pair.run(Duration::from_secs(4));
    pair.connect();
    let (_, _, server) = pair.streams[0];
    let leaving = pair.relays.iter().position(|relay| relay.has(server.address())).unwrap();
    pair.relays[leaving].listed = false;
    pair.announce_relays();
    assert_all_arrive(&mut pair, 30);
    assert_eq!(pair.streams.len(), 1);
    assert!(!pair.relays[leaving].has(pair.streams[0].2.address()));
}

#[test]
fn addresses_that_change_all_the_time_keep_nobody_from_a_stream() {
    let mut pair = pair(1);
    pair.blocked = client_is_walled;
    let (host, bridge) = (addr("192.0.2.1:52625"), addr("172.17.0.1:52625"));
    for step in 0..10 {
        let hosts = if step % 2 == 0 { vec![host, bridge] } else { vec![host] };
        pair.client.node.set_local_addresses(&hosts, pair.now);
        pair.run(Duration::from_millis(2500));
    }
    assert!(uses_stream(&pair));
}

#[test]
fn a_stream_stays_until_datagrams_have_passed_for_a_while() {
    let mut pair = pair(1);
    pair.blocked = client_is_walled;
    pair.run(Duration::from_secs(4));
    pair.connect();
    assert_all_arrive(&mut pair, 5);
    // Nobody talks: the wall opens for a moment again and again.
    for _ in 0..10 {
        pair.blocked = no_direct;
        pair.run(Duration::from_secs(16));
        pair.blocked = client_is_walled;
        pair.run(Duration::from_secs(16));
        let (_, arrived, _) = talk(&mut pair, Duration::from_secs(10));
        assert!(arrived > 0);
        assert!(uses_stream(&pair));
    }
}

#[test]
fn relays_that_answer_binding_requests_alone_are_reached_by_streams() {
    let mut pair = pair(2);
    pair.blocked = no_direct;
    // Of what goes by UDP, STUN Binding alone passes.
    pair.lose = |payload| !matches!(payload, [0 | 1, 1, ..]);
    pair.run(Duration::from_secs(30));
    assert!(uses_stream(&pair));
}
