use etherparse::{NetSlice, SlicedPacket, TransportSlice};

/// The checksum of RFC 1071, word for word.
pub(crate) fn checksum_of(pieces: &[&[u8]]) -> u16 {
    let bytes = pieces.concat();
    let mut sum = 0u32;
    for pair in bytes.chunks(2) {
        sum += u32::from(u16::from_be_bytes([pair[0], *pair.get(1).unwrap_or(&0)]));
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

/// The right checksum of the transport of a packet without IP options or extension headers, as it is to be sent.
pub(crate) fn transport_checksum(packet: &[u8]) -> u16 {
    let (addresses, protocol, body) = match packet[0] >> 4 {
        4 => (&packet[12..20], packet[9], &packet[20..]),
        _ => (&packet[8..40], packet[6], &packet[40..]),
    };
    let at = match protocol {
        6 => 16,
        17 => 6,
        1 | 58 => 2,
        other => panic!("protocol {other}"),
    };
    let mut body = body.to_vec();
    body[at..at + 2].fill(0);
    let tail = [[0, protocol], (body.len() as u16).to_be_bytes()].concat();
    match (protocol, checksum_of(&[addresses, &tail, &body])) {
        (1, _) => checksum_of(&[&body]),
        (17, 0) => 0xffff,
        (_, checksum) => checksum,
    }
}

/// All lengths and checksums are right, also in the eyes of `etherparse`.
#[track_caller]
pub(crate) fn judge(packet: &[u8]) {
    assert_intact(packet);
    let sliced = SlicedPacket::from_ip(packet).unwrap();
    match (sliced.net.unwrap(), sliced.transport.unwrap()) {
        (NetSlice::Ipv4(ip), transport) => {
            let header = ip.header().to_header();
            assert_eq!(header.header_checksum, header.calc_header_checksum());
            assert_eq!(usize::from(header.total_len), packet.len());
            match transport {
                TransportSlice::Tcp(tcp) => {
                    let expected = tcp.calc_checksum_ipv4(header.source, header.destination);
                    assert_eq!(tcp.checksum(), expected.unwrap());
                }
                TransportSlice::Udp(udp) => {
                    let expected = udp.to_header().calc_checksum_ipv4(&header, udp.payload());
                    assert_eq!(udp.checksum(), expected.unwrap());
                    assert_eq!(usize::from(udp.length()), packet.len() - header.header_len());
                }
                // Its sum is made of the fields that it knows of a type, and not of all bytes.
                TransportSlice::Icmpv4(icmp) => assert_eq!(checksum_of(&[icmp.slice()]), 0),
                other => panic!("{other:?}"),
            }
        }
        (NetSlice::Ipv6(ip), transport) => {
            let header = ip.header().to_header();
            assert_eq!(usize::from(header.payload_length) + 40, packet.len());
            match transport {
                TransportSlice::Tcp(tcp) => {
                    let expected = tcp.calc_checksum_ipv6(header.source, header.destination);
                    assert_eq!(tcp.checksum(), expected.unwrap());
                }
                TransportSlice::Udp(udp) => {
                    let expected = udp.to_header().calc_checksum_ipv6(&header, udp.payload());
                    assert_eq!(udp.checksum(), expected.unwrap());
                }
                TransportSlice::Icmpv6(icmp) => {
                    assert!(icmp.is_checksum_valid(header.source, header.destination));
                }
                other => panic!("{other:?}"),
            }
        }
        (other, _) => panic!("{other:?}"),
    }
}

/// Header and transport checksum are right. For packets without IP options or extension headers.
#[track_caller]
pub(crate) fn assert_intact(packet: &[u8]) {
    let (ip, protocol) = match packet[0] >> 4 {
        4 => (20, packet[9]),
        _ => (40, packet[6]),
    };
    if ip == 20 {
        assert_eq!(checksum_of(&[&packet[..20]]), 0, "IPv4 header checksum");
    }
    let at = ip
        + match protocol {
            6 => 16,
            17 => 6,
            _ => 2,
        };
    let found = u16::from_be_bytes([packet[at], packet[at + 1]]);
    assert_eq!(found, transport_checksum(packet), "checksum of protocol {protocol}");
}
