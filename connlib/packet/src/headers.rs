//! What the headers of one IP packet say.

mod error;

pub use error::ParseError;

use crate::bytes::{u16_at, u32_at};
use crate::ecn::Ecn;
use crate::extensions::{Fragmentation, check_ipv4_options, walk_extensions};
use crate::transport::{ChecksumField, ICMP_HEADER, TcpFlags, Transport, icmp_transport, protocol};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

pub(crate) const IPV4_HEADER: usize = 20;
pub(crate) const IPV6_HEADER: usize = 40;
const TCP_HEADER: usize = 20;
const UDP_HEADER: usize = 8;

/// The headers of one IP packet: a checked view by value. It doesn't hold on to the bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Headers {
    pub(crate) source: IpAddr,
    pub(crate) destination: IpAddr,
    pub(crate) transport: Transport,
    pub(crate) protocol: u8,
    pub(crate) traffic_class: u8,
    tcp_flags: u8,
    transport_offset: u16,
    payload_offset: u16,
    // IPv6 allows 65535 bytes plus its header, which is too long for a u16.
    len: u32,
}

impl Headers {
    /// Reads the headers of one packet, which must be all of `bytes`. Checksums are not looked at.
    ///
    /// Accepts what a host sends: whole packets, IPv4 options, a bounded number of IPv6 extension headers. See
    /// [`ParseError`] for what is refused.
    #[inline]
    pub fn parse(bytes: &[u8]) -> Result<Self, ParseError> {
        let mut headers = match bytes.first().ok_or(ParseError::Truncated)? >> 4 {
            4 => Self::parse_ipv4(bytes)?,
            6 => Self::parse_ipv6(bytes)?,
            _ => return Err(ParseError::Version),
        };
        headers.parse_transport(bytes)?;
        Ok(headers)
    }

    #[inline]
    fn parse_ipv4(bytes: &[u8]) -> Result<Self, ParseError> {
        let header = bytes.first_chunk::<IPV4_HEADER>().ok_or(ParseError::Truncated)?;
        let header_len = usize::from(header[0] & 0x0f) * 4;
        if header_len < IPV4_HEADER {
            return Err(ParseError::HeaderLength);
        }
        if usize::from(u16_at(header, 2)) != bytes.len() {
            return Err(ParseError::TotalLength);
        }
        let options = bytes.get(IPV4_HEADER..header_len).ok_or(ParseError::Truncated)?;
        // RFC 791 §3.1: more fragments, or an offset.
        if u16_at(header, 6) & 0x3fff != 0 {
            return Err(ParseError::Fragment);
        }
        check_ipv4_options(options)?;
        Ok(Self {
            source: Ipv4Addr::from_bits(u32_at(header, 12)).into(),
            destination: Ipv4Addr::from_bits(u32_at(header, 16)).into(),
            transport: Transport::Other { protocol: header[9] },
            protocol: header[9],
            traffic_class: header[1],
            tcp_flags: 0,
            transport_offset: header_len as u16,
            payload_offset: header_len as u16,
            len: bytes.len() as u32,
        })
    }

    #[inline]
    fn parse_ipv6(bytes: &[u8]) -> Result<Self, ParseError> {
        let header = bytes.first_chunk::<IPV6_HEADER>().ok_or(ParseError::Truncated)?;
        if usize::from(u16_at(header, 4)) + IPV6_HEADER != bytes.len() {
            return Err(ParseError::TotalLength);
        }
        let (protocol, transport_offset) = match walk_extensions(header[6], bytes)? {
            (_, _, Fragmentation::Fragment) => return Err(ParseError::Fragment),
            (protocol, offset, Fragmentation::Whole) => (protocol, offset),
        };
        Ok(Self {
            source: ipv6_at(header, 8),
            destination: ipv6_at(header, 24),
            transport: Transport::Other { protocol },
            protocol,
            traffic_class: (u16_at(header, 0) >> 4) as u8,
            tcp_flags: 0,
            transport_offset: transport_offset as u16,
            payload_offset: transport_offset as u16,
            len: bytes.len() as u32,
        })
    }

    #[inline]
    fn parse_transport(&mut self, bytes: &[u8]) -> Result<(), ParseError> {
        let rest = bytes.get(self.transport_offset()..).ok_or(ParseError::Truncated)?;
        let header_len = match (self.protocol, self.is_ipv6()) {
            (protocol::TCP, _) => {
                let header = rest.first_chunk::<TCP_HEADER>().ok_or(ParseError::Truncated)?;
                let header_len = usize::from(header[12] >> 4) * 4;
                if header_len < TCP_HEADER {
                    return Err(ParseError::HeaderLength);
                }
                if header_len > rest.len() {
                    return Err(ParseError::Truncated);
                }
                self.tcp_flags = header[13];
                self.transport =
                    Transport::Tcp { source: u16_at(header, 0), destination: u16_at(header, 2) };
                header_len
            }
            (protocol::UDP, _) => {
                let header = rest.first_chunk::<UDP_HEADER>().ok_or(ParseError::Truncated)?;
                if usize::from(u16_at(header, 4)) != rest.len() {
                    return Err(ParseError::UdpLength);
                }
                self.transport =
                    Transport::Udp { source: u16_at(header, 0), destination: u16_at(header, 2) };
                UDP_HEADER
            }
            (protocol::ICMP, false) | (protocol::ICMPV6, true) => {
                let header = rest.first_chunk::<ICMP_HEADER>().ok_or(ParseError::Truncated)?;
                self.transport = icmp_transport(header, self.protocol);
                ICMP_HEADER
            }
            (protocol::ICMP | protocol::ICMPV6, _) => return Err(ParseError::IcmpVersion),
            _ => 0,
        };
        self.payload_offset = self.transport_offset + header_len as u16;
        Ok(())
    }

    /// Source address.
    pub fn source(&self) -> IpAddr {
        self.source
    }

    /// Destination address.
    pub fn destination(&self) -> IpAddr {
        self.destination
    }

    /// What the packet carries.
    pub fn transport(&self) -> Transport {
        self.transport
    }

    /// The protocol number behind the last extension header.
    pub fn protocol(&self) -> u8 {
        self.protocol
    }

    /// Source address and port of TCP and UDP.
    pub fn source_socket(&self) -> Option<SocketAddr> {
        Some(SocketAddr::new(self.source, self.transport.source_port()?))
    }

    /// Destination address and port of TCP and UDP.
    pub fn destination_socket(&self) -> Option<SocketAddr> {
        Some(SocketAddr::new(self.destination, self.transport.destination_port()?))
    }

    /// The flags, if it is TCP.
    pub fn tcp_flags(&self) -> Option<TcpFlags> {
        matches!(self.transport, Transport::Tcp { .. }).then_some(TcpFlags(self.tcp_flags))
    }

    /// The congestion bits.
    pub fn ecn(&self) -> Ecn {
        Ecn::from_bits(self.traffic_class)
    }

    /// Whether it is ICMP of either version.
    pub fn is_icmp(&self) -> bool {
        matches!(self.protocol, protocol::ICMP | protocol::ICMPV6)
    }

    /// Whether it is IPv6.
    pub fn is_ipv6(&self) -> bool {
        self.source.is_ipv6()
    }

    /// Where the transport header begins.
    pub fn transport_offset(&self) -> usize {
        usize::from(self.transport_offset)
    }

    /// Where the transport's payload begins. For ICMP the header is the first 8 bytes; for protocols that this crate
    /// doesn't know, the same as [`transport_offset`](Self::transport_offset).
    pub fn payload_offset(&self) -> usize {
        usize::from(self.payload_offset)
    }

    /// Length of the whole packet in bytes.
    #[expect(clippy::len_without_is_empty, reason = "a packet has a header")]
    pub fn len(&self) -> usize {
        self.len as usize
    }

    /// Where the transport's checksum is, and whether it covers the pseudo-header.
    pub(crate) fn checksum_field(&self) -> Option<ChecksumField> {
        let field = ChecksumField::of(self.protocol)?;
        Some(ChecksumField { at: field.at + self.transport_offset(), ..field })
    }
}

pub(crate) fn ipv6_at(bytes: &[u8], at: usize) -> IpAddr {
    let mut octets = [0; 16];
    octets.copy_from_slice(&bytes[at..at + 16]);
    Ipv6Addr::from(octets).into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::build;
    use crate::transport::EchoKind;
    use crate::{IcmpError, Unreachable};

    const V4: (&str, &str) = ("100.64.0.1", "10.0.0.1");
    const V6: (&str, &str) = ("fd00:2021:1111::1", "2001:db8::1");

    fn udp((source, destination): (&str, &str), payload: &[u8]) -> Vec<u8> {
        let mut out = vec![0; 2000];
        let source = SocketAddr::new(source.parse().unwrap(), 1000);
        let destination = SocketAddr::new(destination.parse().unwrap(), 2000);
        let len = build::udp(&mut out, source, destination, payload).unwrap();
        out.truncate(len);
        out
    }

    fn tcp((source, destination): (&str, &str), options: &[u8]) -> Vec<u8> {
        let mut out = vec![0; 2000];
        let header = build::Tcp {
            sequence: 1,
            acknowledgement: 2,
            flags: TcpFlags::SYN | TcpFlags::ECE,
            window: 3,
            options,
        };
        let source = SocketAddr::new(source.parse().unwrap(), 1000);
        let destination = SocketAddr::new(destination.parse().unwrap(), 2000);
        let len = build::tcp(&mut out, source, destination, header, b"data").unwrap();
        out.truncate(len);
        out
    }

    /// A packet of `udp`'s kind with `extensions` between its headers.
    fn extended(first: u8, extensions: &[u8]) -> Vec<u8> {
        let mut packet = udp(V6, b"payload");
        packet.splice(40..40, extensions.iter().copied());
        packet[6] = first;
        let payload = packet.len() as u16 - 40;
        packet[4..6].copy_from_slice(&payload.to_be_bytes());
        packet
    }

    /// A packet of `udp`'s kind with IPv4 options.
    fn with_options(options: &[u8]) -> Vec<u8> {
        let mut packet = udp(V4, b"payload");
        packet.splice(20..20, options.iter().copied());
        packet[0] = 0x45 + options.len() as u8 / 4;
        let len = packet.len() as u16;
        packet[2..4].copy_from_slice(&len.to_be_bytes());
        packet
    }

    #[test]
    fn udp_and_tcp() {
        for (addresses, ip) in [(V4, 20), (V6, 40)] {
            let headers = Headers::parse(&udp(addresses, b"12345")).unwrap();
            assert_eq!(headers.source(), addresses.0.parse::<IpAddr>().unwrap());
            assert_eq!(headers.destination(), addresses.1.parse::<IpAddr>().unwrap());
            assert_eq!(headers.transport(), Transport::Udp { source: 1000, destination: 2000 });
            assert_eq!(headers.protocol(), 17);
            assert_eq!((headers.transport_offset(), headers.payload_offset()), (ip, ip + 8));
            assert_eq!(headers.len(), ip + 8 + 5);
            assert_eq!(headers.tcp_flags(), None);
            assert_eq!(headers.source_socket().unwrap().port(), 1000);
            assert_eq!(headers.destination_socket().unwrap().port(), 2000);

            let headers = Headers::parse(&tcp(addresses, &[1; 6])).unwrap();
            assert_eq!(headers.transport(), Transport::Tcp { source: 1000, destination: 2000 });
            assert_eq!(headers.payload_offset(), ip + 28);
            assert_eq!(headers.tcp_flags(), Some(TcpFlags::SYN | TcpFlags::ECE));
        }
    }

    #[test]
    fn icmp() {
        let mut out = [0; 100];
        for (addresses, other_version) in [(V4, 58), (V6, 1)] {
            let (source, destination) =
                (addresses.0.parse().unwrap(), addresses.1.parse().unwrap());
            for kind in [EchoKind::Request, EchoKind::Reply] {
                let len = build::echo(&mut out, source, destination, kind, 77, 1, b"x").unwrap();
                let headers = Headers::parse(&out[..len]).unwrap();
                assert_eq!(headers.transport(), Transport::IcmpEcho { kind, identifier: 77 });
                assert!(headers.is_icmp());
            }
            let protocol_at = if source.is_ipv4() { 9 } else { 6 };
            let len = if source.is_ipv4() { 29 } else { 49 };
            out[protocol_at] = other_version;
            assert_eq!(Headers::parse(&out[..len]), Err(ParseError::IcmpVersion));
        }
    }

    #[test]
    fn icmp_types() {
        let host = Unreachable::Host;
        for (is_ipv6, icmp_type, code, rest, expected) in [
            (false, 3, 1, [0; 4], Some(IcmpError::Unreachable(host))),
            (false, 3, 13, [0; 4], Some(IcmpError::prohibited())),
            (false, 3, 9, [0; 4], Some(IcmpError::Unreachable(Unreachable::Other { code: 9 }))),
            (false, 3, 4, [0, 0, 5, 0], Some(IcmpError::PacketTooBig { mtu: 1280 })),
            (false, 11, 0, [0; 4], Some(IcmpError::TimeExceeded)),
            (
                false,
                12,
                0,
                [20, 0, 0, 0],
                Some(IcmpError::ParameterProblem { code: 0, pointer: 20 }),
            ),
            (false, 5, 0, [0; 4], None),
            (false, 4, 0, [0; 4], None),
            (false, 8, 1, [0; 4], None),
            (true, 1, 3, [0; 4], Some(IcmpError::Unreachable(host))),
            (true, 1, 1, [0; 4], Some(IcmpError::prohibited())),
            (true, 2, 0, [0, 1, 0, 0], Some(IcmpError::PacketTooBig { mtu: 65536 })),
            (true, 3, 1, [0; 4], Some(IcmpError::TimeExceeded)),
            (true, 4, 1, [0, 0, 0, 6], Some(IcmpError::ParameterProblem { code: 1, pointer: 6 })),
            (true, 135, 0, [0; 4], None),
        ] {
            let addresses = if is_ipv6 { V6 } else { V4 };
            let (offset, protocol) = if is_ipv6 { (40, 58) } else { (20, 1) };
            let mut packet = udp(addresses, &[0; 8]);
            packet[if is_ipv6 { 6 } else { 9 }] = protocol;
            packet[offset] = icmp_type;
            packet[offset + 1] = code;
            packet[offset + 4..offset + 8].copy_from_slice(&rest);
            let expected = expected.map_or(Transport::Other { protocol }, Transport::IcmpError);
            assert_eq!(Headers::parse(&packet).unwrap().transport(), expected);
        }
    }

    #[test]
    fn other_protocols() {
        for (addresses, at) in [(V4, 9), (V6, 6)] {
            let mut packet = udp(addresses, b"");
            packet[at] = 47;
            let headers = Headers::parse(&packet).unwrap();
            assert_eq!(headers.transport(), Transport::Other { protocol: 47 });
            assert_eq!(headers.payload_offset(), headers.transport_offset());
        }
    }

    #[test]
    fn ecn() {
        for (bits, ecn) in [(0, Ecn::NotEct), (1, Ecn::Ect1), (2, Ecn::Ect0), (3, Ecn::Ce)] {
            let mut v4 = udp(V4, b"");
            v4[1] = 0b1010_1000 | bits;
            assert_eq!(Headers::parse(&v4).unwrap().ecn(), ecn);
            let mut v6 = udp(V6, b"");
            v6[0] = 0x6f;
            v6[1] = bits << 4 | 0x0f;
            assert_eq!(Headers::parse(&v6).unwrap().ecn(), ecn);
        }
    }

    #[test]
    fn lengths_are_exact() {
        for (addresses, ip) in [(V4, 20), (V6, 40)] {
            for packet in [udp(addresses, b"12345"), tcp(addresses, &[1; 12])] {
                for len in 0..packet.len() {
                    let expected =
                        if len < ip { ParseError::Truncated } else { ParseError::TotalLength };
                    assert_eq!(Headers::parse(&packet[..len]), Err(expected), "{len}");
                }
                let longer = [&packet[..], &[0]].concat();
                assert_eq!(Headers::parse(&longer), Err(ParseError::TotalLength));
            }
            let mut packet = udp(addresses, b"12345");
            packet[ip + 5] += 1;
            assert_eq!(Headers::parse(&packet), Err(ParseError::UdpLength));
            packet[ip + 5] -= 2;
            assert_eq!(Headers::parse(&packet), Err(ParseError::UdpLength));
        }
    }

    #[test]
    fn headers_fit() {
        let mut packet = udp(V4, b"12345");
        for ihl in 0..5 {
            packet[0] = 0x40 | ihl;
            assert_eq!(Headers::parse(&packet), Err(ParseError::HeaderLength));
        }
        packet[0] = 0x4f;
        assert_eq!(Headers::parse(&packet), Err(ParseError::Truncated));
        for version in [0, 1, 5, 7, 15] {
            packet[0] = version << 4 | 5;
            assert_eq!(Headers::parse(&packet), Err(ParseError::Version));
        }
        for (addresses, ip) in [(V4, 20), (V6, 40)] {
            let mut packet = tcp(addresses, &[]);
            packet[ip + 12] = 4 << 4;
            assert_eq!(Headers::parse(&packet), Err(ParseError::HeaderLength));
            packet[ip + 12] = 6 << 4;
            assert_eq!(Headers::parse(&packet).unwrap().payload_offset(), packet.len());
            packet[ip + 12] = 7 << 4;
            assert_eq!(Headers::parse(&packet), Err(ParseError::Truncated));
        }
    }

    #[test]
    fn no_fragments() {
        let mut packet = udp(V4, b"12345678");
        for (word, expected) in [
            (0x4000, None),
            (0x8000, None), // Reserved.
            (0x2000, Some(ParseError::Fragment)),
            (0x0001, Some(ParseError::Fragment)),
            (0x3fff, Some(ParseError::Fragment)),
        ] {
            packet[6..8].copy_from_slice(&u16::to_be_bytes(word));
            assert_eq!(Headers::parse(&packet).err(), expected, "{word:x}");
        }

        let atomic = [17, 0, 0, 0, 1, 2, 3, 4];
        let headers = Headers::parse(&extended(44, &atomic)).unwrap();
        assert_eq!(headers.transport(), Transport::Udp { source: 1000, destination: 2000 });
        for (word, expected) in
            [(6, None), (1, Some(ParseError::Fragment)), (8, Some(ParseError::Fragment))]
        {
            let mut fragment = atomic;
            fragment[2..4].copy_from_slice(&u16::to_be_bytes(word));
            assert_eq!(Headers::parse(&extended(44, &fragment)).err(), expected);
        }
    }

    #[test]
    fn extension_headers() {
        // Hop-by-hop, destination options of 16 bytes, routing with nothing left, authentication of 12 bytes.
        let mut chain = vec![60, 0, 1, 4, 0, 0, 0, 0];
        chain.extend([43, 1, 1, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        chain.extend([51, 0, 0, 0, 0, 0, 0, 0]);
        chain.extend([17, 1, 0, 0, 0, 0, 0, 1, 0, 0, 0, 1]);
        let headers = Headers::parse(&extended(0, &chain)).unwrap();
        assert_eq!(headers.transport(), Transport::Udp { source: 1000, destination: 2000 });
        assert_eq!(headers.transport_offset(), 40 + 8 + 16 + 8 + 12);

        let padding = [60, 0, 1, 4, 0, 0, 0, 0];
        let mut eight = padding.repeat(8);
        eight[56] = 17;
        assert!(Headers::parse(&extended(60, &eight)).is_ok());
        let mut nine = padding.repeat(9);
        nine[64] = 17;
        assert_eq!(Headers::parse(&extended(60, &nine)), Err(ParseError::ExtensionHeaders));

        // A header that ends behind the packet.
        let mut long = padding;
        long[1] = 255;
        assert_eq!(Headers::parse(&extended(60, &long)), Err(ParseError::Truncated));
        // No next header: a packet without transport.
        let mut none = padding;
        none[0] = 59;
        let headers = Headers::parse(&extended(60, &none)).unwrap();
        assert_eq!(headers.transport(), Transport::Other { protocol: 59 });
    }

    #[test]
    fn no_source_routes() {
        let mut routing = [17, 0, 0, 1, 0, 0, 0, 0];
        assert_eq!(Headers::parse(&extended(43, &routing)), Err(ParseError::SourceRouted));
        routing[3] = 0;
        assert!(Headers::parse(&extended(43, &routing)).is_ok());

        for (options, expected) in [
            ([1, 1, 1, 0], None),
            ([148, 4, 0, 0], None), // Router alert.
            ([0, 131, 131, 131], None),
            ([1, 131, 3, 4], Some(ParseError::SourceRouted)),
            ([137, 3, 4, 0], Some(ParseError::SourceRouted)),
            ([7, 1, 0, 0], Some(ParseError::HeaderLength)),
            ([7, 5, 0, 0], Some(ParseError::HeaderLength)),
            ([1, 1, 1, 7], Some(ParseError::HeaderLength)),
        ] {
            assert_eq!(Headers::parse(&with_options(&options)).err(), expected, "{options:?}");
        }
    }
}
