//! Packets made from nothing: DNS answers, probes, and the packets of tests.
//!
//! Every function writes one complete packet, checksums included, to the beginning of `out` and returns its length.

use crate::bytes::{put_u16, put_u32};
use crate::checksum::{Sum, pseudo_header};
use crate::headers::{IPV4_HEADER, IPV6_HEADER};
use crate::transport::{EchoKind, TcpFlags, protocol};
use std::net::{IpAddr, SocketAddr};

const HOP_LIMIT: u8 = 64;

/// Why a packet can't be built.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BuildError {
    /// Source and destination are of different families.
    #[error("source and destination are of different address families")]
    Family,
    /// The packet doesn't fit into the buffer, or is longer than IP allows.
    #[error("no room for the packet")]
    Room,
}

/// What a TCP header says besides ports.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tcp<'a> {
    /// Sequence number of the first byte.
    pub sequence: u32,
    /// Acknowledgement number.
    pub acknowledgement: u32,
    /// Flags.
    pub flags: TcpFlags,
    /// Window, not scaled.
    pub window: u16,
    /// Options; padded with zeros to a multiple of 4, at most 40 bytes.
    pub options: &'a [u8],
}

/// A UDP packet.
pub fn udp(
    out: &mut [u8],
    source: SocketAddr,
    destination: SocketAddr,
    payload: &[u8],
) -> Result<usize, BuildError> {
    let (source_ip, destination_ip) = (source.ip(), destination.ip());
    transport(out, source_ip, destination_ip, protocol::UDP, 8 + payload.len(), |datagram| {
        put_u16(datagram, 0, source.port());
        put_u16(datagram, 2, destination.port());
        let len = datagram.len() as u16;
        put_u16(datagram, 4, len);
        put_u16(datagram, 6, 0);
        datagram[8..].copy_from_slice(payload);
        6
    })
}

/// A TCP packet.
pub fn tcp(
    out: &mut [u8],
    source: SocketAddr,
    destination: SocketAddr,
    header: Tcp<'_>,
    payload: &[u8],
) -> Result<usize, BuildError> {
    let header_len = 20 + header.options.len().next_multiple_of(4);
    if header_len > 60 {
        return Err(BuildError::Room);
    }
    let (source_ip, destination_ip) = (source.ip(), destination.ip());
    let len = header_len + payload.len();
    transport(out, source_ip, destination_ip, protocol::TCP, len, |segment| {
        put_u16(segment, 0, source.port());
        put_u16(segment, 2, destination.port());
        put_u32(segment, 4, header.sequence);
        put_u32(segment, 8, header.acknowledgement);
        segment[12] = (header_len as u8 / 4) << 4;
        segment[13] = header.flags.0;
        put_u16(segment, 14, header.window);
        put_u32(segment, 16, 0);
        segment[20..header_len].fill(0);
        segment[20..20 + header.options.len()].copy_from_slice(header.options);
        segment[header_len..].copy_from_slice(payload);
        16
    })
}

/// An ICMP or ICMPv6 echo message.
pub fn echo(
    out: &mut [u8],
    source: IpAddr,
    destination: IpAddr,
    kind: EchoKind,
    identifier: u16,
    sequence: u16,
    payload: &[u8],
) -> Result<usize, BuildError> {
    let (protocol, icmp_type): (u8, u32) = match (source, kind) {
        (IpAddr::V4(_), EchoKind::Request) => (protocol::ICMP, 8),
        (IpAddr::V4(_), EchoKind::Reply) => (protocol::ICMP, 0),
        (IpAddr::V6(_), EchoKind::Request) => (protocol::ICMPV6, 128),
        (IpAddr::V6(_), EchoKind::Reply) => (protocol::ICMPV6, 129),
    };
    transport(out, source, destination, protocol, 8 + payload.len(), |message| {
        put_u32(message, 0, icmp_type << 24);
        put_u16(message, 4, identifier);
        put_u16(message, 6, sequence);
        message[8..].copy_from_slice(payload);
        2
    })
}

/// Writes the IP header, has `write` fill `len` bytes behind it, and sets the checksum whose offset `write` returns.
fn transport(
    out: &mut [u8],
    source: IpAddr,
    destination: IpAddr,
    protocol: u8,
    len: usize,
    write: impl FnOnce(&mut [u8]) -> usize,
) -> Result<usize, BuildError> {
    if source.is_ipv4() != destination.is_ipv4() {
        return Err(BuildError::Family);
    }
    let header_len = if source.is_ipv4() { IPV4_HEADER } else { IPV6_HEADER };
    let total = header_len + len;
    if total > usize::from(u16::MAX) {
        return Err(BuildError::Room);
    }
    let packet = out.get_mut(..total).ok_or(BuildError::Room)?;
    ip_header(packet, source, destination, protocol);
    let body = &mut packet[header_len..];
    let at = write(body);
    let pseudo = match protocol {
        protocol::ICMP => Sum::default(),
        _ => pseudo_header(source, destination, protocol, len),
    };
    let sum = pseudo.add_bytes(body);
    let checksum = if protocol == protocol::UDP { sum.udp_checksum() } else { sum.checksum() };
    put_u16(body, at, checksum);
    Ok(total)
}

/// Writes the header of `packet`, whose length is that of the packet and at most 65535.
///
/// Don't fragment is set for IPv4, so that the identification has no meaning and may be 0 (RFC 6864 §4).
pub(crate) fn ip_header(packet: &mut [u8], source: IpAddr, destination: IpAddr, protocol: u8) {
    match (source, destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            let mut header = [0; IPV4_HEADER];
            header[0] = 0x45;
            put_u16(&mut header, 2, packet.len() as u16);
            header[6] = 0x40;
            header[8] = HOP_LIMIT;
            header[9] = protocol;
            put_u32(&mut header, 12, source.to_bits());
            put_u32(&mut header, 16, destination.to_bits());
            let checksum = Sum::of(&header).checksum();
            put_u16(&mut header, 10, checksum);
            packet[..IPV4_HEADER].copy_from_slice(&header);
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            let mut header = [0; IPV6_HEADER];
            header[0] = 0x60;
            put_u16(&mut header, 4, (packet.len() - IPV6_HEADER) as u16);
            header[6] = protocol;
            header[7] = HOP_LIMIT;
            header[8..24].copy_from_slice(&source.octets());
            header[24..40].copy_from_slice(&destination.octets());
            packet[..IPV6_HEADER].copy_from_slice(&header);
        }
        _ => debug_assert!(false, "callers compare the families"),
    }
}
