//! What the headers of one IP packet say.

use crate::bytes::{u16_at, u32_at};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// Numbers of protocols above IP that this crate knows.
pub mod protocol {
    /// ICMP for IPv4.
    pub const ICMP: u8 = 1;
    /// TCP.
    pub const TCP: u8 = 6;
    /// UDP.
    pub const UDP: u8 = 17;
    /// ICMP for IPv6.
    pub const ICMPV6: u8 = 58;
}

/// IPv6 extension headers (RFC 8200 §4, RFC 4302).
mod extension {
    pub(super) const HOP_BY_HOP: u8 = 0;
    pub(super) const ROUTING: u8 = 43;
    pub(super) const FRAGMENT: u8 = 44;
    pub(super) const AUTHENTICATION: u8 = 51;
    pub(super) const DESTINATION_OPTIONS: u8 = 60;
    /// More of them in one packet are an attack, not a packet.
    pub(super) const MAX: usize = 8;
}

pub(crate) const IPV4_HEADER: usize = 20;
pub(crate) const IPV6_HEADER: usize = 40;
const TCP_HEADER: usize = 20;
const UDP_HEADER: usize = 8;
const ICMP_HEADER: usize = 8;

/// Why bytes are not a packet that can be handled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum ParseError {
    /// The bytes end inside a header.
    #[error("truncated header")]
    Truncated,
    /// Neither IPv4 nor IPv6.
    #[error("unknown IP version")]
    Version,
    /// A header claims an impossible length of its own.
    #[error("bad header length")]
    HeaderLength,
    /// The length in the IP header is not the number of bytes.
    #[error("IP length and number of bytes differ")]
    TotalLength,
    /// The length in the UDP header is not what is left of the packet.
    #[error("UDP length and number of bytes differ")]
    UdpLength,
    /// A fragment of a larger packet. Atomic fragments of IPv6 (RFC 6946) are whole packets and pass.
    #[error("fragment")]
    Fragment,
    /// A packet that wants to go somewhere else than its destination address says: IPv4 source routes
    /// (RFC 7126 §4.3) and IPv6 routing headers with segments left (RFC 5095).
    #[error("source-routed")]
    SourceRouted,
    /// ICMP inside IPv6 or ICMPv6 inside IPv4.
    #[error("ICMP of the other IP version")]
    IcmpVersion,
    /// More IPv6 extension headers than any honest packet has.
    #[error("too many extension headers")]
    ExtensionHeaders,
    /// The offload information doesn't fit the packet.
    #[error("impossible offload information")]
    Offload,
    /// A super-packet of more segments than [`MAX_SEGMENTS`](crate::MAX_SEGMENTS).
    #[error("too many segments")]
    Segments,
}

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

/// What a packet carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Transport {
    /// TCP.
    Tcp {
        /// Source port.
        source: u16,
        /// Destination port.
        destination: u16,
    },
    /// UDP.
    Udp {
        /// Source port.
        source: u16,
        /// Destination port.
        destination: u16,
    },
    /// An ICMP or ICMPv6 echo message.
    IcmpEcho {
        /// Request or reply.
        kind: EchoKind,
        /// What tells the echo streams of one host apart.
        identifier: u16,
    },
    /// An ICMP or ICMPv6 error that quotes a packet, see [`TunPacket::quoted`](crate::TunPacket::quoted) and
    /// [`Quoted::parse`](crate::Quoted::parse).
    IcmpError(crate::IcmpError),
    /// Everything else, other ICMP messages included.
    Other {
        /// The protocol number.
        protocol: u8,
    },
}

/// The two echo messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum EchoKind {
    /// "Ping".
    Request,
    /// Its answer.
    Reply,
}

/// Explicit congestion notification (RFC 3168 §5), the low two bits of the traffic class.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Ecn {
    /// The transport does not take part.
    #[default]
    NotEct,
    /// ECN-capable transport, codepoint ECT(1).
    Ect1,
    /// ECN-capable transport, codepoint ECT(0).
    Ect0,
    /// Congestion experienced.
    Ce,
}

impl Ecn {
    /// From the low two bits of `bits`.
    pub fn from_bits(bits: u8) -> Self {
        match bits & 0b11 {
            0b00 => Self::NotEct,
            0b01 => Self::Ect1,
            0b10 => Self::Ect0,
            _ => Self::Ce,
        }
    }

    /// The two bits.
    pub fn bits(self) -> u8 {
        match self {
            Self::NotEct => 0b00,
            Self::Ect1 => 0b01,
            Self::Ect0 => 0b10,
            Self::Ce => 0b11,
        }
    }

    /// Whether the packet may be marked instead of dropped.
    pub fn is_capable(self) -> bool {
        self != Self::NotEct
    }
}

/// The flags of a TCP segment (RFC 9293 §3.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct TcpFlags(pub u8);

impl TcpFlags {
    /// No more data from the sender.
    pub const FIN: Self = Self(0x01);
    /// Opens a connection.
    pub const SYN: Self = Self(0x02);
    /// Resets the connection.
    pub const RST: Self = Self(0x04);
    /// Hand the data to the application.
    pub const PSH: Self = Self(0x08);
    /// The acknowledgement number is valid.
    pub const ACK: Self = Self(0x10);
    /// The urgent pointer is valid.
    pub const URG: Self = Self(0x20);
    /// Echo of a congestion mark.
    pub const ECE: Self = Self(0x40);
    /// Congestion window reduced.
    pub const CWR: Self = Self(0x80);

    /// Whether all flags of `other` are set.
    pub fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }
}

impl std::ops::BitOr for TcpFlags {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

impl Headers {
    /// Reads the headers of one packet, which must be all of `bytes`. Checksums are not looked at.
    ///
    /// Accepts what a host sends: whole packets, IPv4 options, a bounded number of IPv6 extension headers. See
    /// [`ParseError`] for what is refused.
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

impl Transport {
    /// Source port of TCP and UDP.
    pub fn source_port(&self) -> Option<u16> {
        match *self {
            Self::Tcp { source, .. } | Self::Udp { source, .. } => Some(source),
            _ => None,
        }
    }

    /// Destination port of TCP and UDP.
    pub fn destination_port(&self) -> Option<u16> {
        match *self {
            Self::Tcp { destination, .. } | Self::Udp { destination, .. } => Some(destination),
            _ => None,
        }
    }
}

/// Where and of what kind a transport's checksum is.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ChecksumField {
    pub(crate) at: usize,
    pub(crate) pseudo_header: bool,
    /// 0 means "none".
    pub(crate) optional: bool,
}

impl ChecksumField {
    /// Of a transport header that begins at 0.
    pub(crate) fn of(protocol: u8) -> Option<Self> {
        let (at, pseudo_header) = match protocol {
            protocol::TCP => (16, true),
            protocol::UDP => (6, true),
            protocol::ICMPV6 => (2, true),
            protocol::ICMP => (2, false),
            _ => return None,
        };
        Some(Self { at, pseudo_header, optional: protocol == protocol::UDP })
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fragmentation {
    Whole,
    /// Not the whole packet. The walk has ended at the fragment header.
    Fragment,
}

/// Walks over IPv6 extension headers; `bytes` begin with the fixed header. Returns the transport's protocol number
/// and offset.
pub(crate) fn walk_extensions(
    first: u8,
    bytes: &[u8],
) -> Result<(u8, usize, Fragmentation), ParseError> {
    let mut protocol = first;
    let mut offset = IPV6_HEADER;
    for _ in 0..=extension::MAX {
        let step = match protocol {
            extension::HOP_BY_HOP | extension::ROUTING | extension::DESTINATION_OPTIONS => 8,
            extension::AUTHENTICATION => 4,
            extension::FRAGMENT => 0,
            _ => return Ok((protocol, offset, Fragmentation::Whole)),
        };
        let header = bytes
            .get(offset..)
            .and_then(|rest| rest.first_chunk::<8>())
            .ok_or(ParseError::Truncated)?;
        if protocol == extension::ROUTING && header[3] != 0 {
            return Err(ParseError::SourceRouted);
        }
        // RFC 8200 §4.5: the offset's 13 bits, two reserved bits, more fragments.
        if protocol == extension::FRAGMENT && u16_at(header, 2) & 0xfff9 != 0 {
            return Ok((protocol, offset, Fragmentation::Fragment));
        }
        // RFC 4302 §2.2: the authentication header counts its length in 4 bytes, minus 2.
        offset += 8 + usize::from(header[1]) * step;
        protocol = header[0];
    }
    Err(ParseError::ExtensionHeaders)
}

fn check_ipv4_options(mut options: &[u8]) -> Result<(), ParseError> {
    // RFC 791 §3.1
    const END: u8 = 0;
    const NO_OPERATION: u8 = 1;
    const LOOSE_SOURCE_ROUTE: u8 = 131;
    const STRICT_SOURCE_ROUTE: u8 = 137;

    while let Some(&kind) = options.first() {
        let len = match kind {
            END => break,
            NO_OPERATION => 1,
            LOOSE_SOURCE_ROUTE | STRICT_SOURCE_ROUTE => return Err(ParseError::SourceRouted),
            _ => match options.get(1) {
                Some(&len @ 2..) => usize::from(len),
                _ => return Err(ParseError::HeaderLength),
            },
        };
        options = options.get(len..).ok_or(ParseError::HeaderLength)?;
    }
    Ok(())
}

pub(crate) fn ipv6_at(bytes: &[u8], at: usize) -> IpAddr {
    let mut octets = [0; 16];
    octets.copy_from_slice(&bytes[at..at + 16]);
    Ipv6Addr::from(octets).into()
}

/// What an ICMP header of either version says.
pub(crate) fn icmp_transport(header: &[u8; ICMP_HEADER], protocol: u8) -> Transport {
    let identifier = u16_at(header, 4);
    let is_ipv6 = protocol == protocol::ICMPV6;
    match (header[0], header[1], is_ipv6) {
        // RFC 792 p. 14, RFC 4443 §4
        (8, 0, false) | (128, 0, true) => {
            Transport::IcmpEcho { kind: EchoKind::Request, identifier }
        }
        (0, 0, false) | (129, 0, true) => Transport::IcmpEcho { kind: EchoKind::Reply, identifier },
        _ => match crate::IcmpError::decode(header, is_ipv6) {
            Some(error) => Transport::IcmpError(error),
            None => Transport::Other { protocol },
        },
    }
}
