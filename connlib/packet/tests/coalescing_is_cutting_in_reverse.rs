//! What the coalescer writes, cut again, must be what was in the batch, flow by flow in order.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test")]

mod support;

use connlib_packet::{
    Coalesce, Headers, Offload, PacketBatch, Scratch, TcpFlags, TunPacket, VIRTIO_HEADER, Writes,
    build, protocol,
};
use std::collections::HashMap;
use std::net::SocketAddr;
use support::{Kind, Random, checksum_of, judge, packet};

const ALL: Coalesce = Coalesce { tcp: true, udp: true };

#[derive(Clone)]
struct Flow {
    source: SocketAddr,
    destination: SocketAddr,
    is_tcp: bool,
    sequence: u32,
    acknowledgement: u32,
    window: u16,
    options: Vec<u8>,
}

impl Flow {
    fn new(random: &mut Random, is_tcp: bool, is_ipv6: bool) -> Self {
        let mut socket =
            || SocketAddr::new(support::address(random, is_ipv6), random.next() as u16);
        let (source, destination) = (socket(), socket());
        let options = if random.below(2) == 0 { random.bytes(12) } else { Vec::new() };
        let sequence = u32::MAX - random.below(5000) as u32;
        Self { source, destination, is_tcp, sequence, acknowledgement: 7, window: 500, options }
    }

    fn next(&mut self, flags: TcpFlags, payload: &[u8]) -> Vec<u8> {
        let mut out = vec![0; 2000];
        let len = if self.is_tcp {
            let header = build::Tcp {
                sequence: self.sequence,
                acknowledgement: self.acknowledgement,
                flags,
                window: self.window,
                options: &self.options,
            };
            self.sequence = self.sequence.wrapping_add(payload.len() as u32);
            build::tcp(&mut out, self.source, self.destination, header, payload)
        } else {
            build::udp(&mut out, self.source, self.destination, payload)
        }
        .unwrap();
        out.truncate(len);
        out
    }
}

fn batch<'a>(packets: impl IntoIterator<Item = &'a Vec<u8>>) -> PacketBatch {
    let mut batch = PacketBatch::new(1 << 20, 1000);
    for packet in packets {
        assert!(batch.push(packet));
    }
    batch
}

/// What the kernel does with the writes.
fn cut(writes: Writes<'_>) -> Vec<Vec<u8>> {
    let mut packets = Vec::new();
    for write in writes.iter() {
        let mut bytes = write.head().to_vec();
        for piece in write.pieces() {
            bytes.extend(piece);
        }
        assert_eq!(bytes.len(), write.len());
        assert_eq!(write.is_super_packet(), write.packets().len() > 1);
        let (header, packet) = bytes.split_first_chunk_mut::<VIRTIO_HEADER>().unwrap();
        let offload = Offload::decode(header).unwrap();
        if write.is_super_packet() {
            check_head(header, packet);
        }
        match TunPacket::parse(packet, offload) {
            Err(_) => packets.push(packet.to_vec()),
            Ok(parsed) => {
                let mut segments = parsed.segments(u16::MAX).unwrap();
                let mut originals = write.packets();
                while let Some(segment) = segments.next_segment() {
                    packets.push(segment.to_vec());
                    assert_eq!(originals.next().map(normal), Some(normal(segment)));
                }
                assert_eq!(originals.next(), None);
            }
        }
    }
    packets
}

/// The kernel wants a right IPv4 header, and the pseudo-header's sum where the checksum will be.
fn check_head(virtio: &[u8; VIRTIO_HEADER], packet: &[u8]) {
    let headers = Headers::parse(packet).unwrap();
    let header_len = u16::from_ne_bytes([virtio[2], virtio[3]]);
    assert_eq!(usize::from(header_len), headers.payload_offset());
    let offload = Offload::decode(virtio).unwrap();
    let checksum = offload.checksum.unwrap();
    assert_eq!(usize::from(checksum.start), headers.transport_offset());
    let addresses = if headers.is_ipv6() { &packet[8..40] } else { &packet[12..20] };
    if !headers.is_ipv6() {
        assert_eq!(checksum_of(&[&packet[..20]]), 0);
    }
    let len = (packet.len() - headers.transport_offset()) as u16;
    let sum = !checksum_of(&[addresses, &[0, headers.protocol()], &len.to_be_bytes()]);
    let at = usize::from(checksum.start + checksum.offset);
    assert_eq!(packet[at..at + 2], sum.to_be_bytes());
}

/// The identification of whole packets means nothing (RFC 6864), and is not kept; several PSH become one (RFC 9293
/// §3.9.1.2).
fn normal(packet: &[u8]) -> Vec<u8> {
    let mut packet = packet.to_vec();
    if let Ok(tcp) = TunPacket::parse(&mut packet.clone(), Offload::NONE)
        && tcp.headers().protocol() == protocol::TCP
        && tcp.is_intact()
    {
        let at = tcp.headers().transport_offset();
        packet[at + 13] &= !TcpFlags::PSH.0;
        packet[at + 16..at + 18].fill(0);
    }
    let is_ipv4 = packet[0] >> 4 == 4 && packet.len() >= 20;
    if is_ipv4 && packet[6] & 0x40 != 0 && checksum_of(&[&packet[..20]]) == 0 {
        packet[4..6].fill(0);
        packet[10..12].fill(0);
    }
    packet
}

/// By flow, so that only the order inside of each counts.
fn by_flow(packets: &[Vec<u8>]) -> HashMap<String, Vec<Vec<u8>>> {
    let mut flows: HashMap<_, Vec<_>> = HashMap::new();
    for packet in packets {
        let key = match Headers::parse(packet) {
            Ok(headers) => {
                let (source, destination) = (headers.source_socket(), headers.destination_socket());
                format!("{source:?} {destination:?} {}", headers.protocol())
            }
            Err(_) => String::new(),
        };
        flows.entry(key).or_default().push(normal(packet));
    }
    flows
}

/// Number of packets in each write.
fn sizes(packets: &[Vec<u8>]) -> Vec<usize> {
    let batch = batch(packets);
    let mut scratch = Scratch::default();
    let writes = batch.coalesce(ALL, &mut scratch);
    let sizes = writes.iter().map(|write| write.packets().len()).collect();
    let again = cut(writes);
    assert_eq!(by_flow(&again), by_flow(packets));
    sizes
}

#[test]
fn whatever_the_traffic() {
    let mut random = Random::new(1);
    let mut scratch = Scratch::default();
    let mut super_packets = 0;
    for round in 0..1_500 {
        let mut flows: Vec<_> = (0..1 + random.below(6))
            .map(|n| Flow::new(&mut random, n % 3 != 2, n % 2 == 0))
            .collect();
        let size = 1 + random.below(1200) as usize;
        let mut packets = Vec::new();
        for _ in 0..random.below(120) {
            let which = random.below(flows.len() as u64) as usize;
            let flow = &mut flows[which];
            let len = match random.below(12) {
                0 => 0,
                1 => random.below(1200) as usize,
                _ => size,
            };
            let flags = match random.below(20) {
                0 => TcpFlags::ACK | TcpFlags::PSH,
                1 => TcpFlags(random.next() as u8),
                _ => TcpFlags::ACK,
            };
            match random.below(40) {
                0 => flow.sequence = random.next() as u32,
                1 => flow.acknowledgement = random.next() as u32,
                2 => flow.window = random.next() as u16,
                _ => {}
            }
            let payload = random.bytes(len);
            let mut packet = flow.next(flags, &payload);
            match random.below(60) {
                // A wrong checksum, a congestion mark, no packet at all.
                0 => *packet.last_mut().unwrap() ^= 1,
                1 => mark(&mut packet),
                2 => packet.truncate(7),
                _ => {}
            }
            packets.push(packet);
        }
        let batch = batch(&packets);
        let writes = batch.coalesce(ALL, &mut scratch);
        assert_eq!(writes.is_empty(), packets.is_empty());
        super_packets += writes.iter().filter(|write| write.is_super_packet()).count();
        let again = cut(writes);
        assert_eq!(by_flow(&again), by_flow(&packets), "round {round}");
    }
    assert!(super_packets > 1_000);
}

fn mark(packet: &mut [u8]) {
    if packet[0] >> 4 == 6 {
        packet[1] ^= 0x30;
    } else {
        packet[1] ^= 0x03;
        packet[10..12].fill(0);
        let checksum = checksum_of(&[&packet[..20]]);
        packet[10..12].copy_from_slice(&checksum.to_be_bytes());
    }
}

#[test]
fn one_flow_is_one_write() {
    let mut random = Random::new(2);
    for is_tcp in [false, true] {
        for is_ipv6 in [false, true] {
            let mut flow = Flow::new(&mut random, is_tcp, is_ipv6);
            let mut packets: Vec<_> =
                (0..40).map(|_| flow.next(TcpFlags::ACK, &[1; 1200])).collect();
            packets.push(flow.next(TcpFlags::ACK | TcpFlags::PSH, &[2; 10]));
            assert_eq!(sizes(&packets), [41]);
        }
    }
}

#[test]
fn flows_may_be_interleaved() {
    let mut random = Random::new(3);
    let mut one = Flow::new(&mut random, true, false);
    let mut other = Flow::new(&mut random, false, true);
    let packets: Vec<_> = (0..20)
        .map(|n| if n % 2 == 0 { &mut one } else { &mut other }.next(TcpFlags::ACK, &[1; 100]))
        .collect();
    assert_eq!(sizes(&packets), [10, 10]);
}

/// Three packets of one flow; `change` makes one that must not follow the first in one write.
#[track_caller]
fn breaks(is_tcp: bool, is_ipv6: bool, change: impl FnOnce(&mut Flow, &mut Random) -> Vec<u8>) {
    let mut random = Random::new(4);
    let mut flow = Flow::new(&mut random, is_tcp, is_ipv6);
    let first = flow.next(TcpFlags::ACK, &[1; 100]);
    let changed = change(&mut flow, &mut random);
    let sizes = sizes(&[first, changed]);
    assert_eq!(sizes, [1, 1]);
}

/// A TCP segment with a bit of its header changed, otherwise right.
#[track_caller]
fn breaks_by_a_bit(is_ipv6: bool, at: usize, bit: u8) {
    let mut random = Random::new(13);
    let mut flow = Flow::new(&mut random, true, is_ipv6);
    flow.options = vec![1; 8];
    let transport = if is_ipv6 { 40 } else { 20 };
    let mut packets = [flow.next(TcpFlags::ACK, &[1; 100]), flow.next(TcpFlags::ACK, &[1; 100])];
    assert_eq!(sizes(&packets), [2]);
    let packet = &mut packets[1];
    packet[transport + at] ^= bit;
    let checksum = support::transport_checksum(packet);
    packet[transport + 16..transport + 18].copy_from_slice(&checksum.to_be_bytes());
    assert_eq!(sizes(&packets), [1, 1], "byte {at}");
}

#[test]
fn packets_with_reserved_bits_stay_alone() {
    let mut random = Random::new(15);
    let mut flow = Flow::new(&mut random, true, false);
    let packets = [(); 2].map(|()| {
        let mut packet = flow.next(TcpFlags::ACK, &[1; 100]);
        packet[32] |= 1;
        let checksum = support::transport_checksum(&packet);
        packet[36..38].copy_from_slice(&checksum.to_be_bytes());
        packet
    });
    assert_eq!(sizes(&packets), [1, 1]);
}

#[test]
fn flows_do_not_mix_however_many() {
    let mut random = Random::new(14);
    for is_tcp in [false, true] {
        let mut flow = Flow::new(&mut random, is_tcp, false);
        let packets: Vec<_> = (0..1000)
            .map(|port| {
                flow.source.set_port(port);
                flow.next(TcpFlags::ACK, &[1; 100])
            })
            .collect();
        assert_eq!(sizes(&packets), [1; 1000]);
    }
}

#[test]
fn what_is_no_continuation_starts_anew() {
    for is_ipv6 in [false, true] {
        breaks(true, is_ipv6, |flow, _| {
            flow.sequence = flow.sequence.wrapping_add(1);
            flow.next(TcpFlags::ACK, &[1; 100])
        });
        breaks(true, is_ipv6, |flow, _| {
            flow.acknowledgement += 1;
            flow.next(TcpFlags::ACK, &[1; 100])
        });
        breaks(true, is_ipv6, |flow, _| {
            flow.window += 1;
            flow.next(TcpFlags::ACK, &[1; 100])
        });
        breaks(true, is_ipv6, |flow, _| {
            flow.options.resize(flow.options.len() ^ 4, 1);
            flow.next(TcpFlags::ACK, &[1; 100])
        });
        // Reserved bits, the urgent pointer, a byte of the options.
        for (at, bit) in [(12, 1), (12, 8), (19, 1), (20, 1)] {
            breaks_by_a_bit(is_ipv6, at, bit);
        }
        for flags in [
            TcpFlags::SYN | TcpFlags::ACK,
            TcpFlags::FIN | TcpFlags::ACK,
            TcpFlags::RST | TcpFlags::ACK,
            TcpFlags::URG | TcpFlags::ACK,
            TcpFlags::ECE | TcpFlags::ACK,
            TcpFlags::CWR | TcpFlags::ACK,
            TcpFlags::PSH,
        ] {
            breaks(true, is_ipv6, |flow, _| flow.next(flags, &[1; 100]));
        }
        for is_tcp in [false, true] {
            breaks(is_tcp, is_ipv6, |flow, _| flow.next(TcpFlags::ACK, &[]));
            breaks(is_tcp, is_ipv6, |flow, _| flow.next(TcpFlags::ACK, &[1; 101]));
            breaks(is_tcp, is_ipv6, |flow, _| {
                let mut packet = flow.next(TcpFlags::ACK, &[1; 100]);
                mark(&mut packet);
                packet
            });
            breaks(is_tcp, is_ipv6, |flow, _| {
                let mut packet = flow.next(TcpFlags::ACK, &[1; 100]);
                *packet.last_mut().unwrap() ^= 1;
                packet
            });
            // Time to live.
            breaks(is_tcp, is_ipv6, |flow, _| {
                let mut bytes = flow.next(TcpFlags::ACK, &[1; 100]);
                let mut packet = TunPacket::parse(&mut bytes, Offload::NONE).unwrap();
                packet.set_hop_limit(3);
                bytes
            });
            breaks(is_tcp, is_ipv6, |flow, random| {
                let mut other = Flow::new(random, is_tcp, is_ipv6);
                other.source = SocketAddr::new(flow.source.ip(), flow.source.port() ^ 1);
                other.destination = flow.destination;
                other.sequence = flow.sequence;
                other.options = flow.options.clone();
                other.next(TcpFlags::ACK, &[1; 100])
            });
        }
    }
}

#[test]
fn a_first_packet_that_is_broken_stays_alone() {
    let mut random = Random::new(5);
    for is_tcp in [false, true] {
        let mut flow = Flow::new(&mut random, is_tcp, false);
        let mut packets: Vec<_> = (0..4).map(|_| flow.next(TcpFlags::ACK, &[1; 100])).collect();
        packets[0][60] ^= 1;
        assert_eq!(sizes(&packets), [1, 3]);
        packets[0][60] ^= 1;
        // The header's checksum.
        packets[0][10] ^= 1;
        assert_eq!(sizes(&packets), [1, 3]);
    }
}

#[test]
fn a_shorter_packet_ends_a_write() {
    let mut random = Random::new(6);
    let mut flow = Flow::new(&mut random, true, false);
    let packets = [100, 100, 99, 99, 99, 98].map(|len| flow.next(TcpFlags::ACK, &vec![1; len]));
    assert_eq!(sizes(&packets), [3, 3]);
}

#[test]
fn a_push_is_the_last_packet_s() {
    let mut random = Random::new(6);
    let push = TcpFlags::ACK | TcpFlags::PSH;
    let flags_of = |packets: &[Vec<u8>]| {
        let segments = cut(batch(packets).coalesce(ALL, &mut Scratch::default()));
        segments.iter().map(|segment| segment[20 + 13]).collect::<Vec<_>>()
    };
    for pushed in 0..3 {
        let mut flow = Flow::new(&mut random, true, false);
        let packets = [0, 1, 2]
            .map(|index| flow.next(if index == pushed { push } else { TcpFlags::ACK }, &[1; 100]));
        assert_eq!(sizes(&packets), [3]);
        assert_eq!(flags_of(&packets), [TcpFlags::ACK.0, TcpFlags::ACK.0, push.0]);
    }
}

#[test]
fn nothing_overtakes_inside_a_flow() {
    // An acknowledgement without payload is never coalesced, but ends what was open.
    let mut random = Random::new(7);
    let mut flow = Flow::new(&mut random, true, true);
    let packets = [
        flow.next(TcpFlags::ACK, &[1; 100]),
        flow.next(TcpFlags::ACK, &[]),
        flow.next(TcpFlags::ACK, &[1; 100]),
        flow.next(TcpFlags::ACK, &[1; 100]),
    ];
    assert_eq!(sizes(&packets), [1, 1, 2]);
}

#[test]
fn limits() {
    let mut random = Random::new(8);
    let mut flow = Flow::new(&mut random, false, false);
    let packets: Vec<_> = (0..130).map(|_| flow.next(TcpFlags::ACK, &[1; 10])).collect();
    assert_eq!(sizes(&packets), [64, 64, 2]);

    for is_ipv6 in [false, true] {
        let mut flow = Flow::new(&mut random, true, is_ipv6);
        flow.options.clear();
        let header = if is_ipv6 { 60 } else { 40 };
        // 65535 bytes hold 50 payloads of 1309 or 1310 bytes and the header.
        let full = (65535 - header) / 50;
        let packets: Vec<_> = (0..51).map(|_| flow.next(TcpFlags::ACK, &vec![1; full])).collect();
        assert_eq!(sizes(&packets), [50, 1]);
    }
}

#[test]
fn without_dont_fragment_the_identification_counts() {
    let mut random = Random::new(9);
    let mut flow = Flow::new(&mut random, false, false);
    let mut numbered = |identification: u16, dont_fragment: bool| {
        let mut packet = flow.next(TcpFlags::ACK, &[1; 100]);
        packet[4..6].copy_from_slice(&identification.to_be_bytes());
        packet[6] = if dont_fragment { 0x40 } else { 0 };
        packet[10..12].fill(0);
        let checksum = checksum_of(&[&packet[..20]]);
        packet[10..12].copy_from_slice(&checksum.to_be_bytes());
        packet
    };
    let packets =
        [numbered(0xffff, false), numbered(0, false), numbered(1, false), numbered(1, false)];
    assert_eq!(sizes(&packets), [3, 1]);

    let packets = [numbered(5, true), numbered(5, true), numbered(9, true)];
    let batch = batch(&packets);
    let mut scratch = Scratch::default();
    assert_eq!(batch.coalesce(ALL, &mut scratch).len(), 1);
}

#[test]
fn never_with_options_extensions_or_without_checksum() {
    let mut random = Random::new(10);
    let mut flow = Flow::new(&mut random, false, false);
    let plain = flow.next(TcpFlags::ACK, &[1; 100]);
    let mut unchecked = plain.clone();
    unchecked[26..28].fill(0);
    assert_eq!(sizes(&[unchecked.clone(), unchecked]), [1, 1]);

    let mut options = plain;
    options.splice(20..20, [1; 4]);
    options[0] = 0x46;
    let len = options.len() as u16;
    options[2..4].copy_from_slice(&len.to_be_bytes());
    options[10..12].fill(0);
    let checksum = checksum_of(&[&options[..24]]);
    options[10..12].copy_from_slice(&checksum.to_be_bytes());
    assert!(Headers::parse(&options).is_ok());
    assert_eq!(sizes(&[options.clone(), options]), [1, 1]);

    let mut flow = Flow::new(&mut random, false, true);
    let mut extended = flow.next(TcpFlags::ACK, &[1; 100]);
    extended.splice(40..40, [17, 0, 1, 4, 0, 0, 0, 0]);
    extended[6] = 60;
    let payload = extended.len() as u16 - 40;
    extended[4..6].copy_from_slice(&payload.to_be_bytes());
    assert!(Headers::parse(&extended).is_ok());
    assert_eq!(sizes(&[extended.clone(), extended]), [1, 1]);

    let echo = packet(&mut random, Kind::Echo, false, 100);
    assert_eq!(sizes(&[echo.clone(), echo]), [1, 1]);
}

#[test]
fn each_kind_has_its_switch() {
    let mut random = Random::new(11);
    let mut packets = Vec::new();
    for is_tcp in [true, false] {
        let mut flow = Flow::new(&mut random, is_tcp, false);
        packets.extend((0..5).map(|_| flow.next(TcpFlags::ACK, &[1; 100])));
    }
    let batch = batch(&packets);
    let mut scratch = Scratch::default();
    for (tcp, udp, expected) in
        [(true, true, 2), (true, false, 6), (false, true, 6), (false, false, 10)]
    {
        let writes = batch.coalesce(Coalesce { tcp, udp }, &mut scratch);
        assert_eq!(writes.len(), expected);
        for packet in cut(writes) {
            judge(&packet);
        }
    }
}

#[test]
fn a_plain_packet_is_written_as_it_is() {
    let mut random = Random::new(12);
    let packets = [packet(&mut random, Kind::Tcp, false, 100)];
    let batch = batch(&packets);
    let mut scratch = Scratch::default();
    let write = batch.coalesce(ALL, &mut scratch).iter().next().unwrap();
    assert_eq!(write.head(), [0; VIRTIO_HEADER]);
    assert_eq!(write.pieces().collect::<Vec<_>>(), packets);
}
