//! Allocate and Refresh (RFC 8656 §7, §8).

use std::time::Duration;

use connlib_relay::server::{Families, PortError};

use crate::support::*;

const IP4: (u16, &[u8]) = (REQUESTED_ADDRESS_FAMILY, &[1, 0, 0, 0]);
const IP6: (u16, &[u8]) = (REQUESTED_ADDRESS_FAMILY, &[2, 0, 0, 0]);

#[test]
fn both_families_have_the_same_port() {
    let mut relay = Relay::new(config());
    let mut client = Client::stamped("198.51.100.7:5000", "a");
    let answer = client.ask(&mut relay, ALLOCATE, &[UDP, BOTH_FAMILIES]);
    assert_eq!(answer.code(), None);
    assert_eq!(answer.mapped(), client.tuple.remote);
    assert_eq!(answer.lifetime(), 600);
    let relayed = answer.relayed();
    assert_eq!(
        relayed.iter().map(|relayed| relayed.ip().to_string()).collect::<Vec<_>>(),
        ["203.0.113.1", "2001:db8::1"]
    );
    assert_eq!(relayed[0].port(), relayed[1].port());
    let open: Vec<_> = relay.open_ports.values().copied().collect();
    assert_eq!(open, [(relayed[0].port(), Families { ip4: true, ip6: true })]);
    assert!((49152..=65535).contains(&relayed[0].port()));
}

#[test]
fn one_family_can_be_had() {
    let mut relay = Relay::new(config());
    for (remote, attributes, ip) in [
        ("198.51.100.7:1", vec![UDP], "203.0.113.1"),
        ("198.51.100.7:2", vec![UDP, IP4], "203.0.113.1"),
        ("198.51.100.7:3", vec![UDP, IP6], "2001:db8::1"),
        ("[2001:db8:7::7]:4", vec![UDP], "203.0.113.1"),
    ] {
        let mut client = Client::stamped(remote, remote);
        let relayed = client.ask(&mut relay, ALLOCATE, &attributes).relayed();
        assert_eq!(relayed.len(), 1);
        assert_eq!(relayed[0].ip().to_string(), ip);
    }
}

#[test]
fn requests_that_make_no_sense_are_refused() {
    let reserved: (u16, &[u8]) = (RESERVATION_TOKEN, &[1; 8]);
    for (attributes, code) in [
        (vec![], 400),
        (vec![(REQUESTED_TRANSPORT, [17].as_slice())], 400),
        (vec![(REQUESTED_TRANSPORT, [6, 0, 0, 0].as_slice())], 442),
        (vec![UDP, IP4, BOTH_FAMILIES], 400),
        (vec![UDP, (ADDITIONAL_ADDRESS_FAMILY, &[1, 0, 0, 0])], 400),
        (vec![UDP, (REQUESTED_ADDRESS_FAMILY, &[3, 0, 0, 0])], 440),
        (vec![UDP, (REQUESTED_ADDRESS_FAMILY, &[1])], 400),
        (vec![UDP, (LIFETIME, &[1])], 400),
        (vec![UDP, (DONT_FRAGMENT, &[])], 420),
        (vec![UDP, (0x7fff, &[])], 420),
        (vec![UDP, reserved], 508),
        (vec![UDP, reserved, IP4], 400),
        (vec![UDP, reserved, (EVEN_PORT, &[0])], 400),
        (vec![UDP, (EVEN_PORT, &[0x80])], 508),
        (vec![UDP, (EVEN_PORT, &[0x80]), BOTH_FAMILIES], 400),
    ] {
        let mut relay = Relay::new(config());
        let mut client = Client::stamped("198.51.100.7:5000", "a");
        let answer = client.ask(&mut relay, ALLOCATE, &attributes);
        assert_eq!(answer.code(), Some(code), "{attributes:x?}");
        assert!(answer.is_signed());
        assert_eq!(answer.value(0x0a).is_some(), code == 420);
        assert_eq!(relay.server.allocations(), 0);
    }
}

#[test]
fn a_family_that_the_relay_lacks_is_missing() {
    let mut only_ip4 = config();
    only_ip4.public_ip6 = None;
    let mut relay = Relay::new(only_ip4);
    let mut client = Client::stamped("198.51.100.7:5000", "a");
    assert_eq!(client.ask(&mut relay, ALLOCATE, &[UDP, IP6]).code(), Some(440));
    let answer = client.ask(&mut relay, ALLOCATE, &[UDP, BOTH_FAMILIES]);
    assert_eq!(answer.relayed().len(), 1);
    assert_eq!(answer.value(ADDRESS_ERROR_CODE), Some(vec![2, 0, 4, 40]));

    let mut only_ip6 = config();
    only_ip6.public_ip4 = None;
    let mut relay = Relay::new(only_ip6);
    let mut client = Client::stamped("[2001:db8:7::7]:5000", "a");
    assert_eq!(client.ask(&mut relay, ALLOCATE, &[UDP]).code(), Some(440));
    let answer = client.ask(&mut relay, ALLOCATE, &[UDP, BOTH_FAMILIES]);
    assert_eq!(answer.relayed().len(), 1);
    assert_eq!(answer.value(ADDRESS_ERROR_CODE), Some(vec![1, 0, 4, 40]));
}

#[test]
fn a_lifetime_is_granted_within_bounds() {
    for (wanted, granted) in [(0_u32, 600), (60, 600), (1000, 1000), (100_000, 3600)] {
        let mut relay = Relay::new(config());
        let mut client = Client::stamped("198.51.100.7:5000", "a");
        let lifetime = wanted.to_be_bytes();
        let answer = client.ask(&mut relay, ALLOCATE, &[UDP, (LIFETIME, &lifetime)]);
        assert_eq!(answer.lifetime(), granted);
        relay.pass(Duration::from_secs(u64::from(granted) - 1));
        assert_eq!(relay.server.allocations(), 1);
        relay.pass(Duration::from_secs(1));
        assert_eq!(relay.server.allocations(), 0);
    }
}

/// An index into the caller's own table: small, while ids are never used again.
#[test]
fn slots_are_used_again() {
    let mut relay = Relay::new(config());
    let mut client = Client::stamped("198.51.100.7:5000", "a");
    let mut ids = Vec::new();
    for _ in 0..10 {
        ids.push(client.allocate(&mut relay));
        assert_eq!(client.ask(&mut relay, REFRESH, &[(LIFETIME, &[0; 4])]).code(), None);
    }
    assert!(ids.iter().all(|id| id.slot() == 0));
    ids.dedup();
    assert_eq!(ids.len(), 10);
    assert_eq!(relay.receive(ids[0], "192.0.2.9:9", b"late"), None);
}

#[test]
fn an_even_port_can_be_had() {
    let mut relay = Relay::new(config());
    for n in 0..20 {
        let mut client = Client::stamped(&format!("198.51.100.7:{}", 5000 + n), &n.to_string());
        let relayed = client.ask(&mut relay, ALLOCATE, &[UDP, (EVEN_PORT, &[0])]).relayed();
        assert_eq!(relayed[0].port() % 2, 0);
    }
}

#[test]
fn a_repeated_request_is_answered_as_before() {
    let mut relay = Relay::new(config());
    let mut client = Client::stamped("198.51.100.7:5000", "a");
    let answer = client.ask(&mut relay, ALLOCATE, &[UDP, BOTH_FAMILIES]);
    let relayed = answer.relayed();
    let transaction = client.transaction;
    let again = client.signed(ALLOCATE, &[UDP, BOTH_FAMILIES]);
    assert_eq!(relay.exchange(client.tuple, &again), Some(answer.bytes));
    assert_eq!(relay.server.allocations(), 1);
    // Once more, but not the same.
    assert_eq!(client.ask(&mut relay, ALLOCATE, &[UDP, BOTH_FAMILIES]).code(), Some(437));
    // Somebody else's request is none that is repeated: the answer is another one.
    let mut other = Client::stamped("198.51.100.7:5000", "b");
    (other.transaction, other.nonce) = (transaction, client.nonce.clone());
    let answer = relay.exchange(other.tuple, &other.signed(ALLOCATE, &[UDP])).unwrap();
    assert_ne!(Answer { bytes: answer }.relayed(), relayed);
}

#[test]
fn the_answer_waits_for_the_port() {
    let mut relay = Relay::new(config());
    relay.opens_ports = false;
    let mut client = Client::stamped("198.51.100.7:5000", "a");
    client.nonce = Some(challenge(&mut relay, &client));
    let request = client.signed(ALLOCATE, &[UDP]);
    assert_eq!(relay.exchange(client.tuple, &request), None);
    assert_eq!(
        relay.exchange(client.tuple, &request),
        None,
        "a repetition while the port is being opened"
    );
    assert_eq!(relay.forward(&client, &channel_data(0x4000, b"early")), None);

    let allocation = *relay.open_ports.keys().next().unwrap();
    relay.server.handle_port_opened(allocation, Ok(()), relay.now.instant);
    relay.run();
    let answer = Answer { bytes: relay.sent.last().unwrap().1.clone() };
    assert_eq!(answer.code(), None);
    assert_eq!(answer.relayed()[0].port(), relay.open_ports[&allocation].0);
}

#[test]
fn busy_ports_are_gone_around_then_given_up() {
    let mut config = config();
    config.allocation_ports = 50_000..=50_003;
    let mut relay = Relay::new(config);
    relay.busy_ports.extend([50_000, 50_001, 50_002]);
    let mut client = Client::stamped("198.51.100.7:5000", "a");
    assert_eq!(client.ask(&mut relay, ALLOCATE, &[UDP]).relayed()[0].port(), 50_003);

    relay.busy_ports.insert(50_003);
    let mut other = Client::stamped("198.51.100.7:5001", "b");
    assert_eq!(other.ask(&mut relay, ALLOCATE, &[UDP]).code(), Some(508));
    assert_eq!(relay.server.allocations(), 1);

    // The ports that were tried in vain are free for later.
    relay.busy_ports.clear();
    for n in 0..4 {
        let mut client = Client::stamped(&format!("198.51.100.8:{n}"), &n.to_string());
        let code = client.ask(&mut relay, ALLOCATE, &[UDP]).code();
        assert_eq!(code, if n < 3 { None } else { Some(508) });
    }
}

#[test]
fn a_port_that_cannot_be_opened_refuses_the_allocation() {
    let mut relay = Relay::new(config());
    relay.opens_ports = false;
    let mut client = Client::stamped("198.51.100.7:5000", "a");
    client.nonce = Some(challenge(&mut relay, &client));
    assert_eq!(relay.exchange(client.tuple, &client.signed(ALLOCATE, &[UDP])), None);
    let allocation = *relay.open_ports.keys().next().unwrap();
    relay.server.handle_port_opened(allocation, Err(PortError::Unavailable), relay.now.instant);
    relay.open_ports.clear();
    relay.run();
    assert_eq!(Answer { bytes: relay.sent.last().unwrap().1.clone() }.code(), Some(508));
    assert_eq!(relay.server.allocations(), 0);
    // Nothing comes of a second answer.
    relay.server.handle_port_opened(allocation, Ok(()), relay.now.instant);
    assert_eq!(relay.run(), None);
}

#[test]
fn an_allocation_lives_as_long_as_it_is_refreshed() {
    let mut relay = Relay::new(config());
    let mut client = Client::stamped("198.51.100.7:5000", "a");
    assert_eq!(client.ask(&mut relay, REFRESH, &[]).code(), Some(437));
    client.allocate(&mut relay);
    relay.pass(Duration::from_secs(599));
    assert_eq!(client.ask(&mut relay, REFRESH, &[]).lifetime(), 600);
    relay.pass(Duration::from_secs(599));
    assert_eq!(client.ask(&mut relay, REFRESH, &[(LIFETIME, &[0, 0, 0, 1])]).lifetime(), 600);
    assert_eq!(client.ask(&mut relay, REFRESH, &[(LIFETIME, &[0, 0, 4, 0])]).lifetime(), 1024);
    assert_eq!(client.ask(&mut relay, REFRESH, &[(LIFETIME, &[0, 1, 0, 0])]).lifetime(), 3600);
    relay.pass(Duration::from_secs(3599));
    assert_eq!(relay.server.allocations(), 1);
    relay.pass(Duration::from_secs(1));
    assert_eq!(relay.server.allocations(), 0);
    assert!(relay.open_ports.is_empty());
    assert_eq!(relay.run(), None, "no timer is left");
    assert_eq!(client.ask(&mut relay, REFRESH, &[]).code(), Some(437));
}

#[test]
fn a_lifetime_of_zero_ends_an_allocation_with_its_channels() {
    let mut relay = Relay::new(config());
    let mut client = Client::stamped("198.51.100.7:5000", "a");
    client.allocate(&mut relay);
    assert_eq!(client.bind(&mut relay, 0x4000, "192.0.2.9:9"), None);
    assert_eq!(client.permit(&mut relay, &["192.0.2.10:9"]), None);
    assert_eq!(client.ask(&mut relay, REFRESH, &[(LIFETIME, &[0; 4])]).lifetime(), 0);
    assert_eq!((relay.server.allocations(), relay.server.channels()), (0, 0));
    assert!(relay.open_ports.is_empty() && relay.channels.is_empty());
    assert_eq!(relay.run(), None, "no timer is left");
    client.allocate(&mut relay);
}

#[test]
fn one_of_two_families_can_be_ended() {
    let mut relay = Relay::new(config());
    let mut client = Client::stamped("198.51.100.7:5000", "a");
    let allocation = client.allocate(&mut relay);
    assert_eq!(client.bind(&mut relay, 0x4000, "192.0.2.9:9"), None);
    assert_eq!(client.bind(&mut relay, 0x4001, "[2001:db8:9::9]:9"), None);
    assert_eq!(client.ask(&mut relay, REFRESH, &[(LIFETIME, &[0; 4]), IP6]).lifetime(), 0);
    assert_eq!(relay.open_ports[&allocation].1, Families { ip4: true, ip6: false });
    assert_eq!(relay.channels.iter().map(|binding| binding.channel).collect::<Vec<_>>(), [0x4000]);
    assert!(relay.forward(&client, &channel_data(0x4000, b"x")).is_some());
    assert!(relay.forward(&client, &channel_data(0x4001, b"x")).is_none());
    assert_eq!(client.bind(&mut relay, 0x4001, "[2001:db8:9::9]:9"), Some(443));
    assert_eq!(client.permit(&mut relay, &["[2001:db8:9::9]:9"]), Some(443));
    assert_eq!(client.ask(&mut relay, REFRESH, &[IP6]).code(), Some(443));
    assert_eq!(client.ask(&mut relay, REFRESH, &[(LIFETIME, &[0; 4]), IP4]).lifetime(), 0);
    assert!(relay.open_ports.is_empty());
}

#[test]
fn a_newer_allocation_of_a_stamped_username_wins() {
    let mut relay = Relay::new(config());
    let mut before = Client::stamped("198.51.100.7:5000", "a");
    let mut after = Client::stamped("198.51.100.7:6000", "a");
    let mut stream = Client::stamped("198.51.100.7:7000", "a").over_stream(1);
    before.allocate(&mut relay);
    stream.allocate(&mut relay);
    relay.pass(Duration::from_secs(1));
    after.allocate(&mut relay);
    assert_eq!(before.ask(&mut relay, REFRESH, &[]).code(), Some(437));
    assert_eq!(
        stream.ask(&mut relay, REFRESH, &[]).code(),
        None,
        "a stream's doesn't compete with that over UDP"
    );
    assert_eq!(relay.moved.len(), 3);

    // Other workers drop what is older, too, and nothing else.
    let mut other_worker = Relay::new(config());
    other_worker.now = relay.now;
    let mut there = Client::stamped("198.51.100.7:8000", "a");
    let mut somebody = Client::stamped("198.51.100.7:9000", "b");
    there.allocate(&mut other_worker);
    somebody.allocate(&mut other_worker);
    other_worker.server.handle_username_moved(&relay.moved[0]);
    other_worker.run();
    assert_eq!(other_worker.server.allocations(), 2, "that was before");
    let mut newest = Client::stamped("198.51.100.7:5000", "a");
    relay.pass(Duration::from_secs(1));
    newest.allocate(&mut relay);
    other_worker.server.handle_username_moved(relay.moved.last().unwrap());
    other_worker.run();
    assert_eq!(there.ask(&mut other_worker, REFRESH, &[]).code(), Some(437));
    assert_eq!(somebody.ask(&mut other_worker, REFRESH, &[]).code(), None);
}

#[test]
fn an_allocation_goes_with_its_stream() {
    let mut relay = Relay::new(config());
    let mut client = Client::stamped("198.51.100.7:5000", "a").over_stream(9);
    client.allocate(&mut relay);
    relay.server.handle_stream_closed(Client::stamped("198.51.100.7:5000", "a").tuple);
    relay.run();
    assert_eq!(relay.server.allocations(), 1);
    relay.server.handle_stream_closed(client.tuple);
    relay.run();
    assert_eq!(relay.server.allocations(), 0);
    assert!(relay.open_ports.is_empty());
}

#[test]
fn a_relay_that_drains_serves_what_it_has() {
    let mut relay = Relay::new(config());
    let mut old = Client::stamped("198.51.100.7:5000", "a");
    old.allocate(&mut relay);
    relay.server.drain();
    assert_eq!(
        Client::stamped("198.51.100.7:5001", "b").ask(&mut relay, ALLOCATE, &[UDP]).code(),
        Some(508)
    );
    assert_eq!(old.ask(&mut relay, REFRESH, &[]).code(), None);
    assert_eq!(old.bind(&mut relay, 0x4000, "192.0.2.9:9"), None);
    assert_eq!(old.ask(&mut relay, REFRESH, &[(LIFETIME, &[0; 4])]).code(), None);
    assert_eq!(relay.server.allocations(), 0);
}

fn challenge(relay: &mut Relay, client: &Client) -> String {
    let bytes = relay.exchange(client.tuple, &client.signed(ALLOCATE, &[UDP])).unwrap();
    Answer { bytes }.nonce().unwrap()
}
