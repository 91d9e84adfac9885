//! Packets that travel by a relay cost no memory once the way is known.
#![allow(missing_docs)]

mod common;

use std::time::Duration;

use common::{GATEWAY, Pair, RelayHost, packet};
use connlib_link::{Datagram, Opened, SendQueue};
use connlib_packet::TunPacket;

#[test]
fn through_a_relay() {
    let mut pair = Pair::new();
    pair.relays = vec![RelayHost::new(1, pair.now)];
    pair.announce_relays();
    // The gateway takes nothing but what comes by its relay.
    pair.blocked = |from, to| {
        let is_end = |port: u16| port == 52625;
        is_end(from.port()) && (is_end(to.port()) || to.port() != 3478)
    };
    pair.connect();
    let path = pair.client.node.path(GATEWAY).unwrap();
    assert!(path.local.unwrap().ip().to_string().starts_with("203.0.113."), "{path:?}");

    let mut queue = SendQueue::new(0);
    let bytes = packet(&[7; 1000]);
    let now = pair.now;
    let mut carried = 0;
    let measured = allocation_counter::measure(|| {
        for _ in 0..1000 {
            let mut packet = [0; 1100];
            let packet = &mut packet[..bytes.len()];
            packet.copy_from_slice(&bytes);
            let packet = TunPacket::parse(packet, Default::default()).unwrap();
            pair.client.node.seal(GATEWAY, packet, &mut queue, now).unwrap();
            queue.clear();
            carried += 1;
        }
    });
    assert_eq!((carried, measured.count_total), (1000, 0));

    // What the relay brings: the same datagrams, as the gateway gets them.
    let mut datagrams = Vec::new();
    for _ in 0..100 {
        let mut packet = bytes.clone();
        let packet = TunPacket::parse(&mut packet, Default::default()).unwrap();
        pair.client.node.seal(GATEWAY, packet, &mut queue, now).unwrap();
        for (run, sent) in queue.runs() {
            assert_eq!(run.segment_size, bytes.len() + connlib_link::OVERHEAD + 4);
            let from = run.path.local.unwrap();
            for (from, to, payload) in pair.relays[0].handle(from, run.path.remote, sent, now) {
                datagrams.extend(pair.relays[0].handle(from, to, &payload, now));
            }
        }
        queue.clear();
    }
    assert_eq!(datagrams.len(), 100);
    let mut slot = vec![0; 2048];
    let mut opened = 0;
    let measured = allocation_counter::measure(|| {
        for (from, to, payload) in &datagrams {
            let datagram = Datagram { local: *to, remote: *from, payload };
            if let Opened::Packet { .. } = pair.gateway.node.open(datagram, &mut slot, now) {
                opened += 1;
            }
        }
    });
    assert_eq!((opened, measured.count_total), (100, 0));
    pair.run(Duration::from_secs(1));
}
