//! What one packet costs in each step, in ns: `cargo run --release -p connlib-packet --example speed`.
#![allow(clippy::unwrap_used, reason = "an example")]

use connlib_packet::{
    Coalesce, Headers, Offload, PacketBatch, PartialChecksum, Scratch, Segmentation,
    SegmentationKind, TcpFlags, TunPacket, build, checksum::Sum,
};
use std::hint::black_box;
use std::net::SocketAddr;
use std::time::Instant;

const MTU: u16 = 1280;
const ROUNDS: u32 = 2_000;

fn main() {
    for is_ipv6 in [false, true] {
        println!("{}", if is_ipv6 { "IPv6" } else { "IPv4" });
        sums();
        let mut bytes = tcp(is_ipv6, 0, 61_000);
        headers(&bytes);
        rewriting(&mut bytes);
        cutting(&bytes, is_ipv6);
        coalescing(is_ipv6);
    }
}

/// The best of several runs, as other programs use the machine too.
fn measure(name: &str, packets: u32, mut run: impl FnMut()) {
    let mut best = f64::MAX;
    for _ in 0..10 {
        let start = Instant::now();
        for _ in 0..ROUNDS {
            run();
        }
        best = best.min(start.elapsed().as_secs_f64() * 1e9 / f64::from(ROUNDS * packets));
    }
    println!("  {name:<40}{best:8.1} ns");
}

fn sums() {
    let bytes = vec![0x5a; 1240];
    measure("checksum of 1240 bytes", 1, || {
        black_box(Sum::of(black_box(&bytes)).checksum());
    });
}

fn headers(bytes: &[u8]) {
    measure("parse headers", 1, || {
        black_box(Headers::parse(black_box(bytes)).unwrap());
    });
}

fn rewriting(bytes: &mut [u8]) {
    let addresses: [std::net::IpAddr; 2] = match bytes[0] >> 4 {
        4 => ["10.1.2.3".parse().unwrap(), "10.1.2.4".parse().unwrap()],
        _ => ["fd00::3".parse().unwrap(), "fd00::4".parse().unwrap()],
    };
    let mut round = 0;
    measure("parse, rewrite destination and port", 1, || {
        round += 1;
        let mut packet = TunPacket::parse(black_box(&mut *bytes), Offload::NONE).unwrap();
        packet.set_destination(addresses[round % 2]).unwrap();
        packet.set_source_port(round as u16).unwrap();
    });
}

fn cutting(super_packet: &[u8], is_ipv6: bool) {
    let (start, kind) =
        if is_ipv6 { (40, SegmentationKind::Tcp6) } else { (20, SegmentationKind::Tcp4) };
    let segment_size = MTU - start - 20;
    let offload = Offload {
        checksum: Some(PartialChecksum { start, offset: 16 }),
        segmentation: Some(Segmentation { kind, segment_size }),
    };
    let mut bytes = super_packet.to_vec();
    let segments = TunPacket::parse(&mut bytes, offload).unwrap().segments(MTU).unwrap();
    let count = segments.remaining() as u32;
    // Cutting destroys headers inside the buffer, but the first one stays.
    let header = super_packet[..usize::from(start) + 20].to_vec();
    measure("cut a super-packet, per segment", count, || {
        bytes[..header.len()].copy_from_slice(&header);
        let packet = TunPacket::parse(&mut bytes, offload).unwrap();
        let mut segments = packet.segments(MTU).unwrap();
        while let Some(segment) = segments.next_segment() {
            black_box(segment);
        }
    });
}

fn coalescing(is_ipv6: bool) {
    const PACKETS: u32 = 48;
    let payload = 1220 - if is_ipv6 { 20 } else { 0 };
    let mut batch = PacketBatch::new(1 << 17, 100);
    for index in 0..PACKETS {
        assert!(batch.push(&tcp(is_ipv6, index * payload, payload as usize)));
    }
    let mut scratch = Scratch::default();
    for (name, tcp) in [("coalesce, per packet", true), ("the same, switched off", false)] {
        measure(name, PACKETS, || {
            let writes = black_box(&batch).coalesce(Coalesce { tcp, udp: tcp }, &mut scratch);
            assert_eq!(writes.len() == 1, tcp);
            for write in writes.iter() {
                black_box(write.pieces().map(<[u8]>::len).sum::<usize>());
            }
        });
    }
}

fn tcp(is_ipv6: bool, sequence: u32, payload: usize) -> Vec<u8> {
    let (source, destination): (SocketAddr, SocketAddr) = match is_ipv6 {
        false => ("100.64.0.1:5000".parse().unwrap(), "10.0.0.1:443".parse().unwrap()),
        true => ("[fd00::1]:5000".parse().unwrap(), "[fd00::2]:443".parse().unwrap()),
    };
    let header = build::Tcp {
        sequence,
        acknowledgement: 1,
        flags: TcpFlags::ACK,
        window: 500,
        options: &[],
    };
    let mut out = vec![0; payload + 100];
    let len = build::tcp(&mut out, source, destination, header, &vec![0x5a; payload]).unwrap();
    out.truncate(len);
    out
}
