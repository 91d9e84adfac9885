//! The packet that an ICMP error quotes: finding out whose it was, and translating it along with the error (RFC 5508 §4).

use crate::bytes::{put_u16, u16_at, u32_at};
use crate::checksum::{self, Update};
use crate::extensions::{Fragmentation, walk_extensions};
use crate::headers::{Headers, IPV4_HEADER, IPV6_HEADER, ipv6_at};
use crate::transport::{ChecksumField, Transport, icmp_transport, protocol};
use crate::tun_packet::{RewriteError, TunPacket, complete};
use std::net::{IpAddr, Ipv4Addr};

/// What is known of the packet that an ICMP error is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quoted {
    source: IpAddr,
    destination: IpAddr,
    transport: Transport,
    protocol: u8,
    /// Whether the first 8 bytes of the transport header are quoted.
    has_transport: bool,
    /// Where the quote begins in the packet around it.
    offset: usize,
    /// Where the quoted transport header begins in the packet around it.
    transport_offset: usize,
}

impl Quoted {
    /// The packet quoted by `packet`, which `headers` are of. `None` if it isn't an ICMP error, or quotes less than an
    /// IP header of its own version.
    pub fn parse(headers: &Headers, packet: &[u8]) -> Option<Self> {
        let Transport::IcmpError(_) = headers.transport() else { return None };
        let offset = headers.payload_offset();
        let quote = packet.get(offset..)?;
        let quoted = if headers.is_ipv6() { parse_ipv6(quote) } else { parse_ipv4(quote) }?;
        Some(Self { offset, transport_offset: quoted.transport_offset + offset, ..quoted })
    }

    /// Source address.
    pub fn source(&self) -> IpAddr {
        self.source
    }

    /// Destination address.
    pub fn destination(&self) -> IpAddr {
        self.destination
    }

    /// Ports or echo identifier; [`Transport::Other`] if too little is quoted to tell.
    pub fn transport(&self) -> Transport {
        self.transport
    }

    /// The protocol number.
    pub fn protocol(&self) -> u8 {
        self.protocol
    }
}

fn parse_ipv4(quote: &[u8]) -> Option<Quoted> {
    let header = quote.first_chunk::<IPV4_HEADER>()?;
    let header_len = usize::from(header[0] & 0x0f) * 4;
    if header[0] >> 4 != 4 || header_len < IPV4_HEADER {
        return None;
    }
    let is_first = u16_at(header, 6) & 0x1fff == 0;
    let protocol = header[9];
    let transport_header =
        quote.get(header_len..).filter(|_| is_first).and_then(<[u8]>::first_chunk);
    Some(Quoted {
        source: Ipv4Addr::from_bits(u32_at(header, 12)).into(),
        destination: Ipv4Addr::from_bits(u32_at(header, 16)).into(),
        transport: transport(transport_header, protocol, false),
        protocol,
        has_transport: transport_header.is_some(),
        offset: 0,
        transport_offset: header_len,
    })
}

fn parse_ipv6(quote: &[u8]) -> Option<Quoted> {
    let header = quote.first_chunk::<IPV6_HEADER>()?;
    if header[0] >> 4 != 6 {
        return None;
    }
    let (protocol, transport_offset, is_readable) = match walk_extensions(header[6], quote) {
        Ok((protocol, offset, Fragmentation::Whole)) => (protocol, offset, true),
        Ok((protocol, offset, Fragmentation::Fragment)) => (protocol, offset, false),
        Err(_) => (header[6], IPV6_HEADER, false),
    };
    let transport_header =
        quote.get(transport_offset..).filter(|_| is_readable).and_then(<[u8]>::first_chunk);
    Some(Quoted {
        source: ipv6_at(header, 8),
        destination: ipv6_at(header, 24),
        transport: transport(transport_header, protocol, true),
        protocol,
        has_transport: transport_header.is_some(),
        offset: 0,
        transport_offset,
    })
}

/// All that RFC 792 promises are the first 8 bytes.
fn transport(header: Option<&[u8; 8]>, protocol: u8, is_ipv6: bool) -> Transport {
    let Some(header) = header else { return Transport::Other { protocol } };
    let (source, destination) = (u16_at(header, 0), u16_at(header, 2));
    match (protocol, is_ipv6) {
        (protocol::TCP, _) => Transport::Tcp { source, destination },
        (protocol::UDP, _) => Transport::Udp { source, destination },
        (protocol::ICMP, false) | (protocol::ICMPV6, true) => icmp_transport(header, protocol),
        _ => Transport::Other { protocol },
    }
}

/// Translating the quoted packet: its own checksums are updated as far as they are quoted, and so is the error's.
impl TunPacket<'_> {
    /// Replaces the source address of the quoted packet.
    pub fn set_quoted_source(&mut self, address: IpAddr) -> Result<(), RewriteError> {
        let quoted = self.quoted().ok_or(RewriteError::NoSuchField)?;
        let at = if address.is_ipv4() { 12 } else { 8 };
        self.set_quoted_address(&quoted, at, quoted.source, address)
    }

    /// Replaces the destination address of the quoted packet.
    pub fn set_quoted_destination(&mut self, address: IpAddr) -> Result<(), RewriteError> {
        let quoted = self.quoted().ok_or(RewriteError::NoSuchField)?;
        let at = if address.is_ipv4() { 16 } else { 24 };
        self.set_quoted_address(&quoted, at, quoted.destination, address)
    }

    /// Replaces the source port of the quoted TCP or UDP header.
    pub fn set_quoted_source_port(&mut self, port: u16) -> Result<(), RewriteError> {
        let quoted = self.quoted().ok_or(RewriteError::NoSuchField)?;
        quoted.transport.source_port().ok_or(RewriteError::NoSuchField)?;
        self.set_quoted_transport_word(&quoted, 0, port);
        Ok(())
    }

    /// Replaces the destination port of the quoted TCP or UDP header.
    pub fn set_quoted_destination_port(&mut self, port: u16) -> Result<(), RewriteError> {
        let quoted = self.quoted().ok_or(RewriteError::NoSuchField)?;
        quoted.transport.destination_port().ok_or(RewriteError::NoSuchField)?;
        self.set_quoted_transport_word(&quoted, 2, port);
        Ok(())
    }

    /// Replaces the identifier of the quoted echo message.
    pub fn set_quoted_identifier(&mut self, identifier: u16) -> Result<(), RewriteError> {
        let quoted = self.quoted().ok_or(RewriteError::NoSuchField)?;
        let Transport::IcmpEcho { .. } = quoted.transport else {
            return Err(RewriteError::NoSuchField);
        };
        self.set_quoted_transport_word(&quoted, 4, identifier);
        Ok(())
    }

    fn set_quoted_address(
        &mut self,
        quoted: &Quoted,
        at: usize,
        old: IpAddr,
        new: IpAddr,
    ) -> Result<(), RewriteError> {
        if old.is_ipv4() != new.is_ipv4() {
            return Err(RewriteError::Family);
        }
        let inner = Update::default().sum(checksum::address(old), checksum::address(new));
        let mut outer = inner;
        let at = quoted.offset + at;
        match new {
            IpAddr::V4(new) => {
                self.bytes[at..at + 4].copy_from_slice(&new.octets());
                let at = quoted.offset + 10;
                let (old, new) = replace(self.bytes, at, |checksum| inner.apply(checksum));
                outer = outer.word(old, new);
            }
            IpAddr::V6(new) => self.bytes[at..at + 16].copy_from_slice(&new.octets()),
        }
        let outer = self.update_quoted_transport(quoted, inner, true, outer);
        self.update_body(outer);
        Ok(())
    }

    fn set_quoted_transport_word(&mut self, quoted: &Quoted, at: usize, word: u16) {
        let (old, new) = replace(self.bytes, quoted.transport_offset + at, |_| word);
        let inner = Update::default().word(old, new);
        let outer = self.update_quoted_transport(quoted, inner, false, inner);
        self.update_body(outer);
    }

    /// Updates the quoted transport's checksum and adds that change to `outer`.
    fn update_quoted_transport(
        &mut self,
        quoted: &Quoted,
        inner: Update,
        in_pseudo_header: bool,
        outer: Update,
    ) -> Update {
        let field = ChecksumField::of(quoted.protocol)
            .filter(|field| quoted.has_transport && (field.pseudo_header || !in_pseudo_header));
        let Some(field) = field else { return outer };
        let at = quoted.transport_offset + field.at;
        if at + 2 > self.bytes.len() {
            return outer;
        }
        let (old, new) = replace(self.bytes, at, |checksum| complete(field, inner, checksum));
        outer.word(old, new)
    }
}

/// Replaces the word at `at`; returns the old and the new one.
fn replace(bytes: &mut [u8], at: usize, new: impl FnOnce(u16) -> u16) -> (u16, u16) {
    let old = u16_at(bytes, at);
    let new = new(old);
    put_u16(bytes, at, new);
    (old, new)
}
