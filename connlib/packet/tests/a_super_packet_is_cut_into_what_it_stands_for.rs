//! Segments against a slow reference that builds each of them on its own.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test")]

mod support;

use connlib_packet::{
    ExceedsMtu, Headers, MAX_SEGMENTS, Offload, ParseError, PartialChecksum, Segmentation,
    SegmentationKind, TcpFlags, Transport, TunPacket, build,
};
use support::{Kind, Random, address, checksum_of, judge, packet};

fn offload(bytes: &[u8], kind: Kind, segment_size: u16) -> Offload {
    let (start, tcp) = match bytes[0] >> 4 {
        4 => (20, SegmentationKind::Tcp4),
        _ => (40, SegmentationKind::Tcp6),
    };
    let (kind, offset) = match kind {
        Kind::Tcp => (tcp, 16),
        _ => (SegmentationKind::Udp, 6),
    };
    Offload {
        checksum: Some(PartialChecksum { start, offset }),
        segmentation: Some(Segmentation { kind, segment_size }),
    }
}

/// What the kernel hands over: whatever is in the checksum field must not matter, so it is garbage here.
fn super_packet(random: &mut Random, kind: Kind, is_ipv6: bool, payload: usize) -> Vec<u8> {
    let mut bytes = packet(random, kind, is_ipv6, payload);
    let headers = Headers::parse(&bytes).unwrap();
    let field = headers.transport_offset() + if kind == Kind::Tcp { 16 } else { 6 };
    bytes[field..field + 2].copy_from_slice(&random.array::<2>());
    if !is_ipv6 {
        let identification = [0xff, 0xf0]; // Wraps on the way.
        bytes[4..6].copy_from_slice(&identification);
        bytes[10..12].fill(0);
        let checksum = checksum_of(&[&bytes[..20]]);
        bytes[10..12].copy_from_slice(&checksum.to_be_bytes());
    }
    bytes
}

fn set_checksums(packet: &mut [u8], ip: usize, field: usize) {
    if ip == 20 {
        packet[10..12].fill(0);
        let checksum = checksum_of(&[&packet[..20]]);
        packet[10..12].copy_from_slice(&checksum.to_be_bytes());
    }
    packet[field..field + 2].fill(0);
    let checksum = support::transport_checksum(packet);
    packet[field..field + 2].copy_from_slice(&checksum.to_be_bytes());
}

/// The segments, each made anew from the header and its part of the payload.
fn reference(bytes: &[u8], size: usize) -> Vec<Vec<u8>> {
    let headers = Headers::parse(bytes).unwrap();
    let (ip, header) = (headers.transport_offset(), headers.payload_offset());
    let is_tcp = matches!(headers.transport(), Transport::Tcp { .. });
    let payloads: Vec<_> = bytes[header..].chunks(size).collect();
    let word = |at: usize| u16::from_be_bytes([bytes[at], bytes[at + 1]]);
    let long = |at: usize| u32::from(word(at)) << 16 | u32::from(word(at + 2));
    let mut segments = Vec::new();
    for (index, payload) in payloads.iter().enumerate() {
        let mut segment = [&bytes[..header], payload].concat();
        let len = segment.len() as u16;
        if ip == 20 {
            segment[2..4].copy_from_slice(&len.to_be_bytes());
            let identification = word(4).wrapping_add(index as u16);
            segment[4..6].copy_from_slice(&identification.to_be_bytes());
        } else {
            segment[4..6].copy_from_slice(&(len - 40).to_be_bytes());
        }
        if is_tcp {
            let sequence = long(ip + 4).wrapping_add((index * size) as u32);
            segment[ip + 4..ip + 8].copy_from_slice(&sequence.to_be_bytes());
            if index > 0 {
                segment[ip + 13] &= !TcpFlags::CWR.0;
            }
            if index + 1 < payloads.len() {
                segment[ip + 13] &= !(TcpFlags::FIN | TcpFlags::PSH).0;
            }
            set_checksums(&mut segment, ip, ip + 16);
        } else {
            segment[ip + 4..ip + 6].copy_from_slice(&(len - ip as u16).to_be_bytes());
            set_checksums(&mut segment, ip, ip + 6);
        }
        segments.push(segment);
    }
    segments
}

fn cut(bytes: &mut [u8], offload: Offload) -> Vec<Vec<u8>> {
    let mut segments = TunPacket::parse(bytes, offload).unwrap().segments(1280).unwrap();
    let mut all = Vec::new();
    loop {
        let remaining = segments.remaining();
        let Some(segment) = segments.next_segment() else {
            assert_eq!(remaining, 0);
            return all;
        };
        all.push(segment.to_vec());
        assert_eq!(segments.remaining(), remaining - 1);
    }
}

#[test]
fn like_the_reference() {
    let mut random = Random::new(1);
    for round in 0..2_000 {
        let kind = if round % 2 == 0 { Kind::Tcp } else { Kind::Udp };
        let is_ipv6 = random.below(2) == 0;
        let size = 1 + random.below(1180) as usize;
        let payload = 1 + random.below((size * 20) as u64) as usize;
        let mut bytes = super_packet(&mut random, kind, is_ipv6, payload);
        let expected = reference(&bytes, size);
        let offload = offload(&bytes, kind, size as u16);
        let segments = cut(&mut bytes, offload);
        assert_eq!(segments, expected, "{kind:?}, {payload} bytes by {size}");
        for segment in &segments {
            judge(segment);
        }
    }
}

#[test]
fn of_full_length() {
    let mut random = Random::new(2);
    for kind in [Kind::Tcp, Kind::Udp] {
        for is_ipv6 in [false, true] {
            let mut bytes = super_packet(&mut random, kind, is_ipv6, 65535 - 120);
            let expected = reference(&bytes, 1180);
            let offload = offload(&bytes, kind, 1180);
            assert_eq!(cut(&mut bytes, offload), expected);
            assert!(expected.len() > 50);
        }
    }
}

#[test]
fn after_rewriting() {
    let mut random = Random::new(3);
    for round in 0..500 {
        let kind = if round % 2 == 0 { Kind::Tcp } else { Kind::Udp };
        let is_ipv6 = random.below(2) == 0;
        let mut bytes = super_packet(&mut random, kind, is_ipv6, 5000);
        let offload = offload(&bytes, kind, 1000);
        let (source, destination) = (address(&mut random, is_ipv6), address(&mut random, is_ipv6));
        let port = random.next() as u16;

        let mut packet = TunPacket::parse(&mut bytes, offload).unwrap();
        packet.set_source(source).unwrap();
        packet.set_destination(destination).unwrap();
        packet.set_source_port(port).unwrap();
        let mut segments = packet.segments(1280).unwrap();
        assert_eq!(segments.remaining(), 5);
        while let Some(segment) = segments.next_segment() {
            judge(segment);
            let headers = Headers::parse(segment).unwrap();
            assert_eq!((headers.source(), headers.destination()), (source, destination));
            assert_eq!(headers.source_socket().unwrap().port(), port);
        }
    }
}

#[test]
fn flags_stand_where_they_belong() {
    let mut random = Random::new(4);
    let mut bytes = super_packet(&mut random, Kind::Tcp, false, 3000);
    bytes[33] = 0xff;
    let offload = offload(&bytes, Kind::Tcp, 1000);
    let flags: Vec<_> = cut(&mut bytes, offload)
        .iter()
        .map(|segment| Headers::parse(segment).unwrap().tcp_flags().unwrap().0)
        .collect();
    assert_eq!(flags, [0b1111_0110, 0b0111_0110, 0b0111_1111]);
}

#[test]
fn with_extension_headers() {
    let mut random = Random::new(5);
    let mut bytes = super_packet(&mut random, Kind::Udp, true, 2500);
    bytes.splice(40..40, [17, 0, 1, 4, 0, 0, 0, 0]);
    bytes[6] = 60;
    let payload = bytes.len() as u16 - 40;
    bytes[4..6].copy_from_slice(&payload.to_be_bytes());
    let mut offload = offload(&bytes, Kind::Udp, 1000);
    offload.checksum = Some(PartialChecksum { start: 48, offset: 6 });
    let segments = cut(&mut bytes, offload);
    assert_eq!(segments.iter().map(Vec::len).collect::<Vec<_>>(), [1056, 1056, 556]);
    for mut segment in segments {
        // The judge knows no extension headers.
        segment.drain(40..48);
        segment[6] = 17;
        let payload = segment.len() as u16 - 40;
        segment[4..6].copy_from_slice(&payload.to_be_bytes());
        judge(&segment);
    }
}

#[test]
fn that_is_one_segment() {
    let mut random = Random::new(6);
    for kind in [Kind::Tcp, Kind::Udp] {
        for payload in [0, 1, 1000] {
            let mut bytes = super_packet(&mut random, kind, true, payload);
            let offload = offload(&bytes, kind, 1000);
            let segments = cut(&mut bytes, offload);
            assert_eq!(segments.len(), 1);
            judge(&segments[0]);
        }
    }
}

#[test]
fn tcp_is_made_to_fit_and_udp_is_not() {
    let mut random = Random::new(7);
    let mut bytes = super_packet(&mut random, Kind::Tcp, false, 10_000);
    let header = Headers::parse(&bytes).unwrap().payload_offset();
    let expected = reference(&bytes, 1280 - header);
    let packet_offload = offload(&bytes, Kind::Tcp, 1448);
    assert_eq!(
        TunPacket::parse(&mut bytes, packet_offload).unwrap().longest_segment(),
        header + 1448
    );
    assert_eq!(cut(&mut bytes, packet_offload), expected);

    let mut bytes = super_packet(&mut random, Kind::Udp, false, 10_000);
    let packet_offload = offload(&bytes, Kind::Udp, 1300);
    let packet = TunPacket::parse(&mut bytes, packet_offload).unwrap();
    assert_eq!(packet.longest_segment(), 1328);
    assert_eq!(packet.segments(1280).unwrap_err(), ExceedsMtu { len: 1328 });

    let mut bytes = packet_of(&mut random, 1281);
    let packet = TunPacket::parse(&mut bytes, Offload::NONE).unwrap();
    assert_eq!(packet.segments(1280).unwrap_err(), ExceedsMtu { len: 1281 });
    let mut bytes = packet_of(&mut random, 1280);
    assert!(TunPacket::parse(&mut bytes, Offload::NONE).unwrap().segments(1280).is_ok());
}

fn packet_of(random: &mut Random, len: usize) -> Vec<u8> {
    let bytes = packet(random, Kind::Udp, false, len - 28);
    assert_eq!(bytes.len(), len);
    bytes
}

#[test]
fn impossible_offloads_are_refused() {
    let mut random = Random::new(8);
    let mut tcp4 = packet(&mut random, Kind::Tcp, false, 1000);
    let mut tcp6 = packet(&mut random, Kind::Tcp, true, 1000);
    let mut udp4 = packet(&mut random, Kind::Udp, false, 1000);
    let mut echo = packet(&mut random, Kind::Echo, false, 1000);
    let (for_tcp4, for_tcp6) = (offload(&tcp4, Kind::Tcp, 500), offload(&tcp6, Kind::Tcp, 500));
    let for_udp4 = offload(&udp4, Kind::Udp, 500);
    let parse = |bytes: &mut Vec<u8>, offload| TunPacket::parse(bytes, offload).map(drop);

    let refused = Err(ParseError::Offload);
    assert_eq!(parse(&mut tcp4, for_tcp4), Ok(()));
    assert_eq!(parse(&mut tcp4, for_tcp6), refused);
    assert_eq!(parse(&mut tcp4, for_udp4), refused);
    assert_eq!(parse(&mut tcp6, for_tcp4), refused);
    assert_eq!(parse(&mut udp4, for_tcp4), refused);
    assert_eq!(parse(&mut echo, for_udp4), refused);

    let mut zero = for_tcp4;
    zero.segmentation = zero.segmentation.map(|s| Segmentation { segment_size: 0, ..s });
    assert_eq!(parse(&mut tcp4, zero), refused);

    for (start, offset) in
        [(20, 2000), (u16::MAX, 0), (0, 16), (19, 17), (20, 4), (24, 12), (20, u16::MAX)]
    {
        let checksum = Some(PartialChecksum { start, offset });
        assert_eq!(parse(&mut tcp4, Offload { checksum, segmentation: None }), refused);
    }
    let end = tcp4.len() as u16;
    for (start, expected) in [(end - 2, Ok(())), (end - 1, refused), (end, refused)] {
        let checksum = Some(PartialChecksum { start, offset: 0 });
        assert_eq!(parse(&mut tcp4, Offload { checksum, segmentation: None }), expected);
    }
}

#[test]
fn too_many_segments_are_refused() {
    let mut random = Random::new(9);
    let mut bytes = super_packet(&mut random, Kind::Udp, false, MAX_SEGMENTS * 10);
    let by_ten = offload(&bytes, Kind::Udp, 10);
    assert_eq!(cut(&mut bytes, by_ten).len(), MAX_SEGMENTS);
    let mut bytes = super_packet(&mut random, Kind::Udp, false, MAX_SEGMENTS * 10 + 1);
    assert_eq!(TunPacket::parse(&mut bytes, by_ten).unwrap_err(), ParseError::Segments);

    // Not either by a tiny MTU.
    let mut bytes = super_packet(&mut random, Kind::Tcp, false, MAX_SEGMENTS * 10 + 1);
    let header = Headers::parse(&bytes).unwrap().payload_offset() as u16;
    let by_twenty = offload(&bytes, Kind::Tcp, 20);
    for (mtu, is_possible) in [(header + 11, true), (header + 10, false), (header, false)] {
        let packet = TunPacket::parse(&mut bytes, by_twenty).unwrap();
        assert_eq!(packet.segments(mtu).is_ok(), is_possible);
    }
}

#[test]
fn a_udp_checksum_is_never_zero() {
    for is_ipv6 in [false, true] {
        let mut random = Random::new(10);
        let mut bytes = super_packet(&mut random, Kind::Udp, is_ipv6, 30);
        let at = if is_ipv6 { 46 } else { 26 };
        // In the first two segments a word of the payload that makes the sum 0xffff.
        let by_ten = offload(&bytes, Kind::Udp, 10);
        for (index, segment) in reference(&bytes, 10)[..2].iter().enumerate() {
            let mut zeroed = segment.clone();
            zeroed[at + 2..at + 4].fill(0);
            let missing = support::transport_checksum(&zeroed);
            let word = at + 2 + 10 * index;
            bytes[word..word + 2].copy_from_slice(&missing.to_be_bytes());
        }
        let segments = cut(&mut bytes.clone(), by_ten);
        for segment in &segments {
            judge(segment);
        }
        assert_eq!(segments[0][at..at + 2], [0xff, 0xff]);
        assert_eq!(segments[1][at..at + 2], [0xff, 0xff]);

        // And as a plain packet that is to be completed, or built.
        let mut plain = segments[0].clone();
        let headers = Headers::parse(&plain).unwrap();
        let addresses = if is_ipv6 { &plain[8..40] } else { &plain[12..20] };
        let sum = !checksum_of(&[addresses, &[0, 17, 0, 18]]);
        plain[at..at + 2].copy_from_slice(&sum.to_be_bytes());
        let offload = Offload { segmentation: None, ..by_ten };
        assert_eq!(cut(&mut plain, offload), segments[..1]);

        let mut built = [0; 100];
        let (source, destination) = (headers.source_socket(), headers.destination_socket());
        let payload = &plain[at + 2..];
        let len = build::udp(&mut built, source.unwrap(), destination.unwrap(), payload).unwrap();
        assert_eq!(built[at..len], segments[0][at..]);
    }
}
