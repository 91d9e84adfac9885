//! ICMP errors of both versions: what they say, and building them in answer to a packet.

use crate::build;
use crate::bytes::{put_u16, put_u32, u16_at, u32_at};
use crate::checksum::{Sum, pseudo_header};
use crate::headers::{Headers, IPV4_HEADER, IPV6_HEADER};
use crate::plan;
use crate::transport::{ICMP_HEADER, Transport, protocol};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// RFC 1812 §4.3.2.3: as much of the packet as possible without exceeding 576 bytes.
const IPV4_LIMIT: usize = 576;
/// RFC 4443 §2.4 (c): the minimum MTU of IPv6.
const IPV6_LIMIT: usize = plan::MTU as usize;

/// An ICMP error, in the words of both versions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum IcmpError {
    /// Destination unreachable (RFC 792 type 3, RFC 4443 type 1).
    Unreachable(Unreachable),
    /// Fragmentation needed (RFC 1191: type 3, code 4) and packet too big (RFC 4443 type 2).
    PacketTooBig {
        /// MTU of the next hop in bytes. IPv4 has room for 16 bits; 0 from a router that doesn't say.
        mtu: u32,
    },
    /// Time exceeded (RFC 792 type 11, RFC 4443 type 3).
    TimeExceeded,
    /// Parameter problem (RFC 792 type 12, RFC 4443 type 4).
    ParameterProblem {
        /// The code of the IP version.
        code: u8,
        /// The offset of what caused it.
        pointer: u32,
    },
}

/// Why a destination is unreachable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Unreachable {
    /// IPv4: net unreachable, code 0; IPv6: no route to destination, code 0.
    Network,
    /// IPv4: host unreachable, code 1; IPv6: address unreachable, code 3.
    Host,
    /// IPv4: communication administratively prohibited, code 13 (RFC 1812 §5.2.7.1); IPv6: the same, code 1.
    Prohibited,
    /// IPv4: port unreachable, code 3; IPv6: the same, code 4.
    Port,
    /// Any other code of the IP version.
    Other {
        /// The code.
        code: u8,
    },
}

impl IcmpError {
    /// The destination is known, but there is no way to it: net unreachable for IPv4, address unreachable for IPv6.
    pub fn unreachable(destination: IpAddr) -> Self {
        Self::Unreachable(match destination {
            IpAddr::V4(_) => Unreachable::Network,
            IpAddr::V6(_) => Unreachable::Host,
        })
    }

    /// A policy forbids it.
    pub fn prohibited() -> Self {
        Self::Unreachable(Unreachable::Prohibited)
    }

    /// Writes the whole packet that answers `original` with this error to `out` and returns its length. It comes from
    /// the address that the original was sent to.
    ///
    /// `None` if the original must not be answered (RFC 1122 §3.2.2, RFC 4443 §2.4 (e)): it is an ICMP error or
    /// redirect, a fragment or no valid packet, or source or destination is not one host. Also if `out` is
    /// smaller than the answer; [`plan::MTU`] bytes are always enough.
    pub fn answer(self, original: &[u8], out: &mut [u8]) -> Option<usize> {
        let headers = Headers::parse(original).ok()?;
        if !may_be_answered(&headers, original) {
            return None;
        }
        let (ip_header, limit, protocol) = match headers.source() {
            IpAddr::V4(_) => (IPV4_HEADER, IPV4_LIMIT, protocol::ICMP),
            IpAddr::V6(_) => (IPV6_HEADER, IPV6_LIMIT, protocol::ICMPV6),
        };
        let quote = &original[..original.len().min(limit - ip_header - ICMP_HEADER)];
        let len = ip_header + ICMP_HEADER + quote.len();
        let out = out.get_mut(..len)?;
        let (source, destination) = (headers.destination(), headers.source());
        build::ip_header(out, source, destination, protocol);
        let message = &mut out[ip_header..];
        message[..ICMP_HEADER].copy_from_slice(&self.encode(headers.is_ipv6()));
        message[ICMP_HEADER..].copy_from_slice(quote);
        let pseudo = match headers.is_ipv6() {
            true => pseudo_header(source, destination, protocol, message.len()),
            false => Sum::default(),
        };
        let checksum = pseudo.add_bytes(message).checksum();
        put_u16(message, 2, checksum);
        Some(len)
    }

    /// The error of an ICMP header, if it is one that quotes a packet and isn't deprecated.
    pub(crate) fn decode(header: &[u8; ICMP_HEADER], is_ipv6: bool) -> Option<Self> {
        let code = header[1];
        let error = match (header[0], is_ipv6) {
            (3, false) if code == 4 => Self::PacketTooBig { mtu: u16_at(header, 6).into() },
            (2, true) => Self::PacketTooBig { mtu: u32_at(header, 4) },
            (3, false) | (1, true) => Self::Unreachable(Unreachable::from_code(code, is_ipv6)),
            (11, false) | (3, true) => Self::TimeExceeded,
            (12, false) => Self::ParameterProblem { code, pointer: header[4].into() },
            (4, true) => Self::ParameterProblem { code, pointer: u32_at(header, 4) },
            _ => return None,
        };
        Some(error)
    }

    /// The header, checksum 0.
    fn encode(self, is_ipv6: bool) -> [u8; ICMP_HEADER] {
        let mut header = [0; ICMP_HEADER];
        (header[0], header[1]) = match (self, is_ipv6) {
            (Self::Unreachable(reason), false) => (3, reason.code(false)),
            (Self::Unreachable(reason), true) => (1, reason.code(true)),
            (Self::PacketTooBig { .. }, false) => (3, 4),
            (Self::PacketTooBig { .. }, true) => (2, 0),
            (Self::TimeExceeded, false) => (11, 0),
            (Self::TimeExceeded, true) => (3, 0),
            (Self::ParameterProblem { code, .. }, false) => (12, code),
            (Self::ParameterProblem { code, .. }, true) => (4, code),
        };
        match (self, is_ipv6) {
            (Self::PacketTooBig { mtu }, false) => {
                put_u16(&mut header, 6, u16::try_from(mtu).unwrap_or(u16::MAX));
            }
            (Self::ParameterProblem { pointer, .. }, false) => {
                header[4] = u8::try_from(pointer).unwrap_or(u8::MAX);
            }
            (Self::PacketTooBig { mtu: word }, true)
            | (Self::ParameterProblem { pointer: word, .. }, true) => {
                put_u32(&mut header, 4, word);
            }
            _ => {}
        }
        header
    }
}

impl Unreachable {
    fn from_code(code: u8, is_ipv6: bool) -> Self {
        match (code, is_ipv6) {
            (0, _) => Self::Network,
            (1, false) | (3, true) => Self::Host,
            (13, false) | (1, true) => Self::Prohibited,
            (3, false) | (4, true) => Self::Port,
            _ => Self::Other { code },
        }
    }

    fn code(self, is_ipv6: bool) -> u8 {
        match (self, is_ipv6) {
            (Self::Network, _) => 0,
            (Self::Host, false) => 1,
            (Self::Host, true) => 3,
            (Self::Prohibited, false) => 13,
            (Self::Prohibited, true) => 1,
            (Self::Port, false) => 3,
            (Self::Port, true) => 4,
            (Self::Other { code }, _) => code,
        }
    }
}

fn may_be_answered(headers: &Headers, bytes: &[u8]) -> bool {
    let is_icmp_error = match headers.protocol() {
        protocol::ICMP | protocol::ICMPV6 => {
            matches!(headers.transport(), Transport::IcmpError(_))
                || is_other_error(bytes[headers.transport_offset()], headers.is_ipv6())
        }
        _ => false,
    };
    !is_icmp_error && is_one_host(headers.source()) && is_one_host(headers.destination())
}

/// Errors that [`IcmpError`] has no name for.
fn is_other_error(icmp_type: u8, is_ipv6: bool) -> bool {
    match is_ipv6 {
        // RFC 1122 §3.2.2: source quench and redirect.
        false => matches!(icmp_type, 4 | 5),
        // RFC 4443 §2.1: errors are below 128; RFC 4861 §4.5: redirect.
        true => icmp_type < 128 || icmp_type == 137,
    }
}

/// RFC 1122 §3.2.2: what can't be one host's address.
fn is_one_host(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => {
            // "This network" and class E, which includes the limited broadcast.
            let first = v4.octets()[0];
            v4 != Ipv4Addr::UNSPECIFIED && first != 0 && first < 224 && !v4.is_loopback()
        }
        IpAddr::V6(v6) => v6 != Ipv6Addr::UNSPECIFIED && !v6.is_multicast() && !v6.is_loopback(),
    }
}
