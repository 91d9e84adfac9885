//! What is inside an IP packet, and where its checksum is.

use crate::bytes::u16_at;

pub(crate) const ICMP_HEADER: usize = 8;

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
