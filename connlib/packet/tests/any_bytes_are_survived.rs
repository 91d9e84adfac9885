//! Whatever comes in, nothing panics, and what is accepted is what it seems to be.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test")]

mod support;

use connlib_packet::control::{self, Event};
use connlib_packet::{
    Coalesce, Ecn, Headers, IcmpError, Offload, PacketBatch, Scratch, Transport, TunPacket,
    VIRTIO_HEADER,
};
use etherparse::{NetSlice, SlicedPacket, TransportSlice};
use support::{KINDS, Random, address, packet};

/// A packet with some bytes, or its length, changed; lengths often made to fit again.
fn mutated(random: &mut Random) -> Vec<u8> {
    let kind = KINDS[random.below(3) as usize];
    let (is_ipv6, payload) = (random.below(2) == 0, random.below(100) as usize);
    let mut bytes = packet(random, kind, is_ipv6, payload);
    if random.below(4) == 0 {
        let mut out = [0; 1280];
        if let Some(len) = IcmpError::TimeExceeded.answer(&bytes, &mut out) {
            bytes = out[..len].to_vec();
        }
    }
    if bytes[0] >> 4 == 6 && random.below(2) == 0 {
        let mut next = bytes[6];
        for _ in 0..random.below(4) {
            let mut extension = random.bytes(8);
            extension[0] = next;
            extension[1] = (random.below(8) == 0).into();
            extension[2] = 0;
            extension[3] &= 6;
            next = [0, 43, 44, 51, 60][random.below(5) as usize];
            bytes.splice(40..40, extension);
        }
        bytes[6] = next;
    }
    for _ in 0..random.below(4) {
        // Mostly the headers.
        let end = if random.below(2) == 0 { bytes.len().min(64) } else { bytes.len() };
        let at = random.below(end as u64) as usize;
        bytes[at] = match random.below(3) {
            0 => random.next() as u8,
            1 => bytes[at] ^ 1 << random.below(8),
            _ => [0, 1, 0xff, 0x7f, 0x80][random.below(5) as usize],
        };
    }
    match random.below(4) {
        0 => bytes.truncate(random.below(bytes.len() as u64 + 1) as usize),
        1 => bytes.extend(random.array::<3>()),
        _ => {}
    }
    if random.below(4) > 0 {
        fit(&mut bytes);
    }
    bytes
}

/// Sets the IP length to the number of bytes.
fn fit(bytes: &mut [u8]) {
    let len = bytes.len();
    match bytes.first().map(|byte| byte >> 4) {
        Some(4) if len >= 20 => bytes[2..4].copy_from_slice(&(len as u16).to_be_bytes()),
        Some(6) if len >= 40 => bytes[4..6].copy_from_slice(&(len as u16 - 40).to_be_bytes()),
        _ => {}
    }
}

/// Everything that can be done to a packet.
fn exercise(random: &mut Random, bytes: &mut [u8], offload: Offload) -> bool {
    let _ = control::is_control(bytes);
    let _ = Event::decode(bytes);
    let mut out = vec![0; random.below(1400) as usize];
    let _ = IcmpError::prohibited().answer(bytes, &mut out);
    let len = bytes.len();
    let Ok(mut packet) = TunPacket::parse(bytes, offload) else { return false };
    assert_eq!(packet.headers().len(), len);
    assert!(packet.headers().transport_offset() <= packet.headers().payload_offset());
    assert!(packet.headers().payload_offset() <= len);
    for is_ipv6 in [false, true] {
        let _ = packet.set_source(address(random, is_ipv6));
        let _ = packet.set_destination(address(random, is_ipv6));
        let _ = packet.set_quoted_source(address(random, is_ipv6));
        let _ = packet.set_quoted_destination(address(random, is_ipv6));
    }
    let word = random.next() as u16;
    let _ = packet.set_source_port(word);
    let _ = packet.set_destination_port(word);
    let _ = packet.set_identifier(word);
    let _ = packet.set_quoted_source_port(word);
    let _ = packet.set_quoted_destination_port(word);
    let _ = packet.set_quoted_identifier(word);
    packet.set_hop_limit(word as u8);
    packet.apply_outer_ecn(Ecn::from_bits(word as u8));
    let _ = packet.is_intact();
    assert_eq!(*packet.headers(), Headers::parse(packet.bytes()).unwrap());

    let mtu = random.below(1500) as u16;
    let Ok(mut segments) = packet.segments(mtu) else { return true };
    let count = segments.remaining();
    assert!((1..=256).contains(&count));
    for _ in 0..count {
        let segment = segments.next_segment().unwrap();
        assert!(segment.len() <= usize::from(mtu));
        assert!(Headers::parse(segment).is_ok());
    }
    assert!(segments.next_segment().is_none());
    true
}

#[test]
fn random_bytes() {
    let mut random = Random::new(1);
    for _ in 0..200_000 {
        let len = random.below(120) as usize;
        let mut bytes = random.bytes(len);
        if let Some(first) = bytes.first_mut() {
            *first = [0x45, 0x60, *first, 0x46][random.below(4) as usize];
        }
        fit(&mut bytes);
        let mut header = random.array::<VIRTIO_HEADER>();
        header[0] &= 1;
        header[1] &= 0x85;
        let offload = Offload::decode(&header).unwrap_or_default();
        exercise(&mut random, &mut bytes, offload);
    }
}

#[test]
fn mutated_packets() {
    let mut random = Random::new(2);
    let mut accepted = 0;
    for _ in 0..200_000 {
        let mut bytes = mutated(&mut random);
        let mut header = [0; VIRTIO_HEADER];
        if random.below(2) == 0 {
            header[0] = 1;
            header[1] = [0, 1, 4, 5][random.below(4) as usize];
            for (at, bound) in [(4, 200), (6, 70), (8, 20)] {
                header[at..at + 2].copy_from_slice(&(random.below(bound) as u16).to_ne_bytes());
            }
        }
        let Ok(offload) = Offload::decode(&header) else { continue };
        accepted += usize::from(exercise(&mut random, &mut bytes, offload));
    }
    assert!(accepted > 20_000, "{accepted}");
}

#[test]
fn batches_of_anything() {
    let mut random = Random::new(3);
    let mut batch = PacketBatch::new(1 << 16, 64);
    let mut scratch = Scratch::default();
    for _ in 0..2_000 {
        batch.clear();
        let mut bytes = mutated(&mut random);
        loop {
            if random.below(4) == 0 {
                bytes = mutated(&mut random);
            }
            if !batch.push(&bytes) {
                break;
            }
        }
        let writes = batch.coalesce(Coalesce { tcp: true, udp: true }, &mut scratch);
        let packets: usize = writes.iter().map(|write| write.packets().len()).sum();
        assert_eq!(packets, batch.len());
        for write in writes.iter() {
            let pieces: usize = write.pieces().map(<[u8]>::len).sum();
            assert_eq!(write.head().len() + pieces, write.len());
        }
    }
}

/// `etherparse` sees the same in all that we accept.
#[test]
fn etherparse_agrees() {
    let mut random = Random::new(4);
    let mut agreed = 0;
    for _ in 0..200_000 {
        let bytes = mutated(&mut random);
        let Ok(headers) = Headers::parse(&bytes) else { continue };
        let Ok(sliced) = SlicedPacket::from_ip(&bytes) else { continue };
        let (payload, protocol) = match sliced.net.as_ref().unwrap() {
            NetSlice::Ipv4(ip) => {
                assert_eq!(headers.source(), ip.header().source_addr());
                assert_eq!(headers.destination(), ip.header().destination_addr());
                assert!(!ip.is_payload_fragmented());
                (ip.payload().payload, ip.payload().ip_number.0)
            }
            NetSlice::Ipv6(ip) => {
                assert_eq!(headers.source(), ip.header().source_addr());
                assert_eq!(headers.destination(), ip.header().destination_addr());
                assert!(!ip.is_payload_fragmented());
                (ip.payload().payload, ip.payload().ip_number.0)
            }
            NetSlice::Arp(_) => panic!("no ARP inside IP"),
        };
        if protocol != headers.protocol() {
            // It knows an order of extension headers, and stops where a packet doesn't keep to it; and it takes an
            // authentication header of IPv4 for one.
            assert!(matches!(protocol, 0 | 43 | 44 | 51 | 60) || headers.protocol() == 51);
            continue;
        }
        agreed += 1;
        assert_eq!(payload, &bytes[headers.transport_offset()..]);
        let rest = &bytes[headers.payload_offset()..];
        match (sliced.transport, headers.transport()) {
            (Some(TransportSlice::Tcp(tcp)), Transport::Tcp { source, destination }) => {
                assert_eq!((tcp.source_port(), tcp.destination_port()), (source, destination));
                assert_eq!(tcp.payload(), rest);
                assert_eq!(tcp.syn(), headers.tcp_flags().unwrap().0 & 2 != 0);
            }
            (Some(TransportSlice::Udp(udp)), Transport::Udp { source, destination }) => {
                assert_eq!((udp.source_port(), udp.destination_port()), (source, destination));
                assert_eq!(udp.payload(), rest);
            }
            (Some(TransportSlice::Icmpv4(_) | TransportSlice::Icmpv6(_)), _) => {
                assert!(headers.is_icmp());
            }
            (None | Some(TransportSlice::Igmp(_)), Transport::Other { .. }) => {}
            other => panic!("{other:?}"),
        }
    }
    assert!(agreed > 20_000, "{agreed}");
}
