//! A packet in a buffer of the caller: checked once, rewritten in place.

use crate::bytes::{put_u16, u16_at};
use crate::checksum::{self, Sum, Update};
use crate::ecn::Ecn;
use crate::headers::{Headers, ParseError};
use crate::icmp::IcmpError;
use crate::offload::{Offload, SegmentationKind};
use crate::quoted::Quoted;
use crate::segments::{self, ExceedsMtu, MAX_SEGMENTS, Segments};
use crate::transport::{ChecksumField, Transport};
use std::net::IpAddr;

/// One packet, or a super-packet that [`segments`](Self::segments) cuts.
///
/// Rewriting keeps every checksum as right or wrong as it was (RFC 1624), complete or partial.
#[derive(Debug)]
pub struct TunPacket<'a> {
    pub(crate) bytes: &'a mut [u8],
    pub(crate) headers: Headers,
    offload: Offload,
    /// The transport's own checksum is the partial one.
    partial: bool,
}

/// Why a field can't be rewritten.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RewriteError {
    /// The new address is of the other family.
    #[error("address of the other family")]
    Family,
    /// The packet has no such field.
    #[error("the packet has no such field")]
    NoSuchField,
}

impl<'a> TunPacket<'a> {
    /// Checks the headers of a packet that is all of `bytes`, and that `offload` is possible for it.
    pub fn parse(bytes: &'a mut [u8], offload: Offload) -> Result<Self, ParseError> {
        let headers = Headers::parse(bytes)?;
        let mut partial = false;
        if let Some(checksum) = offload.checksum {
            let (start, offset) = (usize::from(checksum.start), usize::from(checksum.offset));
            partial = headers.checksum_field().is_some_and(|field| {
                start == headers.transport_offset() && start + offset == field.at
            });
            // Else it is the checksum of a packet inside this one.
            let is_inside = start >= headers.payload_offset() && start + offset + 2 <= bytes.len();
            if !partial && !is_inside {
                return Err(ParseError::Offload);
            }
        }
        if let Some(segmentation) = offload.segmentation {
            let fits = match (segmentation.kind, headers.transport()) {
                (SegmentationKind::Tcp4, Transport::Tcp { .. }) => !headers.is_ipv6(),
                (SegmentationKind::Tcp6, Transport::Tcp { .. }) => headers.is_ipv6(),
                (SegmentationKind::Udp, Transport::Udp { .. }) => true,
                _ => false,
            };
            if !fits || segmentation.segment_size == 0 || segments::is_header_too_long(&headers) {
                return Err(ParseError::Offload);
            }
            let payload = headers.len() - headers.payload_offset();
            if payload.div_ceil(segmentation.segment_size.into()) > MAX_SEGMENTS {
                return Err(ParseError::Segments);
            }
        }
        Ok(Self { bytes, headers, offload, partial })
    }

    /// What the headers say now.
    pub fn headers(&self) -> &Headers {
        &self.headers
    }

    /// The packet as it is now: a super-packet's lengths are those of the whole, a partial checksum is partial.
    pub fn bytes(&self) -> &[u8] {
        self.bytes
    }

    /// What is left to do before the packet can travel.
    pub fn offload(&self) -> Offload {
        self.offload
    }

    /// What the transport carries.
    pub fn payload(&self) -> &[u8] {
        &self.bytes[self.headers.payload_offset()..]
    }

    /// The packet that an ICMP error quotes, if it is one and quotes at least addresses.
    pub fn quoted(&self) -> Option<Quoted> {
        Quoted::parse(&self.headers, self.bytes)
    }

    /// The length of the longest packet that [`segments`](Self::segments) yields if the MTU doesn't matter.
    pub fn longest_segment(&self) -> usize {
        match self.offload.segmentation {
            Some(segmentation) => self
                .headers
                .len()
                .min(self.headers.payload_offset() + usize::from(segmentation.segment_size)),
            None => self.headers.len(),
        }
    }

    /// Cuts the packet into segments that can travel on their own, in place. A plain packet is its only segment, with
    /// its checksum completed. TCP segments are made to fit `mtu`; all others fail if they don't.
    pub fn segments(self, mtu: u16) -> Result<Segments<'a>, ExceedsMtu> {
        Segments::new(self.bytes, &self.headers, self.offload, mtu.into())
    }

    /// Replaces the source address.
    pub fn set_source(&mut self, address: IpAddr) -> Result<(), RewriteError> {
        let at = if address.is_ipv4() { 12 } else { 8 };
        self.set_address(at, self.headers.source, address)?;
        self.headers.source = address;
        Ok(())
    }

    /// Replaces the destination address.
    pub fn set_destination(&mut self, address: IpAddr) -> Result<(), RewriteError> {
        let at = if address.is_ipv4() { 16 } else { 24 };
        self.set_address(at, self.headers.destination, address)?;
        self.headers.destination = address;
        Ok(())
    }

    /// Replaces the source port of TCP or UDP.
    pub fn set_source_port(&mut self, port: u16) -> Result<(), RewriteError> {
        let (Transport::Tcp { source, .. } | Transport::Udp { source, .. }) =
            &mut self.headers.transport
        else {
            return Err(RewriteError::NoSuchField);
        };
        *source = port;
        self.set_transport_word(0, port);
        Ok(())
    }

    /// Replaces the destination port of TCP or UDP.
    pub fn set_destination_port(&mut self, port: u16) -> Result<(), RewriteError> {
        let (Transport::Tcp { destination, .. } | Transport::Udp { destination, .. }) =
            &mut self.headers.transport
        else {
            return Err(RewriteError::NoSuchField);
        };
        *destination = port;
        self.set_transport_word(2, port);
        Ok(())
    }

    /// Replaces the identifier of an ICMP echo message.
    pub fn set_identifier(&mut self, new: u16) -> Result<(), RewriteError> {
        let Transport::IcmpEcho { identifier, .. } = &mut self.headers.transport else {
            return Err(RewriteError::NoSuchField);
        };
        *identifier = new;
        self.set_transport_word(4, new);
        Ok(())
    }

    /// Replaces the time to live or hop limit.
    pub fn set_hop_limit(&mut self, hop_limit: u8) {
        if self.headers.is_ipv6() {
            self.bytes[7] = hop_limit;
        } else {
            let [_, protocol] = u16_at(self.bytes, 8).to_be_bytes();
            self.set_ipv4_word(8, u16::from_be_bytes([hop_limit, protocol]));
        }
    }

    /// Carries the congestion mark of the outer header over to this packet, which has come out of it (RFC 6040 §4.2).
    ///
    /// Only ever turns ECT into CE. A mark on a packet whose transport doesn't know ECN is ignored instead of
    /// dropping the packet, because peers copy the bits from inside to outside without the marks of others.
    pub fn apply_outer_ecn(&mut self, outer: Ecn) {
        if outer != Ecn::Ce || !self.headers.ecn().is_capable() {
            return;
        }
        self.headers.traffic_class |= Ecn::Ce.bits();
        if self.headers.is_ipv6() {
            self.bytes[1] |= Ecn::Ce.bits() << 4;
        } else {
            let word = u16_at(self.bytes, 0) | u16::from(Ecn::Ce.bits());
            self.set_ipv4_word(0, word);
        }
    }

    /// Whether the IPv4 header's and the transport's checksum are right. Protocols without a checksum that this crate
    /// knows are intact; so is a partial checksum, as there is nothing to compare it with.
    pub fn is_intact(&self) -> bool {
        self.partial || is_intact(&self.headers, self.bytes)
    }

    /// Writes the packet that answers this one with `error` to `out`, see [`IcmpError::answer`].
    pub fn answer(&self, error: IcmpError, out: &mut [u8]) -> Option<usize> {
        error.answer(self.bytes, out)
    }

    fn set_address(&mut self, at: usize, old: IpAddr, new: IpAddr) -> Result<(), RewriteError> {
        if old.is_ipv4() != new.is_ipv4() {
            return Err(RewriteError::Family);
        }
        let update = Update::default().sum(checksum::address(old), checksum::address(new));
        match new {
            IpAddr::V4(new) => {
                self.bytes[at..at + 4].copy_from_slice(&new.octets());
                let checksum = update.apply(u16_at(self.bytes, 10));
                put_u16(self.bytes, 10, checksum);
            }
            IpAddr::V6(new) => self.bytes[at..at + 16].copy_from_slice(&new.octets()),
        }
        let Some(field) = self.headers.checksum_field().filter(|field| field.pseudo_header) else {
            return Ok(());
        };
        let old = u16_at(self.bytes, field.at);
        let new =
            if self.partial { update.apply_partial(old) } else { complete(field, update, old) };
        put_u16(self.bytes, field.at, new);
        Ok(())
    }

    fn set_ipv4_word(&mut self, at: usize, word: u16) {
        let update = Update::default().word(u16_at(self.bytes, at), word);
        put_u16(self.bytes, at, word);
        let checksum = update.apply(u16_at(self.bytes, 10));
        put_u16(self.bytes, 10, checksum);
    }

    fn set_transport_word(&mut self, at: usize, word: u16) {
        let at = self.headers.transport_offset() + at;
        let update = Update::default().word(u16_at(self.bytes, at), word);
        put_u16(self.bytes, at, word);
        self.update_body(update);
    }

    /// Words of the transport header or payload have changed. They are no part of a partial checksum yet.
    pub(crate) fn update_body(&mut self, update: Update) {
        let Some(field) = self.headers.checksum_field().filter(|_| !self.partial) else { return };
        let checksum = complete(field, update, u16_at(self.bytes, field.at));
        put_u16(self.bytes, field.at, checksum);
    }
}

/// Updates a complete checksum.
pub(crate) fn complete(field: ChecksumField, update: Update, checksum: u16) -> u16 {
    if field.optional { update.apply_udp(checksum) } else { update.apply(checksum) }
}

/// Whether all checksums of a packet are right.
pub(crate) fn is_intact(headers: &Headers, bytes: &[u8]) -> bool {
    let ip_header = match headers.is_ipv6() {
        true => true,
        false => Sum::of(&bytes[..headers.transport_offset()]).is_intact(),
    };
    ip_header && is_transport_intact(headers, bytes)
}

fn is_transport_intact(headers: &Headers, bytes: &[u8]) -> bool {
    let Some(field) = headers.checksum_field() else { return true };
    if field.optional && !headers.is_ipv6() && u16_at(bytes, field.at) == 0 {
        return true;
    }
    let body = &bytes[headers.transport_offset()..];
    let pseudo = match field.pseudo_header {
        true => checksum::pseudo_header(
            headers.source(),
            headers.destination(),
            headers.protocol(),
            body.len(),
        ),
        false => Sum::default(),
    };
    pseudo.add_bytes(body).is_intact()
}
