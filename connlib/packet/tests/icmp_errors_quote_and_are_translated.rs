//! ICMP errors: built in answer to a packet, understood, and translated so that they quote the translated packet.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test")]

mod support;

use connlib_packet::{
    Headers, IcmpError, Offload, RewriteError, Transport, TunPacket, Unreachable,
};
use std::net::IpAddr;
use support::{KINDS, Kind, Random, checksum_of, judge, packet};

/// A host's address.
fn host(random: &mut Random, is_ipv6: bool) -> IpAddr {
    match is_ipv6 {
        false => IpAddr::from([100, 64 | random.next() as u8, random.next() as u8, 1]),
        true => {
            let mut octets = random.array::<16>();
            octets[0] = 0xfd;
            IpAddr::from(octets)
        }
    }
}

/// A packet from one host to another, no ICMP error itself.
fn original(random: &mut Random, kind: Kind, is_ipv6: bool, payload: usize) -> Vec<u8> {
    let mut bytes = packet(random, kind, is_ipv6, payload);
    let mut packet = TunPacket::parse(&mut bytes, Offload::NONE).unwrap();
    packet.set_source(host(random, is_ipv6)).unwrap();
    packet.set_destination(host(random, is_ipv6)).unwrap();
    bytes
}

fn answer(error: IcmpError, original: &[u8]) -> Option<Vec<u8>> {
    let mut out = [0xaa; 1280];
    let len = error.answer(original, &mut out)?;
    Some(out[..len].to_vec())
}

/// Keeps `quote` bytes of the quoted packet.
fn shorten(error: &mut Vec<u8>, quote: usize) {
    let ip = if error[0] >> 4 == 4 { 20 } else { 40 };
    error.truncate(ip + 8 + quote);
    if ip == 20 {
        let len = error.len() as u16;
        error[2..4].copy_from_slice(&len.to_be_bytes());
        error[10..12].fill(0);
        let checksum = checksum_of(&[&error[..20]]);
        error[10..12].copy_from_slice(&checksum.to_be_bytes());
    } else {
        let len = error.len() as u16 - 40;
        error[4..6].copy_from_slice(&len.to_be_bytes());
    }
    error[ip + 2..ip + 4].fill(0);
    let checksum = support::transport_checksum(error);
    error[ip + 2..ip + 4].copy_from_slice(&checksum.to_be_bytes());
}

const ERRORS: [IcmpError; 8] = [
    IcmpError::Unreachable(Unreachable::Network),
    IcmpError::Unreachable(Unreachable::Host),
    IcmpError::Unreachable(Unreachable::Prohibited),
    IcmpError::Unreachable(Unreachable::Port),
    IcmpError::Unreachable(Unreachable::Other { code: 6 }),
    IcmpError::PacketTooBig { mtu: 1280 },
    IcmpError::TimeExceeded,
    IcmpError::ParameterProblem { code: 1, pointer: 9 },
];

#[test]
fn types_and_codes() {
    let mut random = Random::new(1);
    let v4 = original(&mut random, Kind::Udp, false, 100);
    let v6 = original(&mut random, Kind::Udp, true, 100);
    for (error, in_v4, in_v6) in [
        (IcmpError::unreachable(host(&mut random, false)), (3, 0), (1, 0)),
        (IcmpError::unreachable(host(&mut random, true)), (3, 1), (1, 3)),
        (IcmpError::prohibited(), (3, 13), (1, 1)),
        (IcmpError::Unreachable(Unreachable::Port), (3, 3), (1, 4)),
        (IcmpError::PacketTooBig { mtu: 1280 }, (3, 4), (2, 0)),
        (IcmpError::TimeExceeded, (11, 0), (3, 0)),
    ] {
        let answer_v4 = answer(error, &v4).unwrap();
        assert_eq!((answer_v4[20], answer_v4[21]), in_v4, "{error:?}");
        let answer_v6 = answer(error, &v6).unwrap();
        assert_eq!((answer_v6[40], answer_v6[41]), in_v6, "{error:?}");
        if error == (IcmpError::PacketTooBig { mtu: 1280 }) {
            assert_eq!(answer_v4[24..28], [0, 0, 5, 0]);
            assert_eq!(answer_v6[44..48], [0, 0, 5, 0]);
        } else {
            assert_eq!(answer_v4[24..28], [0; 4]);
            assert_eq!(answer_v6[44..48], [0; 4]);
        }
    }
}

#[test]
fn answers_go_back_and_quote_as_much_as_they_may() {
    let mut random = Random::new(2);
    for round in 0..2_000 {
        let is_ipv6 = round % 2 == 0;
        let error = ERRORS[round % ERRORS.len()];
        let kind = KINDS[round % 3];
        let payload = random.below(1200) as usize;
        let original = original(&mut random, kind, is_ipv6, payload);
        let answer = answer(error, &original).unwrap();
        judge(&answer);

        let (asked, answered) =
            (Headers::parse(&original).unwrap(), Headers::parse(&answer).unwrap());
        assert_eq!(answered.source(), asked.destination());
        assert_eq!(answered.destination(), asked.source());
        assert_eq!(answered.transport(), Transport::IcmpError(error));
        let (overhead, limit) = if is_ipv6 { (48, 1280) } else { (28, 576) };
        let quote = original.len().min(limit - overhead);
        assert_eq!(answer[overhead..], original[..quote]);

        let mut bytes = answer;
        let packet = TunPacket::parse(&mut bytes, Offload::NONE).unwrap();
        let quoted = packet.quoted().unwrap();
        assert_eq!(quoted.source(), asked.source());
        assert_eq!(quoted.destination(), asked.destination());
        assert_eq!(quoted.transport(), asked.transport());
        assert_eq!(quoted.protocol(), asked.protocol());
    }
}

#[test]
fn some_packets_are_not_answered() {
    let mut random = Random::new(3);
    for is_ipv6 in [false, true] {
        let udp = original(&mut random, Kind::Udp, is_ipv6, 100);
        let error = answer(IcmpError::TimeExceeded, &udp).unwrap();
        assert_eq!(answer(IcmpError::prohibited(), &error), None);

        // Errors without a name, redirects; but no questions.
        let echo = original(&mut random, Kind::Echo, is_ipv6, 100);
        let offset = if is_ipv6 { 40 } else { 20 };
        let types: &[(u8, bool)] = match is_ipv6 {
            false => &[(8, true), (0, true), (13, true), (3, false), (4, false), (5, false)],
            true => {
                &[(128, true), (129, true), (133, true), (1, false), (100, false), (137, false)]
            }
        };
        for &(icmp_type, is_answered) in types {
            let mut message = echo.clone();
            message[offset] = icmp_type;
            let answer = answer(IcmpError::prohibited(), &message);
            assert_eq!(answer.is_some(), is_answered, "{icmp_type}");
        }

        let hosts: &[&str] = match is_ipv6 {
            false => {
                &["0.0.0.0", "0.1.2.3", "224.0.0.1", "255.255.255.255", "240.0.0.1", "127.0.0.1"]
            }
            true => &["::", "ff02::1", "::1"],
        };
        for host in hosts {
            let host = host.parse().unwrap();
            for is_source in [false, true] {
                let mut bytes = udp.clone();
                let mut packet = TunPacket::parse(&mut bytes, Offload::NONE).unwrap();
                match is_source {
                    true => packet.set_source(host).unwrap(),
                    false => packet.set_destination(host).unwrap(),
                }
                assert_eq!(packet.answer(IcmpError::TimeExceeded, &mut [0; 1280]), None, "{host}");
            }
        }
        assert_eq!(answer(IcmpError::TimeExceeded, &udp[..udp.len() - 1]), None);
        let mut too_small = [0; 100];
        assert_eq!(IcmpError::TimeExceeded.answer(&udp, &mut too_small), None);
    }
    let mut fragment = original(&mut random, Kind::Udp, false, 100);
    fragment[7] = 1;
    assert_eq!(answer(IcmpError::TimeExceeded, &fragment), None);
}

/// An error about a translated packet, translated back, is the error about the packet itself.
#[test]
fn translating_the_quote_is_quoting_the_translation() {
    let mut random = Random::new(4);
    for round in 0..20_000 {
        let (kind, is_ipv6) = (KINDS[round % 3], round % 2 == 0);
        let payload = random.below(40) as usize;
        let inside = original(&mut random, kind, is_ipv6, payload);
        let error = ERRORS[round % ERRORS.len()];
        let inside_headers = Headers::parse(&inside).unwrap();

        let mut outside = inside.clone();
        let mut packet = TunPacket::parse(&mut outside, Offload::NONE).unwrap();
        packet.set_source(host(&mut random, is_ipv6)).unwrap();
        packet.set_destination(host(&mut random, is_ipv6)).unwrap();
        let word = random.next() as u16;
        match kind {
            Kind::Echo => packet.set_identifier(word).unwrap(),
            _ => {
                packet.set_source_port(word).unwrap();
                packet.set_destination_port(word ^ 1).unwrap();
            }
        }

        let mut expected = answer(error, &inside).unwrap();
        let mut found = answer(error, &outside).unwrap();
        if random.below(2) == 0 {
            // Whatever more than an IP header and 8 bytes is quoted, also an odd number of bytes.
            let least = if is_ipv6 { 48 } else { 28 };
            let mut quote = least + random.below((inside.len() - least) as u64 + 1) as usize;
            if kind == Kind::Tcp && quote == least + 9 {
                quote += 1; // Half a checksum can't be right.
            }
            shorten(&mut expected, quote);
            shorten(&mut found, quote);
        }
        let mut translated = TunPacket::parse(&mut found, Offload::NONE).unwrap();
        translated.set_source(inside_headers.destination()).unwrap();
        translated.set_destination(inside_headers.source()).unwrap();
        translated.set_quoted_source(inside_headers.source()).unwrap();
        judge(translated.bytes());
        translated.set_quoted_destination(inside_headers.destination()).unwrap();
        judge(translated.bytes());
        match inside_headers.transport() {
            Transport::IcmpEcho { identifier, .. } => {
                translated.set_quoted_identifier(identifier).unwrap();
            }
            Transport::Tcp { source, destination } | Transport::Udp { source, destination } => {
                translated.set_quoted_source_port(source).unwrap();
                translated.set_quoted_destination_port(destination).unwrap();
            }
            other => panic!("{other:?}"),
        }
        assert_eq!(translated.bytes(), expected, "round {round}, {kind:?}");
        assert_eq!(translated.quoted().unwrap().transport(), inside_headers.transport());
    }
}

#[test]
fn a_quoted_udp_checksum_of_none_stays_none() {
    let mut random = Random::new(5);
    let mut udp = original(&mut random, Kind::Udp, false, 10);
    udp[26..28].fill(0);
    let mut error = answer(IcmpError::TimeExceeded, &udp).unwrap();
    let mut packet = TunPacket::parse(&mut error, Offload::NONE).unwrap();
    packet.set_quoted_destination(host(&mut random, false)).unwrap();
    packet.set_quoted_source_port(7).unwrap();
    judge(packet.bytes());
    assert_eq!(packet.bytes()[54..56], [0, 0]);
}

#[test]
fn short_quotes() {
    let mut random = Random::new(6);
    for is_ipv6 in [false, true] {
        let header = if is_ipv6 { 40 } else { 20 };
        let tcp = original(&mut random, Kind::Tcp, is_ipv6, 10);
        for quote in 0..header + 8 {
            let mut error = answer(IcmpError::TimeExceeded, &tcp).unwrap();
            shorten(&mut error, quote);
            let mut packet = TunPacket::parse(&mut error, Offload::NONE).unwrap();
            let new = host(&mut random, is_ipv6);
            if quote < header {
                assert_eq!(packet.quoted(), None);
                assert_eq!(packet.set_quoted_source(new), Err(RewriteError::NoSuchField));
                continue;
            }
            let quoted = packet.quoted().unwrap();
            assert_eq!(quoted.destination(), Headers::parse(&tcp).unwrap().destination());
            assert_eq!(quoted.transport(), Transport::Other { protocol: 6 });
            packet.set_quoted_source(new).unwrap();
            assert_eq!(packet.set_quoted_source_port(1), Err(RewriteError::NoSuchField));
            judge(packet.bytes());
        }
    }
}

#[test]
fn a_quoted_fragment_has_ports_only_at_its_beginning() {
    let mut random = Random::new(7);
    let tcp = original(&mut random, Kind::Tcp, false, 10);
    let ports = Headers::parse(&tcp).unwrap().transport();
    for (word, expected) in [
        (0x2000u16, ports),
        (0x2001, Transport::Other { protocol: 6 }),
        (0x0001, Transport::Other { protocol: 6 }),
    ] {
        let mut error = answer(IcmpError::TimeExceeded, &tcp).unwrap();
        error[34..36].copy_from_slice(&word.to_be_bytes());
        let checksum = support::transport_checksum(&error);
        error[22..24].copy_from_slice(&checksum.to_be_bytes());
        let body = error[48..].to_vec();
        let mut packet = TunPacket::parse(&mut error, Offload::NONE).unwrap();
        assert_eq!(packet.quoted().unwrap().transport(), expected);
        // What stands where the first fragment has its checksum is data.
        packet.set_quoted_source(host(&mut random, false)).unwrap();
        assert_eq!(packet.bytes()[48..] == body, expected != ports);
        judge(packet.bytes());
    }
}

#[test]
fn nothing_but_errors_quotes() {
    let mut random = Random::new(8);
    for kind in KINDS {
        let mut bytes = original(&mut random, kind, true, 100);
        assert_eq!(TunPacket::parse(&mut bytes, Offload::NONE).unwrap().quoted(), None);
    }
    // A quote of the other IP version.
    let v4 = original(&mut random, Kind::Udp, false, 100);
    let mut error = answer(IcmpError::TimeExceeded, &v4).unwrap();
    error[28] = 0x65;
    assert_eq!(TunPacket::parse(&mut error, Offload::NONE).unwrap().quoted(), None);
}
