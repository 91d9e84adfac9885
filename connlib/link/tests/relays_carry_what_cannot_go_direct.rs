//! Where no direct path exists, packets travel by relays, and no longer than they have to.
#![allow(missing_docs)]

mod common;

use std::net::SocketAddr;
use std::time::Duration;

use common::{CLIENT, GATEWAY, Pair, RelayHost, addr, packet};
use connlib_link::{Datagram, Event, Node, NodeConfig, Opened, Path};

const STEP: Duration = Duration::from_millis(20);

fn pair(relays: u8) -> Pair {
    let mut pair = Pair::new();
    pair.relays = (1..=relays).map(|number| RelayHost::new(number, pair.now)).collect();
    for relay in &mut pair.relays {
        relay.latency = Duration::from_millis(10);
    }
    pair.portal_latency = Duration::from_millis(50);
    pair.announce_relays();
    pair.run(Duration::from_secs(1));
    pair
}

/// No datagram travels between the two ends.
fn no_direct(from: SocketAddr, to: SocketAddr) -> bool {
    let is_end =
        |a: SocketAddr| a.ip() == addr("192.0.2.1:1").ip() || a.ip() == addr("198.51.100.1:1").ip();
    is_end(from) && is_end(to)
}

/// And each end only talks to its own relay's main port: as behind symmetric NATs.
fn only_own_relay(from: SocketAddr, to: SocketAddr) -> bool {
    let is_relay = |a: SocketAddr| {
        a.ip() == addr("203.0.113.1:1").ip() || a.ip() == addr("203.0.113.2:1").ip()
    };
    let is_allocation = |a: SocketAddr| is_relay(a) && a.port() != 3478;
    no_direct(from, to)
        || (is_allocation(from) && !is_relay(to))
        || (is_allocation(to) && !is_relay(from))
}

fn is_relayed(path: Path) -> bool {
    let is_relay = |a: SocketAddr| a.ip().to_string().starts_with("203.0.113.");
    path.local.is_some_and(is_relay) || is_relay(path.remote)
}

/// Sends numbered packets both ways and counts those that arrive; also the longest time without any.
struct Traffic {
    sent: usize,
    longest_stall: Duration,
}

impl Traffic {
    fn run(pair: &mut Pair, duration: Duration) -> Self {
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
        Self { sent: steps as usize, longest_stall }
    }

    fn assert_all_arrived(&self, pair: &Pair) {
        assert_eq!(pair.gateway.packets.len(), self.sent);
        assert_eq!(pair.client.packets.len(), self.sent);
    }
}

fn assert_never_failed(pair: &Pair) {
    for end in [&pair.client, &pair.gateway] {
        assert!(!end.events.iter().any(|e| matches!(e, Event::Failed { .. })), "{:?}", end.events);
    }
}

#[test]
fn one_relay_is_enough() {
    let mut pair = pair(1);
    pair.blocked = no_direct;
    pair.connect();
    assert!(is_relayed(pair.client.node.path(GATEWAY).unwrap()));
    assert!(is_relayed(pair.gateway.node.path(CLIENT).unwrap()));
    Traffic::run(&mut pair, Duration::from_secs(60)).assert_all_arrived(&pair);
    assert_never_failed(&pair);
}

#[test]
fn two_relays_connect_ends_that_only_reach_their_own() {
    for relays in [1, 2] {
        let mut pair = pair(relays);
        pair.blocked = only_own_relay;
        pair.connect();
        let path = pair.client.node.path(GATEWAY).unwrap();
        assert!(path.local.unwrap().port() != 3478 && path.remote.port() != 3478, "{path:?}");
        Traffic::run(&mut pair, Duration::from_secs(60)).assert_all_arrived(&pair);
    }
}

#[test]
fn allocations_are_on_the_two_nearest_relays() {
    let mut pair = Pair::new();
    for (number, latency) in [(1, 40), (2, 10), (3, 30), (4, 20)] {
        let mut relay = RelayHost::new(number, pair.now);
        relay.latency = Duration::from_millis(latency);
        pair.relays.push(relay);
    }
    pair.announce_relays();
    pair.run(Duration::from_secs(30));
    let allocations: Vec<_> = pair.relays.iter().map(|r| r.server.allocations()).collect();
    assert_eq!(allocations, [0, 2, 0, 2]);
    // The nearest one dies: the next one takes its place, and it comes back as one that is not needed.
    pair.relays[1].dead = true;
    pair.blocked = no_direct;
    pair.connect();
    Traffic::run(&mut pair, Duration::from_secs(30));
    let allocations: Vec<_> = pair.relays.iter().map(|r| r.server.allocations()).collect();
    assert_eq!(allocations[2..], [2, 2]);
    assert!(pair.client.node.path(GATEWAY).is_some());
    assert_never_failed(&pair);
}

#[test]
fn the_first_packet_travels_within_a_few_round_trips() {
    let mut pair = pair(2);
    pair.blocked = no_direct;
    let config = pair.gateway_config();
    pair.gateway.node.upsert(config, pair.now);
    let config = pair.client_config();
    pair.client.node.upsert(config, pair.now);
    pair.upload(&packet(b"first"));
    // Candidates take 50 ms; then bind, check and handshake, at 20 ms from end to end.
    pair.run(Duration::from_millis(50 + 6 * 20));
    assert_eq!(pair.gateway.packets, [packet(b"first")]);
}

#[test]
fn a_direct_path_is_taken_at_once_and_relays_are_left_without_a_loss() {
    let mut pair = pair(2);
    pair.blocked = no_direct;
    pair.connect();
    Traffic::run(&mut pair, Duration::from_secs(10)).assert_all_arrived(&pair);
    assert!(is_relayed(pair.client.node.path(GATEWAY).unwrap()));
    // A firewall opens.
    pair.blocked = |_, _| false;
    Traffic::run(&mut pair, Duration::from_secs(60)).assert_all_arrived(&pair);
    assert!(!is_relayed(pair.client.node.path(GATEWAY).unwrap()));
    assert!(!is_relayed(pair.gateway.node.path(CLIENT).unwrap()));
}

#[test]
fn a_direct_path_that_opens_late_is_found_as_well() {
    use std::sync::atomic::{AtomicBool, Ordering};
    static IS_OPEN: AtomicBool = AtomicBool::new(false);
    static HAS_SENT: AtomicBool = AtomicBool::new(false);
    let mut pair = pair(2);
    // Once open, the client's firewall lets in what answers: checks of the gateway alone find no way.
    pair.blocked = |from, to| {
        let is_from_client = from.ip() == addr("192.0.2.1:1").ip();
        let may_pass =
            IS_OPEN.load(Ordering::Relaxed) && (is_from_client || HAS_SENT.load(Ordering::Relaxed));
        if no_direct(from, to) && may_pass && is_from_client {
            HAS_SENT.store(true, Ordering::Relaxed);
        }
        no_direct(from, to) && !may_pass
    };
    pair.connect();
    Traffic::run(&mut pair, Duration::from_secs(100)).assert_all_arrived(&pair);
    IS_OPEN.store(true, Ordering::Relaxed);
    Traffic::run(&mut pair, Duration::from_secs(120)).assert_all_arrived(&pair);
    assert!(!is_relayed(pair.client.node.path(GATEWAY).unwrap()));
}

#[test]
fn a_relay_that_restarts_is_used_again_soon() {
    let mut pair = pair(1);
    pair.blocked = no_direct;
    pair.connect();
    let now = pair.now;
    pair.relays[0].restart(now);
    let traffic = Traffic::run(&mut pair, Duration::from_secs(20));
    assert!(traffic.longest_stall < Duration::from_secs(3), "{:?}", traffic.longest_stall);
    assert_never_failed(&pair);
}

#[test]
fn a_relay_that_restarts_as_another_is_used_again_soon() {
    for announced_after in [0, 500, 1000] {
        let mut pair = pair(1);
        pair.blocked = no_direct;
        pair.connect();
        let now = pair.now;
        pair.relays[0].restart_as_another(now);
        Traffic::run(&mut pair, Duration::from_millis(announced_after));
        pair.announce_relays();
        let traffic = Traffic::run(&mut pair, Duration::from_secs(20));
        assert!(traffic.longest_stall < Duration::from_secs(2), "{:?}", traffic.longest_stall);
        assert_never_failed(&pair);
    }
}

#[test]
fn a_relay_that_dies_is_replaced_by_the_other_one() {
    for seconds_idle in [0, 60] {
        let mut pair = pair(2);
        pair.blocked = no_direct;
        pair.connect();
        pair.run(Duration::from_secs(seconds_idle));
        let path = pair.client.node.path(GATEWAY).unwrap();
        let used = pair
            .relays
            .iter()
            .position(|r| r.has(path.remote) || r.has(path.local.unwrap()))
            .unwrap();
        pair.relays[used].dead = true;
        let traffic = Traffic::run(&mut pair, Duration::from_secs(20));
        assert!(traffic.longest_stall < Duration::from_secs(3), "{:?}", traffic.longest_stall);
        assert_never_failed(&pair);
    }
}

#[test]
fn a_relay_that_the_portal_no_longer_names_is_left_without_a_loss() {
    let mut pair = pair(2);
    pair.blocked = no_direct;
    pair.connect();
    let path = pair.client.node.path(GATEWAY).unwrap();
    let used =
        pair.relays.iter().position(|r| r.has(path.remote) || r.has(path.local.unwrap())).unwrap();
    pair.relays[used].listed = false;
    pair.announce_relays();
    Traffic::run(&mut pair, Duration::from_secs(30)).assert_all_arrived(&pair);
    let gone = &pair.relays[used];
    for path in [pair.client.node.path(GATEWAY).unwrap(), pair.gateway.node.path(CLIENT).unwrap()] {
        assert!(!gone.has(path.remote) && !gone.has(path.local.unwrap()), "{path:?}");
    }
    assert_eq!(gone.server.allocations(), 0, "given back");
}

#[test]
fn the_last_relay_is_kept_while_the_portal_names_no_other() {
    let mut pair = pair(1);
    pair.blocked = no_direct;
    pair.connect();
    pair.relays[0].listed = false;
    pair.announce_relays();
    Traffic::run(&mut pair, Duration::from_secs(60)).assert_all_arrived(&pair);
}

#[test]
fn other_credentials_for_the_same_relays_cost_nothing() {
    let mut pair = pair(2);
    pair.blocked = no_direct;
    pair.connect();
    for salt in 1..4 {
        for relay in &mut pair.relays {
            relay.salt = salt;
        }
        pair.announce_relays();
        Traffic::run(&mut pair, Duration::from_secs(60)).assert_all_arrived(&pair);
    }
}

#[test]
fn lost_requests_are_repeated_soon() {
    use std::sync::atomic::{AtomicUsize, Ordering};
    let mut pair = Pair::new();
    pair.relays = vec![RelayHost::new(1, pair.now)];
    pair.blocked = no_direct;
    // A third of them.
    pair.lose = |_| {
        static SENT: AtomicUsize = AtomicUsize::new(0);
        let number = SENT.fetch_add(1, Ordering::Relaxed) as u64;
        let mixed = (number ^ number << 7 ^ 0xbf58_476d).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed >> 33).is_multiple_of(3)
    };
    pair.announce_relays();
    pair.connect();
    pair.run(Duration::from_secs(3));
    assert!(pair.client.node.path(GATEWAY).is_some());
}

#[test]
fn hours_pass_with_refreshes_and_new_nonces() {
    let mut pair = pair(2);
    pair.blocked = only_own_relay;
    pair.connect();
    for _ in 0..5 {
        pair.run(Duration::from_secs(3600));
        Traffic::run(&mut pair, Duration::from_secs(2)).assert_all_arrived(&pair);
    }
    assert_never_failed(&pair);
}

#[test]
fn a_new_address_moves_allocations_too() {
    let mut pair = pair(2);
    pair.blocked = |from, to| {
        let is_end = |a: SocketAddr| !a.ip().to_string().starts_with("203.0.113.");
        is_end(from) && is_end(to)
    };
    pair.connect();
    Traffic::run(&mut pair, Duration::from_secs(5)).assert_all_arrived(&pair);
    let new = addr("192.0.2.77:52625");
    pair.client.addresses = vec![new];
    pair.client.node.set_local_addresses(&[new], pair.now);
    let traffic = Traffic::run(&mut pair, Duration::from_secs(20));
    assert!(traffic.longest_stall < Duration::from_secs(3), "{:?}", traffic.longest_stall);
    assert_never_failed(&pair);
}

#[test]
fn another_network_that_gives_us_the_same_address_is_noticed_at_once() {
    let mut pair = pair(2);
    let same = addr("192.0.2.1:52625");
    pair.client.addresses = vec![same, addr("[2001:db8::1]:52625")];
    pair.client.node.set_local_addresses(&pair.client.addresses, pair.now);
    pair.connect();
    Traffic::run(&mut pair, Duration::from_secs(5)).assert_all_arrived(&pair);
    assert!(!is_relayed(pair.client.node.path(GATEWAY).unwrap()));
    pair.blocked = no_direct;
    pair.client.addresses = vec![same];
    pair.client.node.set_local_addresses(&[same], pair.now);
    let traffic = Traffic::run(&mut pair, Duration::from_secs(20));
    assert!(traffic.longest_stall < Duration::from_secs(1), "{:?}", traffic.longest_stall);
    assert_never_failed(&pair);
}

#[test]
fn an_address_more_costs_nothing() {
    let mut pair = pair(2);
    pair.connect();
    Traffic::run(&mut pair, Duration::from_secs(5)).assert_all_arrived(&pair);
    let path = pair.client.node.path(GATEWAY);
    pair.client.addresses.push(addr("[2001:db8::1]:52625"));
    pair.client.node.set_local_addresses(&pair.client.addresses, pair.now);
    Traffic::run(&mut pair, Duration::from_secs(5)).assert_all_arrived(&pair);
    assert_eq!(pair.client.node.path(GATEWAY), path);
}

#[test]
fn a_relay_that_answers_all_but_binding_requests_is_asked_now_and_then() {
    let mut pair = pair(1);
    pair.connect();
    // A Binding request without attributes: what servers are asked for addresses by.
    pair.lose = |payload| payload.starts_with(&[0, 1, 0, 0]);
    pair.sent = 0;
    pair.run(Duration::from_secs(120));
    assert!(pair.sent < 400, "{}", pair.sent);
    assert_never_failed(&pair);
}

#[test]
fn without_any_relay_that_works_links_form_and_the_portal_is_asked_now_and_then() {
    let mut pair = Pair::new();
    pair.relays = vec![RelayHost::new(1, pair.now), RelayHost::new(2, pair.now)];
    for relay in &mut pair.relays {
        relay.dead = true;
    }
    pair.announce_relays();
    pair.connect();
    Traffic::run(&mut pair, Duration::from_secs(10)).assert_all_arrived(&pair);
    pair.run(Duration::from_secs(3600));
    let asked = pair.client.events.iter().filter(|e| **e == Event::NoRelays).count();
    assert!((2..=10).contains(&asked), "{asked}");
}

#[test]
fn what_the_relay_refuses_is_not_asked_for_without_end() {
    let mut pair = Pair::new();
    pair.relays = vec![RelayHost::new(1, pair.now)];
    // The portal and the relay do not agree on the secret.
    let mut relay = pair.relays[0].announce("client");
    relay.credentials.as_mut().unwrap().password = "wrong".into();
    pair.client.node.set_relays(&[relay], pair.now);
    pair.run(Duration::from_secs(600));
    assert!(pair.sent < 300, "{}", pair.sent);
    assert_eq!(pair.relays[0].server.allocations(), 0);
    pair.announce_relays();
    pair.run(Duration::from_secs(1));
    assert_eq!(pair.relays[0].server.allocations(), 2);
}

#[test]
fn noise_from_a_relay_disturbs_nothing() {
    let mut pair = pair(1);
    pair.blocked = no_direct;
    pair.connect();
    let relay = addr("203.0.113.1:3478");
    let mut slot = vec![0; 4096];
    let mut random = 1u64;
    let mut next = || {
        random = random.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
        (random >> 33) as usize
    };
    // Truncated, lengthened, with wrong lengths inside: channel data, STUN of each kind and class, anything.
    for _ in 0..20_000 {
        let mut noise: Vec<u8> = (0..next() % 200).map(|_| next() as u8).collect();
        match next() % 3 {
            0 if noise.len() > 4 => noise[..2].copy_from_slice(&[0x40, (next() % 4) as u8]),
            1 if noise.len() > 20 => {
                noise[..2].copy_from_slice(&[(next() % 2) as u8, next() as u8 & 0x1f]);
                noise[4..8].copy_from_slice(&0x2112_a442_u32.to_be_bytes());
                let len = noise.len() - 20;
                noise[2..4].copy_from_slice(&(len as u16).to_be_bytes());
            }
            _ => {}
        }
        let datagram = Datagram { local: pair.client.addresses[0], remote: relay, payload: &noise };
        let opened = pair.client.node.open(datagram, &mut slot, pair.now);
        assert!(!matches!(opened, Opened::Packet { .. }));
    }
    Traffic::run(&mut pair, Duration::from_secs(10)).assert_all_arrived(&pair);
}

#[test]
fn a_process_that_follows_one_that_died_gets_the_relay_as_soon_as_it_lets_go() {
    let mut pair = pair(1);
    pair.blocked = no_direct;
    // The same address, another user: the portal knows processes by their keys.
    pair.relays[0].salt = 1;
    let seed = NodeConfig { seed: [77; 32], ..NodeConfig::default() };
    pair.client.node = Node::new(seed, pair.now);
    let addresses = pair.client.addresses.clone();
    pair.client.node.set_local_addresses(&addresses, pair.now);
    let relay = pair.relays[0].announce("client");
    pair.client.node.set_relays(&[relay], pair.now);
    pair.run(Duration::from_secs(640));
    assert_eq!(pair.relays[0].server.allocations(), 2);
    pair.client.node.release_relays(pair.now);
    pair.run(Duration::from_secs(1));
    assert_eq!(pair.relays[0].server.allocations(), 1, "given back at the end");
}
