//! IP packets as types: parse, build, rewrite, cut and coalesce. No sockets, no clock, no allocation per packet.
//!
//! The way out of a host: the TUN device yields a packet, perhaps a super-packet of 64 KiB. [`TunPacket`] checks it
//! once, is rewritten once, and is cut into [`Segments`] in place.
//!
//! ```
//! use connlib_packet::{Offload, PacketBatch, TunPacket, build};
//!
//! let mut bytes = [0; 1280];
//! let (source, destination) = ("100.64.0.1:5000".parse()?, "10.0.0.1:53".parse()?);
//! let len = build::udp(&mut bytes, source, destination, b"query")?;
//!
//! let mut packet = TunPacket::parse(&mut bytes[..len], Offload::NONE)?;
//! packet.set_destination("10.0.0.2".parse()?)?;
//! let mut segments = packet.segments(1280)?;
//! while let Some(segment) = segments.next_segment() {
//!     assert_eq!(segment.len(), 20 + 8 + 5);
//! }
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! The way in: packets are opened into the slots of a [`PacketBatch`], checked and rewritten there, and at the end
//! [coalesced](PacketBatch::coalesce) into few writes.
//!
//! - [`Headers`]: what a packet's headers say; [`Transport`], [`Ecn`], [`TcpFlags`]
//! - [`TunPacket`]: a packet that is rewritten in place, [`Offload`] what the kernel left undone in it
//! - [`IcmpError`]: ICMP errors, and [`Quoted`] the packets that they are about
//! - [`control`]: the control protocol between the ends of a tunnel
//! - [`build`]: packets from nothing
//! - [`checksum`]: sums and incremental updates
//! - [`plan`]: addresses and sizes that both ends agree on
#![forbid(unsafe_code)]

pub mod build;
pub mod checksum;
pub mod control;
pub mod plan;

mod batch;
mod bytes;
mod coalesce;
mod ecn;
mod extensions;
mod headers;
mod icmp;
mod offload;
mod quoted;
mod segments;
mod transport;
mod tun_packet;

#[cfg(test)]
mod random;

pub use batch::PacketBatch;
pub use coalesce::{Coalesce, Pieces, Scratch, Write, Writes};
pub use ecn::Ecn;
pub use headers::{Headers, ParseError};
pub use icmp::{IcmpError, Unreachable};
pub use offload::{Offload, PartialChecksum, Segmentation, SegmentationKind, VIRTIO_HEADER};
pub use quoted::Quoted;
pub use segments::{ExceedsMtu, MAX_SEGMENTS, Segments};
pub use transport::{EchoKind, TcpFlags, Transport, protocol};
pub use tun_packet::{RewriteError, TunPacket};
