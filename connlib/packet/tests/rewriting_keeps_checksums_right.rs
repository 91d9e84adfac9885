//! After every rewrite the checksums are what they would be if the packet had been built that way.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test")]

mod support;

use connlib_packet::{Ecn, Headers, Offload, PartialChecksum, RewriteError, Transport, TunPacket};
use support::{KINDS, Kind, Random, address, assert_intact, checksum_of, judge, packet};

/// One random rewrite.
fn rewrite(random: &mut Random, packet: &mut TunPacket<'_>, is_ipv6: bool) {
    let word = *[0, 0xffff, random.next() as u16].get(random.below(3) as usize).unwrap();
    match random.below(7) {
        0 => packet.set_source(address(random, is_ipv6)).unwrap(),
        1 => packet.set_destination(address(random, is_ipv6)).unwrap(),
        2 => {
            let result = packet.set_source_port(word);
            assert_eq!(result.is_ok(), packet.headers().transport().source_port().is_some());
        }
        3 => {
            let result = packet.set_destination_port(word);
            assert_eq!(result.is_ok(), packet.headers().transport().source_port().is_some());
        }
        4 => {
            let result = packet.set_identifier(word);
            assert_eq!(result.is_ok(), packet.headers().is_icmp());
        }
        5 => packet.set_hop_limit(random.next() as u8),
        _ => packet.apply_outer_ecn(Ecn::from_bits(random.next() as u8)),
    }
}

fn random_ecn(random: &mut Random, packet: &mut [u8]) {
    let ecn = random.below(4) as u8;
    if packet[0] >> 4 == 6 {
        packet[1] |= ecn << 4;
    } else {
        packet[1] |= ecn;
        packet[10..12].fill(0);
        let checksum = checksum_of(&[&packet[..20]]);
        packet[10..12].copy_from_slice(&checksum.to_be_bytes());
    }
}

#[test]
fn complete_checksums() {
    let mut random = Random::new(1);
    for round in 0..20_000 {
        let (kind, is_ipv6) = (KINDS[round % 3], round % 2 == 0);
        let payload = random.below(60) as usize;
        let mut bytes = packet(&mut random, kind, is_ipv6, payload);
        random_ecn(&mut random, &mut bytes);
        let payload_before = bytes[bytes.len() - payload..].to_vec();
        let mut packet = TunPacket::parse(&mut bytes, Offload::NONE).unwrap();
        for _ in 0..4 {
            rewrite(&mut random, &mut packet, is_ipv6);
            judge(packet.bytes());
            assert!(packet.is_intact());
            assert_eq!(*packet.headers(), Headers::parse(packet.bytes()).unwrap());
        }
        assert_eq!(packet.bytes()[packet.bytes().len() - payload..], payload_before);
    }
}

#[test]
fn wrong_checksums_stay_wrong() {
    let mut random = Random::new(2);
    for round in 0..5_000 {
        let (kind, is_ipv6) = (KINDS[round % 3], round % 2 == 0);
        let mut bytes = packet(&mut random, kind, is_ipv6, 20);
        *bytes.last_mut().unwrap() ^= 0x10;
        let mut packet = TunPacket::parse(&mut bytes, Offload::NONE).unwrap();
        assert!(!packet.is_intact());
        rewrite(&mut random, &mut packet, is_ipv6);
        assert!(!packet.is_intact());
    }
}

/// Replaces the transport's checksum by the kernel's promise of one.
fn make_partial(bytes: &mut [u8], kind: Kind) -> Offload {
    let (start, addresses) = match bytes[0] >> 4 {
        4 => (20u16, bytes[12..20].to_vec()),
        _ => (40, bytes[8..40].to_vec()),
    };
    let (offset, protocol) = match kind {
        Kind::Tcp => (16u16, 6),
        Kind::Udp => (6, 17),
        Kind::Echo => (2, 58),
    };
    let len = bytes.len() as u16 - start;
    let sum = !checksum_of(&[&addresses, &[0, protocol], &len.to_be_bytes()]);
    let at = usize::from(start + offset);
    bytes[at..at + 2].copy_from_slice(&sum.to_be_bytes());
    Offload { checksum: Some(PartialChecksum { start, offset }), segmentation: None }
}

#[test]
fn partial_checksums() {
    let mut random = Random::new(3);
    for round in 0..20_000 {
        let is_ipv6 = round % 2 == 0;
        let kind = if is_ipv6 { KINDS[round % 3] } else { KINDS[round % 2] };
        let payload = random.below(60) as usize;
        let mut bytes = packet(&mut random, kind, is_ipv6, payload);
        random_ecn(&mut random, &mut bytes);
        let offload = make_partial(&mut bytes, kind);
        let mut packet = TunPacket::parse(&mut bytes, offload).unwrap();
        for _ in 0..random.below(5) {
            rewrite(&mut random, &mut packet, is_ipv6);
        }
        let mut segments = packet.segments(1280).unwrap();
        judge(segments.next_segment().unwrap());
        assert!(segments.next_segment().is_none());
    }
}

#[test]
fn no_udp_checksum_stays_none() {
    let mut random = Random::new(4);
    let mut bytes = packet(&mut random, Kind::Udp, false, 30);
    bytes[26..28].fill(0);
    let mut packet = TunPacket::parse(&mut bytes, Offload::NONE).unwrap();
    for _ in 0..100 {
        rewrite(&mut random, &mut packet, false);
        assert_eq!(packet.bytes()[26..28], [0, 0]);
        assert!(packet.is_intact());
    }
}

#[test]
fn a_checksum_of_an_inner_packet_is_left_alone() {
    // A kernel may hand over VXLAN whose inner checksum is partial and whose outer one is none.
    let mut random = Random::new(5);
    let inner = packet(&mut random, Kind::Tcp, false, 40);
    let mut bytes = packet(&mut random, Kind::Udp, false, inner.len());
    bytes[28..].copy_from_slice(&inner);
    bytes[26..28].fill(0);
    let inner_offload = make_partial(&mut bytes[28..], Kind::Tcp);
    let checksum = inner_offload
        .checksum
        .map(|partial| PartialChecksum { start: partial.start + 28, offset: partial.offset });
    let mut packet =
        TunPacket::parse(&mut bytes, Offload { checksum, segmentation: None }).unwrap();
    packet.set_source(address(&mut random, false)).unwrap();
    packet.set_source_port(77).unwrap();
    let mut segments = packet.segments(1280).unwrap();
    let bytes = segments.next_segment().unwrap();
    assert_eq!(checksum_of(&[&bytes[..20]]), 0);
    assert_eq!(bytes[26..28], [0, 0]);
    assert_intact(&bytes[28..]);
    assert_eq!(bytes[28..], inner);
}

#[test]
fn refused_rewrites_change_nothing() {
    let mut random = Random::new(6);
    for kind in KINDS {
        let mut bytes = packet(&mut random, kind, false, 30);
        let before = bytes.clone();
        let mut packet = TunPacket::parse(&mut bytes, Offload::NONE).unwrap();
        let v6 = address(&mut random, true);
        assert_eq!(packet.set_source(v6), Err(RewriteError::Family));
        assert_eq!(packet.set_destination(v6), Err(RewriteError::Family));
        if kind == Kind::Echo {
            assert_eq!(packet.set_source_port(1), Err(RewriteError::NoSuchField));
            assert_eq!(packet.set_destination_port(1), Err(RewriteError::NoSuchField));
        } else {
            assert_eq!(packet.set_identifier(1), Err(RewriteError::NoSuchField));
        }
        assert_eq!(packet.set_quoted_source(v6), Err(RewriteError::NoSuchField));
        assert_eq!(packet.bytes(), before);
    }
}

#[test]
fn only_ect_becomes_ce() {
    let mut random = Random::new(7);
    for is_ipv6 in [false, true] {
        for (inner, outer, expected) in [
            (Ecn::NotEct, Ecn::Ce, Ecn::NotEct),
            (Ecn::Ect0, Ecn::Ce, Ecn::Ce),
            (Ecn::Ect1, Ecn::Ce, Ecn::Ce),
            (Ecn::Ce, Ecn::NotEct, Ecn::Ce),
            (Ecn::Ect0, Ecn::NotEct, Ecn::Ect0),
            (Ecn::Ect0, Ecn::Ect1, Ecn::Ect0),
        ] {
            let mut bytes = packet(&mut random, Kind::Tcp, is_ipv6, 5);
            if is_ipv6 {
                bytes[1] |= inner.bits() << 4;
            } else {
                bytes[1] |= inner.bits();
                bytes[10..12].fill(0);
                let checksum = checksum_of(&[&bytes[..20]]);
                bytes[10..12].copy_from_slice(&checksum.to_be_bytes());
            }
            let mut packet = TunPacket::parse(&mut bytes, Offload::NONE).unwrap();
            packet.apply_outer_ecn(outer);
            assert_eq!(packet.headers().ecn(), expected);
            assert_eq!(Headers::parse(packet.bytes()).unwrap().ecn(), expected);
            judge(packet.bytes());
        }
    }
}

#[test]
fn other_protocols_are_rewritten_too() {
    let mut random = Random::new(8);
    let mut bytes = packet(&mut random, Kind::Echo, false, 30);
    bytes[9] = 47;
    bytes[10..12].fill(0);
    let checksum = checksum_of(&[&bytes[..20]]);
    bytes[10..12].copy_from_slice(&checksum.to_be_bytes());
    let body = bytes[20..].to_vec();
    let mut packet = TunPacket::parse(&mut bytes, Offload::NONE).unwrap();
    assert_eq!(packet.headers().transport(), Transport::Other { protocol: 47 });
    packet.set_destination(address(&mut random, false)).unwrap();
    assert_eq!(checksum_of(&[&packet.bytes()[..20]]), 0);
    assert_eq!(packet.bytes()[20..], body);
}
