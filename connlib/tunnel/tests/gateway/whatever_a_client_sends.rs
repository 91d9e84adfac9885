//! Nothing that a client sends crashes, stalls or fills a gateway.

use std::time::Duration;

use connlib_packet::control::{self, AssignedIps};
use connlib_tunnel::DropReason;
use rand::{Rng, RngExt, SeedableRng};
use rand_chacha::ChaCha20Rng;

use crate::lab::{Lab, NAMES, udp};

/// A control packet with any code and body.
fn control_packet(code: u8, body: &[u8]) -> Vec<u8> {
    let mut packet = control::Event::Goodbye.encode().unwrap();
    packet[40] = code;
    packet.extend_from_slice(body);
    let len = packet.len() as u16 - 40;
    packet[4..6].copy_from_slice(&len.to_be_bytes());
    packet
}

#[test]
fn control_messages_that_make_no_sense_are_counted() {
    let mut lab = Lab::connected();
    for (code, body) in [
        (0, &b""[..]),
        (0, b"{}"),
        (0, b"\xff\xfe"),
        (0, b"{\"resource\":1,\"domain\":\"a.test\",\"proxy_ips\":[]}"),
        (1, b"{}"),
        (7, b"of a later version"),
    ] {
        lab.send_raw(0, &control_packet(code, body));
    }
    assert_eq!(lab.dropped(DropReason::Control), 6);
    assert_eq!(lab.take_messages(0), []);
    // Too short for a control packet: an ordinary one from an address that is not the client's.
    let mut short = control_packet(2, b"");
    short.truncate(44);
    short[4..6].copy_from_slice(&4u16.to_be_bytes());
    lab.send_raw(0, &short);
    assert_eq!(lab.dropped(DropReason::ForeignSource), 1);
    assert_eq!(lab.take_gone(), []);
}

#[test]
fn any_bytes() {
    let mut rng = ChaCha20Rng::seed_from_u64(1);
    let mut lab = Lab::connected();
    lab.announce(0, NAMES, "web.test", 1);
    lab.resolve("web.test", &["192.168.0.1"]);
    let good = [
        udp("100.64.0.1:5000", "10.1.0.1:53"),
        udp("100.64.0.1:5000", "100.96.0.1:53"),
        udp("[fd00:2021:1111::1]:5000", "[fd00:2021:1111:8000::1]:80"),
        crate::lab::tcp("100.64.0.1:5000", "100.96.0.1:80", b"payload"),
        control_packet(0, br#"{"resource":"00000000-0000-0000-0000-000000000002","domain":"a.test","proxy_ips":["100.96.0.9","100.96.0.10","100.96.0.11","100.96.0.12"]}"#),
    ];
    for round in 0..4000 {
        let mut bytes = good[round % good.len()].clone();
        for _ in 0..rng.random_range(0..4) {
            let at = rng.random_range(0..bytes.len());
            bytes[at] = rng.random();
        }
        if rng.random_range(0..4) == 0 {
            bytes.truncate(rng.random_range(1..bytes.len()));
        }
        lab.send_raw(0, &bytes);
        if let Ok(packet) = connlib_packet::TunPacket::parse(&mut bytes, Default::default()) {
            let back = packet.bytes().to_vec();
            lab.arrive(&back);
        }
        lab.requests.clear();
    }
    // A corrupt packet may have been a goodbye, but nothing else ends a client.
    assert!(lab.gateway.clients() <= 1);
    assert!(lab.gateway.stats().drops().count() >= 4);

    // Datagrams from strangers.
    for _ in 0..1000 {
        let mut bytes = vec![0; rng.random_range(1..200)];
        rng.fill_bytes(&mut bytes);
        bytes[0] %= 5;
        let mut batch = connlib_packet::PacketBatch::new(4096, 4);
        let (local, remote) = ("198.51.100.1:52625", "203.0.113.9:9");
        let datagrams = connlib_tunnel::Datagrams::one(
            crate::lab::socket(local),
            crate::lab::socket(remote),
            &bytes,
        );
        lab.gateway.handle_datagrams(datagrams, &mut batch, lab.now);
        assert!(batch.is_empty());
    }
    lab.settle();
}

#[test]
fn a_flood_of_names_is_held_back() {
    let mut lab = Lab::connected();
    for number in 0..6000u32 {
        let [.., high, low] = (number * 4).to_be_bytes();
        let assigned = AssignedIps {
            resource: NAMES.0,
            domain: format!("{number}.test"),
            proxy_ips: (0..4).map(|n| [100, 97, high, low + n].into()).collect(),
        };
        lab.tell(0, &control::Event::AssignedIps(assigned));
    }
    assert_eq!(lab.requests.len(), 256, "so many wait at the same time");
    assert!(lab.dropped(DropReason::RateLimited) > 1000);
    lab.wait(Duration::from_secs(11));
    lab.announce(0, NAMES, "web.test", 1);
    assert_eq!(lab.requests.len(), 257);
}

#[test]
fn a_batch_without_room_loses_packets_and_says_so() {
    let mut lab = Lab::connected();
    let mut queue = connlib_link::SendQueue::new(0);
    for port in 0..10 {
        let mut packet = udp(&format!("100.64.0.1:{}", 5000 + port), "10.1.0.1:53");
        let packet = connlib_packet::TunPacket::parse(&mut packet, Default::default()).unwrap();
        let node = &mut lab.clients[0].node;
        node.seal(crate::lab::GATEWAY.into(), packet, &mut queue, lab.now).unwrap();
    }
    let mut batch = connlib_packet::PacketBatch::new(64 * 1024, 4);
    for (run, bytes) in queue.runs() {
        let datagrams = connlib_tunnel::Datagrams {
            local: run.path.remote,
            remote: crate::lab::socket("192.0.2.1:52625"),
            ecn: connlib_packet::Ecn::NotEct,
            stride: run.segment_size,
            bytes,
        };
        lab.gateway.handle_datagrams(datagrams, &mut batch, lab.now);
    }
    assert_eq!(batch.len(), 4);
    assert_eq!(lab.dropped(DropReason::Overflow), 6);
}
