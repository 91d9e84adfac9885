//! Making few large writes of many packets: what a network card does with received segments (LRO), done before a TUN
//! device.
//!
//! Packets of one flow that the kernel could have cut out of one super-packet become that super-packet again. Its
//! checksum is partial and the kernel trusts what it stands for, so that only packets with right checksums are taken.
//! Inside of a flow the order is kept; packets of one flow may overtake those of others.

use crate::batch::PacketBatch;
use crate::bytes::{put_u16, u16_at, u32_at};
use crate::checksum::Sum;
use crate::headers::{Headers, IPV4_HEADER, IPV6_HEADER};
use crate::offload::{Offload, PartialChecksum, Segmentation, SegmentationKind, VIRTIO_HEADER};
use crate::transport::{TcpFlags, Transport, protocol};
use crate::tun_packet::is_intact;

/// UDP_MAX_SEGMENTS of kernels up to 6.9.
const MAX_PACKETS: u32 = 64;
const MAX_LEN: usize = 65535;

/// Flows whose newest write is remembered. A flow that is displaced by another starts a new write, nothing worse.
const FLOWS: usize = 256;
const NO_GROUP: u32 = u32::MAX;

/// What may be coalesced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Coalesce {
    /// TCP: the device has `TUN_F_TSO4` and `TUN_F_TSO6`.
    pub tcp: bool,
    /// UDP: the device has `TUN_F_USO4` and `TUN_F_USO6`.
    pub udp: bool,
}

/// Memory that is used again for every batch.
#[derive(Debug)]
pub struct Scratch {
    groups: Vec<Group>,
    /// For each packet the next one of its group.
    next: Vec<u32>,
    /// Virtio and packet headers of groups with more than one packet.
    heads: Vec<u8>,
    /// By the flow's hash: its newest group.
    newest: Box<[u32; FLOWS]>,
}

/// Packets that become one write.
#[derive(Debug, Clone, Copy)]
struct Group {
    first: u32,
    last: u32,
    packets: u32,
    /// Length of the super-packet.
    len: u32,
    /// What follows may be appended.
    is_open: bool,
    is_verified: bool,
    is_tcp: bool,
    push: bool,
    transport_offset: u8,
    header_len: u8,
    /// Payload bytes of each packet but the last.
    size: u16,
    next_sequence: u32,
    head: u32,
}

/// What a coalesced batch is to be written as, see [`PacketBatch::coalesce`].
#[derive(Debug, Clone, Copy)]
pub struct Writes<'a> {
    batch: &'a PacketBatch,
    scratch: &'a Scratch,
}

/// One write to a TUN device: [`head`](Self::head), then all of [`pieces`](Self::pieces).
#[derive(Debug, Clone, Copy)]
pub struct Write<'a> {
    writes: Writes<'a>,
    group: Group,
}

/// The parts of a write behind its head, in order.
#[derive(Debug, Clone)]
pub struct Pieces<'a> {
    writes: Writes<'a>,
    next: u32,
    remaining: u32,
    skip: usize,
}

impl Default for Scratch {
    fn default() -> Self {
        Self {
            groups: Vec::new(),
            next: Vec::new(),
            heads: Vec::new(),
            newest: Box::new([NO_GROUP; FLOWS]),
        }
    }
}

impl PacketBatch {
    /// Groups the packets into writes for a TUN device opened with `IFF_VNET_HDR`. With everything switched off, each
    /// packet is a write of its own.
    pub fn coalesce<'a>(&'a self, what: Coalesce, scratch: &'a mut Scratch) -> Writes<'a> {
        scratch.clear();
        for index in 0..self.len() {
            scratch.add(self, index, what);
        }
        for group in &mut scratch.groups {
            if group.packets > 1 {
                group.head = scratch.heads.len() as u32;
                let first = self.packet(group.first as usize).unwrap_or_default();
                group.write_head(first, &mut scratch.heads);
            }
        }
        Writes { batch: self, scratch }
    }
}

impl Scratch {
    fn clear(&mut self) {
        self.groups.clear();
        self.next.clear();
        self.heads.clear();
        self.newest.fill(NO_GROUP);
    }

    fn add(&mut self, batch: &PacketBatch, index: usize, what: Coalesce) {
        let Some(packet) = batch.packet(index) else { return };
        self.next.push(0);
        let mut group = Group::of(packet, index as u32);
        let flow = if what.tcp || what.udp { flow(packet) } else { None };
        let Some((hash, headers)) = flow else {
            self.groups.push(group);
            return;
        };
        if may_coalesce(packet, &headers, what) {
            group.start(packet, &headers);
            let newest = self.groups.get_mut(self.newest[hash] as usize);
            if let Some(newest) = newest
                && newest.append(&group, packet, &headers, batch)
            {
                self.next[newest.last as usize] = index as u32;
                newest.last = index as u32;
                return;
            }
        }
        // What can't be coalesced still ends its flow's group: nothing that comes later may overtake it.
        self.newest[hash] = self.groups.len() as u32;
        self.groups.push(group);
    }
}

/// Hash and headers of a packet that belongs to a flow with ports.
fn flow(packet: &[u8]) -> Option<(usize, Headers)> {
    let headers = Headers::parse(packet).ok()?;
    headers.transport().source_port()?;
    let mix = |hash: u64, word: u32| {
        (hash.rotate_left(5) ^ u64::from(word)).wrapping_mul(0x517c_c1b7_2722_0a95)
    };
    let addresses = if headers.is_ipv6() { &packet[8..40] } else { &packet[12..20] };
    let ports = u32_at(packet, headers.transport_offset());
    let mut hash = mix(headers.protocol().into(), ports);
    for word in addresses.as_chunks::<4>().0 {
        hash = mix(hash, u32::from_ne_bytes(*word));
    }
    Some(((hash >> 56) as usize % FLOWS, headers))
}

fn may_coalesce(packet: &[u8], headers: &Headers, what: Coalesce) -> bool {
    // No IPv4 options and no IPv6 extension headers.
    let plain = if headers.is_ipv6() { IPV6_HEADER } else { IPV4_HEADER };
    let transport = headers.transport_offset();
    if transport != plain || headers.payload_offset() == packet.len() {
        return false;
    }
    match headers.transport() {
        Transport::Tcp { .. } => {
            const PUSH: u8 = TcpFlags::ACK.0 | TcpFlags::PSH.0;
            let reserved = packet[transport + 12] & 0x0f;
            what.tcp && reserved == 0 && matches!(packet[transport + 13] | TcpFlags::PSH.0, PUSH)
        }
        // Without a checksum there is nothing to verify.
        Transport::Udp { .. } => what.udp && u16_at(packet, transport + 6) != 0,
        _ => false,
    }
}

impl Group {
    /// A packet that stays alone.
    fn of(packet: &[u8], index: u32) -> Self {
        Self {
            first: index,
            last: index,
            packets: 1,
            len: packet.len() as u32,
            is_open: false,
            is_verified: false,
            is_tcp: false,
            push: false,
            transport_offset: 0,
            header_len: 0,
            size: 0,
            next_sequence: 0,
            head: 0,
        }
    }

    /// Others may follow the first packet.
    fn start(&mut self, packet: &[u8], headers: &Headers) {
        let transport = headers.transport_offset();
        let payload = packet.len() - headers.payload_offset();
        self.transport_offset = transport as u8;
        self.header_len = headers.payload_offset() as u8;
        self.size = payload as u16;
        self.is_tcp = headers.protocol() == protocol::TCP;
        if self.is_tcp {
            self.push = packet[transport + 13] & TcpFlags::PSH.0 != 0;
            self.next_sequence = u32_at(packet, transport + 4).wrapping_add(payload as u32);
        }
        self.is_open = true;
    }

    /// Appends `packet`, of which `other` is the group, if the kernel would cut it out again as it is. The caller links
    /// it.
    fn append(
        &mut self,
        other: &Self,
        packet: &[u8],
        headers: &Headers,
        batch: &PacketBatch,
    ) -> bool {
        let len = self.len as usize + usize::from(other.size);
        if !self.is_open
            || other.size > self.size
            || self.packets == MAX_PACKETS
            || len > MAX_LEN
            || (self.is_tcp, self.header_len) != (other.is_tcp, other.header_len)
        {
            return false;
        }
        let Some(first) = batch.packet(self.first as usize) else { return false };
        let transport = headers.transport_offset();
        let is_next = is_same_ip(first, packet, self.packets as u16)
            && match self.is_tcp {
                true => {
                    u32_at(packet, transport + 4) == self.next_sequence
                        && is_same_tcp(
                            &first[transport..],
                            &packet[transport..],
                            self.header_len - self.transport_offset,
                        )
                }
                false => first[transport..transport + 4] == packet[transport..transport + 4],
            };
        if !is_next || !is_intact(headers, packet) {
            return false;
        }
        if !self.is_verified {
            self.is_verified =
                Headers::parse(first).is_ok_and(|first_headers| is_intact(&first_headers, first));
            if !self.is_verified {
                self.is_open = false;
                return false;
            }
        }
        self.packets += 1;
        self.len = len as u32;
        self.push |= other.push;
        self.next_sequence = other.next_sequence;
        self.is_open = other.size == self.size;
        true
    }

    /// Appends the virtio header and the super-packet's own headers to `heads`.
    fn write_head(&self, first: &[u8], heads: &mut Vec<u8>) {
        let transport_offset = usize::from(self.transport_offset);
        let header_len = usize::from(self.header_len);
        let is_ipv6 = transport_offset == IPV6_HEADER;
        let (kind, field, protocol) = match (self.is_tcp, is_ipv6) {
            (true, false) => (SegmentationKind::Tcp4, 16, protocol::TCP),
            (true, true) => (SegmentationKind::Tcp6, 16, protocol::TCP),
            (false, _) => (SegmentationKind::Udp, 6, protocol::UDP),
        };
        let offload = Offload {
            checksum: Some(PartialChecksum { start: self.transport_offset.into(), offset: field }),
            segmentation: Some(Segmentation { kind, segment_size: self.size }),
        };
        heads.extend(offload.encode(self.header_len.into()));
        let start = heads.len();
        heads.extend_from_slice(&first[..header_len]);

        let (ip, transport) = heads[start..].split_at_mut(transport_offset);
        let addresses = if is_ipv6 {
            put_u16(ip, 4, (self.len as usize - IPV6_HEADER) as u16);
            Sum::of(&ip[8..])
        } else {
            put_u16(ip, 2, self.len as u16);
            put_u16(ip, 10, 0);
            let checksum = Sum::of(ip).checksum();
            put_u16(ip, 10, checksum);
            Sum::of(&ip[12..])
        };
        let transport_len = (self.len as usize - transport_offset) as u16;
        if self.is_tcp {
            transport[13] |= if self.push { TcpFlags::PSH.0 } else { 0 };
        } else {
            put_u16(transport, 4, transport_len);
        }
        let partial = addresses.add_word(protocol.into()).add_word(transport_len).fold();
        put_u16(transport, field.into(), partial);
    }
}

/// Whether all but lengths and checksums is equal in two IP headers without options, and the identification counts up:
/// `position` is that of `packet` in the group. Without fragments the identification of IPv4 has no meaning (RFC 6864).
fn is_same_ip(first: &[u8], packet: &[u8], position: u16) -> bool {
    const DONT_FRAGMENT: u8 = 0x40;

    if first[0] >> 4 == 6 {
        return first[..4] == packet[..4] && first[6..IPV6_HEADER] == packet[6..IPV6_HEADER];
    }
    first[..2] == packet[..2]
        && first[6..10] == packet[6..10]
        && first[12..IPV4_HEADER] == packet[12..IPV4_HEADER]
        && (first[6] & DONT_FRAGMENT != 0
            || u16_at(first, 4).wrapping_add(position) == u16_at(packet, 4))
}

/// Whether ports, acknowledgement, header length, window, urgent pointer and options are equal.
fn is_same_tcp(first: &[u8], segment: &[u8], header_len: u8) -> bool {
    let options = 20..usize::from(header_len);
    first[..4] == segment[..4]
        && first[8..13] == segment[8..13]
        && first[14..16] == segment[14..16]
        && first[18..20] == segment[18..20]
        && first.get(options.clone()) == segment.get(options)
}

impl<'a> Writes<'a> {
    /// The writes, in order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = Write<'a>> + use<'a> {
        let writes = *self;
        self.scratch.groups.iter().map(move |&group| Write { writes, group })
    }

    /// How many writes there are.
    pub fn len(&self) -> usize {
        self.scratch.groups.len()
    }

    /// Whether the batch is empty.
    pub fn is_empty(&self) -> bool {
        self.scratch.groups.is_empty()
    }
}

impl<'a> Write<'a> {
    /// The virtio header, and for a super-packet all its headers.
    pub fn head(&self) -> &'a [u8] {
        if self.group.packets == 1 {
            return &[0; VIRTIO_HEADER];
        }
        let start = self.group.head as usize;
        let len = VIRTIO_HEADER + usize::from(self.group.header_len);
        &self.writes.scratch.heads[start..start + len]
    }

    /// What comes behind the head: the packet, or the payloads of the super-packet.
    pub fn pieces(&self) -> Pieces<'a> {
        match self.group.packets {
            1 => self.walk(0),
            _ => self.walk(self.group.header_len.into()),
        }
    }

    /// The packets that this write stands for, to write them one by one if the kernel refuses the super-packet.
    pub fn packets(&self) -> Pieces<'a> {
        self.walk(0)
    }

    /// Whether it stands for more than one packet.
    pub fn is_super_packet(&self) -> bool {
        self.group.packets > 1
    }

    /// Length in bytes, head included.
    #[expect(clippy::len_without_is_empty, reason = "there always is a head")]
    pub fn len(&self) -> usize {
        VIRTIO_HEADER + self.group.len as usize
    }

    fn walk(&self, skip: usize) -> Pieces<'a> {
        Pieces { writes: self.writes, next: self.group.first, remaining: self.group.packets, skip }
    }
}

impl<'a> Iterator for Pieces<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        self.remaining = self.remaining.checked_sub(1)?;
        let index = self.next as usize;
        self.next = *self.writes.scratch.next.get(index)?;
        self.writes.batch.packet(index)?.get(self.skip..)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.remaining as usize, Some(self.remaining as usize))
    }
}

impl ExactSizeIterator for Pieces<'_> {}
