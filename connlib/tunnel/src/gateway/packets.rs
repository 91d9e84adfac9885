//! Packets for tests.

use std::net::{IpAddr, SocketAddr};

use connlib_packet::checksum::Update;
use connlib_packet::{EchoKind, Headers, IcmpError, TcpFlags, build};

pub(super) fn socket(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

pub(super) fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

pub(super) fn udp(source: &str, destination: &str) -> Vec<u8> {
    build_with(|out| build::udp(out, socket(source), socket(destination), b"payload"))
}

pub(super) fn tcp(source: &str, destination: &str, flags: TcpFlags) -> Vec<u8> {
    let header = build::Tcp { sequence: 1, acknowledgement: 2, flags, window: 3, options: &[] };
    build_with(|out| build::tcp(out, socket(source), socket(destination), header, b""))
}

pub(super) fn ping(source: &str, destination: &str, kind: EchoKind, identifier: u16) -> Vec<u8> {
    build_with(|out| build::echo(out, ip(source), ip(destination), kind, identifier, 1, b""))
}

/// A packet of a protocol that has no ports.
pub(super) fn sctp(source: &str, destination: &str) -> Vec<u8> {
    let mut packet = udp(&format!("{source}:1"), &format!("{destination}:1"));
    let [hop_limit, protocol] = [8, 9].map(|at| packet[at]);
    assert_eq!((packet[0], protocol), (0x45, 17));
    packet[9] = 132;
    let word = |protocol| u16::from_be_bytes([hop_limit, protocol]);
    let checksum = u16::from_be_bytes([packet[10], packet[11]]);
    let checksum = Update::default().word(word(protocol), word(132)).apply(checksum);
    packet[10..12].copy_from_slice(&checksum.to_be_bytes());
    packet
}

/// The error with which the destination of `about`, or a router, answers it.
pub(super) fn error(error: IcmpError, about: &[u8], from: &str) -> Vec<u8> {
    let mut bytes = build_with(|out| Ok(error.answer(about, out).unwrap()));
    let mut packet = connlib_packet::TunPacket::parse(&mut bytes, Default::default()).unwrap();
    packet.set_source(ip(from)).unwrap();
    bytes
}

pub(super) fn headers(packet: &[u8]) -> Headers {
    Headers::parse(packet).unwrap()
}

fn build_with(build: impl FnOnce(&mut [u8]) -> Result<usize, build::BuildError>) -> Vec<u8> {
    let mut bytes = vec![0; 1280];
    let len = build(&mut bytes).unwrap();
    bytes.truncate(len);
    bytes
}
