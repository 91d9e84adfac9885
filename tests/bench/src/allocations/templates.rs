//! The packets that are sent: as a TUN device yields them, super-packets included.

use std::net::SocketAddr;

use anyhow::Result;
use connlib_packet::{
    Offload, PartialChecksum, Segmentation, SegmentationKind, TcpFlags, build, plan,
};

/// The server's port, TCP and UDP.
pub(super) const PORT: u16 = 5201;

/// One read from a TUN device, to be copied for each use.
#[derive(Debug)]
pub(super) struct Template {
    pub(super) bytes: Vec<u8>,
    pub(super) offload: Offload,
    /// How many packets it stands for.
    pub(super) packets: u32,
}

type Make = fn(SocketAddr, SocketAddr) -> Result<Template>;

/// A transfer, its acknowledgements, and datagrams.
pub(super) const KINDS: [(&str, Make); 3] = [
    ("tcp super-packets", tcp_super_packet),
    ("tcp acknowledgements", tcp_acknowledgement),
    ("udp datagrams", udp_datagram),
];

const IPV4_HEADER: u16 = 20;
const TCP_HEADER: u16 = 20;
const UDP_HEADER: u16 = 8;
/// Segments of a super-packet: as many as the TUN device of a client or gateway yields at once.
const SEGMENTS: u16 = 46;

fn tcp_super_packet(source: SocketAddr, destination: SocketAddr) -> Result<Template> {
    let segment_size = plan::MTU - IPV4_HEADER - TCP_HEADER;
    let bytes = tcp(source, destination, usize::from(segment_size) * usize::from(SEGMENTS))?;
    let offload = Offload {
        checksum: Some(PartialChecksum { start: IPV4_HEADER, offset: 16 }),
        segmentation: Some(Segmentation { kind: SegmentationKind::Tcp4, segment_size }),
    };
    Ok(Template { bytes, offload, packets: SEGMENTS.into() })
}

fn tcp_acknowledgement(source: SocketAddr, destination: SocketAddr) -> Result<Template> {
    let bytes = tcp(source, destination, 0)?;
    Ok(Template { bytes, offload: Offload::NONE, packets: 1 })
}

fn udp_datagram(source: SocketAddr, destination: SocketAddr) -> Result<Template> {
    let payload = vec![0x5a; usize::from(plan::MTU - IPV4_HEADER - UDP_HEADER)];
    let mut bytes = vec![0; usize::from(plan::MTU)];
    build::udp(&mut bytes, source, destination, &payload)?;
    Ok(Template { bytes, offload: Offload::NONE, packets: 1 })
}

fn tcp(source: SocketAddr, destination: SocketAddr, payload: usize) -> Result<Vec<u8>> {
    let flags = TcpFlags::ACK;
    let header = build::Tcp { sequence: 1, acknowledgement: 1, flags, window: 500, options: &[] };
    let mut bytes = vec![0; payload + usize::from(IPV4_HEADER + TCP_HEADER)];
    build::tcp(&mut bytes, source, destination, header, &vec![0x5a; payload])?;
    Ok(bytes)
}
