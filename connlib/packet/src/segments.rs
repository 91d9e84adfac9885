//! Cutting a super-packet into the packets that it stands for, in place.
//!
//! ```text
//! before  H | payload 0 | payload 1 | payload 2 |
//! first   H | payload 0 |
//! second          H | payload 1 |        over the tail of payload 0, which has been consumed
//! third                       H | payload 2 |
//! ```

use crate::bytes::{put_u16, put_u32, u16_at, u32_at};
use crate::checksum::{Sum, pseudo_header};
use crate::headers::{Headers, IPV6_HEADER};
use crate::offload::{Offload, PartialChecksum};
use crate::transport::{TcpFlags, Transport};

/// More segments than this in one super-packet are refused.
pub const MAX_SEGMENTS: usize = 256;

/// Longest header of a super-packet: IPv6 with some extension headers, TCP with all options.
const MAX_HEADER: usize = 128;

/// A segment is longer than the MTU and can't be made shorter. Deserves [`IcmpError::PacketTooBig`].
///
/// [`IcmpError::PacketTooBig`]: crate::IcmpError::PacketTooBig
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a packet of {len} bytes exceeds the MTU")]
pub struct ExceedsMtu {
    /// The segment's length in bytes.
    pub len: usize,
}

/// The segments of one packet, each a complete packet of its own with all checksums complete.
///
/// A cursor, not an iterator: taking the next segment destroys the one before.
#[derive(Debug)]
pub struct Segments<'a> {
    bytes: &'a mut [u8],
    next: usize,
    count: usize,
    cut: Option<Cut>,
}

/// The header of all segments, and the sums of what doesn't change in it.
#[derive(Debug)]
struct Cut {
    header: [u8; MAX_HEADER],
    header_len: usize,
    transport_offset: usize,
    is_ipv6: bool,
    is_tcp: bool,
    /// Payload bytes of each segment but the last.
    size: usize,
    ip_sum: Sum,
    transport_sum: Sum,
    identification: u16,
    sequence: u32,
    flags: u8,
}

pub(crate) fn is_header_too_long(headers: &Headers) -> bool {
    headers.payload_offset() > MAX_HEADER
}

impl<'a> Segments<'a> {
    /// `headers` and `offload` have been checked against `bytes`.
    pub(crate) fn new(
        bytes: &'a mut [u8],
        headers: &Headers,
        offload: Offload,
        mtu: usize,
    ) -> Result<Self, ExceedsMtu> {
        let len = bytes.len();
        let Some(segmentation) = offload.segmentation else {
            if len > mtu {
                return Err(ExceedsMtu { len });
            }
            if let Some(partial) = offload.checksum {
                complete_checksum(bytes, partial);
            }
            return Ok(Self { bytes, next: 0, count: 1, cut: None });
        };

        let is_tcp = matches!(headers.transport(), Transport::Tcp { .. });
        let header_len = headers.payload_offset();
        let payload = len - header_len;
        let mut size = usize::from(segmentation.segment_size).min(payload);
        if header_len + size > mtu {
            // TCP numbers bytes, so that its segments may be cut anywhere.
            let room = mtu.saturating_sub(header_len);
            if !is_tcp || room == 0 || payload.div_ceil(room) > MAX_SEGMENTS {
                return Err(ExceedsMtu { len: header_len + size });
            }
            size = room;
        }
        let count = if size == 0 { 1 } else { payload.div_ceil(size) };
        let cut = Some(Cut::new(bytes, headers, is_tcp, size));
        Ok(Self { bytes, next: 0, count, cut })
    }

    /// How many segments are left.
    pub fn remaining(&self) -> usize {
        self.count - self.next
    }

    /// The next segment. Its bytes stay valid until the next call.
    pub fn next_segment(&mut self) -> Option<&mut [u8]> {
        let index = self.next;
        if index == self.count {
            return None;
        }
        self.next += 1;
        let Some(cut) = &self.cut else { return Some(self.bytes) };
        let start = index * cut.size;
        let end = (start + cut.header_len + cut.size).min(self.bytes.len());
        let segment = &mut self.bytes[start..end];
        cut.write_headers(segment, index, index + 1 == self.count);
        Some(segment)
    }
}

impl Cut {
    fn new(bytes: &[u8], headers: &Headers, is_tcp: bool, size: usize) -> Self {
        let header_len = headers.payload_offset();
        let transport_offset = headers.transport_offset();
        let is_ipv6 = headers.is_ipv6();
        let mut header = [0; MAX_HEADER];
        header[..header_len].copy_from_slice(&bytes[..header_len]);

        // Everything that differs from segment to segment becomes 0 in the template.
        let (ip, transport) = header[..header_len].split_at_mut(transport_offset);
        let mut identification = 0;
        if is_ipv6 {
            put_u16(ip, 4, 0);
        } else {
            identification = u16_at(ip, 4);
            put_u16(ip, 2, 0);
            put_u16(ip, 4, 0);
            put_u16(ip, 10, 0);
        }
        let (mut sequence, mut flags) = (0, 0);
        if is_tcp {
            sequence = u32_at(transport, 4);
            flags = transport[13];
            put_u32(transport, 4, 0);
            transport[13] = 0;
            put_u16(transport, 16, 0);
        } else {
            put_u32(transport, 4, 0);
        }
        let (source, destination) = (headers.source(), headers.destination());
        let pseudo = pseudo_header(source, destination, headers.protocol(), 0);
        Self {
            ip_sum: Sum::of(ip),
            transport_sum: pseudo.add_bytes(transport),
            header,
            header_len,
            transport_offset,
            is_ipv6,
            is_tcp,
            size,
            identification,
            sequence,
            flags,
        }
    }

    #[inline]
    fn write_headers(&self, segment: &mut [u8], index: usize, is_last: bool) {
        let len = segment.len();
        let (headers, payload) = segment.split_at_mut(self.header_len);
        headers.copy_from_slice(&self.header[..self.header_len]);
        let (ip, transport) = headers.split_at_mut(self.transport_offset);

        if self.is_ipv6 {
            put_u16(ip, 4, (len - IPV6_HEADER) as u16);
        } else {
            let identification = self.identification.wrapping_add(index as u16);
            put_u16(ip, 2, len as u16);
            put_u16(ip, 4, identification);
            let sum = self.ip_sum.add_word(len as u16).add_word(identification);
            put_u16(ip, 10, sum.checksum());
        }

        // The length is in the pseudo-header.
        let transport_len = (len - self.transport_offset) as u16;
        let sum = self.transport_sum.add_word(transport_len).add_bytes(payload);
        if self.is_tcp {
            let sequence = self.sequence.wrapping_add((index * self.size) as u32);
            let flags = flags(self.flags, index == 0, is_last);
            put_u32(transport, 4, sequence);
            transport[13] = flags;
            put_u16(transport, 16, sum.add_long(sequence).add_word(flags.into()).checksum());
        } else {
            put_u16(transport, 4, transport_len);
            put_u16(transport, 6, sum.add_word(transport_len).udp_checksum());
        }
    }
}

/// The end of data is at the last segment's end; the congestion window was reduced before the first (RFC 3168 §6.1.2).
fn flags(flags: u8, is_first: bool, is_last: bool) -> u8 {
    let mut dropped = 0;
    if !is_last {
        dropped |= (TcpFlags::FIN | TcpFlags::PSH).0;
    }
    if !is_first {
        dropped |= TcpFlags::CWR.0;
    }
    flags & !dropped
}

/// The field, with the pseudo-header's sum in it, is part of what is summed.
fn complete_checksum(bytes: &mut [u8], partial: PartialChecksum) {
    const UDP_FIELD: u16 = 6;

    let start = usize::from(partial.start);
    let sum = Sum::of(&bytes[start..]);
    let checksum = if partial.offset == UDP_FIELD { sum.udp_checksum() } else { sum.checksum() };
    put_u16(bytes, start + usize::from(partial.offset), checksum);
}
