//! What passes between clients and peers, and that it costs no memory (RFC 8656 §11, §12).

use std::time::Duration;

use connlib_relay::server::{Drop, Prefix};
use stun_types::message::{Message, MessageClass, Method};
use turn_types::attribute::{Data, XorPeerAddress};

use crate::support::*;

const PEER: &str = "192.0.2.9:900";
const PEER6: &str = "[2001:db8:9::9]:900";

#[test]
fn channel_data_passes_both_ways() {
    let mut relay = Relay::new(config());
    let mut client = Client::stamped("198.51.100.7:5000", "a");
    let allocation = client.allocate(&mut relay);
    assert_eq!(client.bind(&mut relay, 0x4000, PEER), None);
    assert_eq!(client.bind(&mut relay, 0x4fff, PEER6), None);
    for (channel, peer) in [(0x4000, PEER), (0x4fff, PEER6)] {
        let message = channel_data(channel, b"hello");
        let to_peer = relay.forward(&client, &message).unwrap();
        assert_eq!((to_peer.peer, to_peer.payload), (address(peer), b"hello".as_slice()));
        assert_eq!(
            (to_peer.allocation, to_peer.port),
            (allocation, relay.open_ports[&allocation].0)
        );

        let padded = [&message, [0; 3].as_slice()].concat();
        assert_eq!(relay.forward(&client, &padded).unwrap().payload, b"hello");
        assert_eq!(relay.receive(allocation, peer, b"hello"), Some(message), "no padding over UDP");
    }
    assert_eq!(relay.server.counters().to_peers.bytes, 20);
    assert_eq!(relay.server.counters().to_clients.packets, 2);

    assert_eq!(relay.forward(&client, &channel_data(0x4001, b"x")), None);
    assert_eq!(relay.forward(&client, b"\x40\x00\x00\x05four"), None);
    assert_eq!(relay.forward(&client, b"\x80\x00\x00\x04four"), None);
    assert_eq!(
        relay.forward(&Client::stamped("198.51.100.7:5001", "a"), &channel_data(0x4000, b"x")),
        None
    );
    let dropped = |reason| relay.server.counters().dropped(reason);
    assert_eq!(
        (dropped(Drop::NoChannel), dropped(Drop::Malformed), dropped(Drop::NoAllocation)),
        (1, 2, 1)
    );
}

#[test]
fn channel_data_over_a_stream_is_padded() {
    let mut relay = Relay::new(config());
    let mut client = Client::stamped("198.51.100.7:5000", "a").over_stream(4);
    let allocation = client.allocate(&mut relay);
    assert_eq!(client.bind(&mut relay, 0x4000, PEER), None);
    for (payload, len) in [(b"".as_slice(), 4), (b"x", 8), (b"four", 8), (b"fives", 12)] {
        let message = relay.receive(allocation, PEER, payload).unwrap();
        assert_eq!(message.len(), len);
        assert_eq!(relay.forward(&client, &message).unwrap().payload, payload);
    }
}

#[test]
fn indications_pass_both_ways() {
    let mut relay = Relay::new(config());
    let mut client = Client::stamped("198.51.100.7:5000", "a");
    let allocation = client.allocate(&mut relay);
    assert_eq!(client.permit(&mut relay, &[PEER, PEER6]), None);
    // A permission is for an address, whatever the port.
    for peer in [PEER, PEER6, "192.0.2.9:1"] {
        for payload in [b"".as_slice(), b"hello", b"four"] {
            let message = client.send_indication(peer, payload);
            let to_peer = relay.forward(&client, &message).unwrap();
            assert_eq!(
                (to_peer.peer, to_peer.payload, to_peer.allocation),
                (address(peer), payload, allocation)
            );

            let bytes = relay.receive(allocation, peer, payload).unwrap();
            let indication = Message::from_bytes(&bytes).unwrap();
            assert!(
                indication.has_class(MessageClass::Indication)
                    && indication.has_method(Method::new(7))
            );
            let from =
                indication.attribute::<XorPeerAddress>().unwrap().addr(indication.transaction_id());
            assert_eq!(from, address(peer));
            assert_eq!(indication.attribute::<Data>().unwrap().data(), payload);
        }
    }
    assert_eq!(relay.forward(&client, &client.send_indication("192.0.2.10:900", b"x")), None);
    assert_eq!(relay.receive(allocation, "192.0.2.10:900", b"x"), None);
    assert_eq!(relay.server.counters().dropped(Drop::NoPermission), 2);
}

#[test]
fn a_channel_makes_a_permission_for_the_whole_address() {
    let mut relay = Relay::new(config());
    let mut client = Client::stamped("198.51.100.7:5000", "a");
    let allocation = client.allocate(&mut relay);
    assert_eq!(client.bind(&mut relay, 0x4000, PEER), None);
    assert!(relay.receive(allocation, "192.0.2.9:901", b"x").unwrap().len() > Prefix::MAX - 12);
    assert_eq!(relay.receive(allocation, PEER, b"x").unwrap(), channel_data(0x4000, b"x"));
    assert!(relay.forward(&client, &client.send_indication(PEER, b"x")).is_some());
}

#[test]
fn permissions_last_five_minutes_and_channels_ten() {
    let mut relay = Relay::new(config());
    let mut client = Client::stamped("198.51.100.7:5000", "a");
    let allocation = client.allocate(&mut relay);
    assert_eq!(client.bind(&mut relay, 0x4000, PEER), None);
    assert_eq!(client.permit(&mut relay, &[PEER6]), None);
    let works = |relay: &mut Relay| {
        let is_permitted = relay.receive(allocation, PEER6, b"x").is_some();
        let is_bound = relay.receive(allocation, PEER, b"x").is_some();
        let client = Client::stamped("198.51.100.7:5000", "a");
        assert_eq!(
            relay.forward(&client, &client.send_indication(PEER6, b"x")).is_some(),
            is_permitted
        );
        assert_eq!(relay.forward(&client, &channel_data(0x4000, b"x")).is_some(), is_bound);
        (is_permitted, is_bound)
    };
    relay.pass(Duration::from_secs(299));
    assert_eq!(works(&mut relay), (true, true));
    relay.pass(Duration::from_secs(1));
    assert_eq!(works(&mut relay), (false, true));

    assert_eq!(client.ask(&mut relay, REFRESH, &[]).code(), None);
    assert_eq!(client.permit(&mut relay, &[PEER6]), None);
    relay.pass(Duration::from_secs(299));
    assert_eq!(client.bind(&mut relay, 0x4000, PEER), None);
    assert_eq!(relay.channels.len(), 1, "binding again is no news");
    relay.pass(Duration::from_secs(299));
    assert_eq!(works(&mut relay), (false, true));
    assert_eq!(client.ask(&mut relay, REFRESH, &[]).code(), None);
    relay.pass(Duration::from_secs(301));
    assert_eq!(works(&mut relay), (false, false));
    assert_eq!(
        (relay.server.allocations(), relay.server.channels(), relay.channels.len()),
        (1, 0, 0)
    );
}

#[test]
fn nothing_is_allocated_per_packet() {
    let mut relay = Relay::new(config());
    let mut client = Client::stamped("198.51.100.7:5000", "a");
    let allocation = client.allocate(&mut relay);
    assert_eq!(client.bind(&mut relay, 0x4000, PEER), None);
    assert_eq!(client.permit(&mut relay, &[PEER6]), None);
    let data = channel_data(0x4000, &[7; 1200]);
    let indication = client.send_indication(PEER6, &[7; 1200]);
    let (peer, peer6, tuple, now) = (address(PEER), address(PEER6), client.tuple, relay.now);
    let mut passed = 0;
    let counted = allocation_counter::measure(|| {
        for _ in 0..1000 {
            for message in [&data, &indication] {
                let received = relay.server.handle_client(tuple, message, now);
                passed +=
                    usize::from(matches!(received, connlib_relay::server::FromClient::Forward(_)));
            }
            for peer in [peer, peer6, address("192.0.2.77:1")] {
                passed += usize::from(relay.server.handle_peer(allocation, peer, 1200).is_some());
            }
        }
    });
    assert_eq!(passed, 4000);
    assert_eq!(counted.count_total, 0);
}
