//! What goes in and out of a [`Node`](super::Node).

use std::net::SocketAddr;

use connlib_packet::ExceedsMtu;

use crate::output::PeerId;

/// Settings of a [`Node`](super::Node).
#[derive(Debug, Clone)]
pub struct NodeConfig {
    /// Seed of everything random, the WireGuard key included: 32 bytes from the operating system.
    pub seed: [u8; 32],
    /// Links beyond this many are refused.
    pub max_links: usize,
}

impl Default for NodeConfig {
    fn default() -> Self {
        Self { seed: [0; 32], max_links: 4096 }
    }
}

/// What [`Node::upsert`](super::Node::upsert) did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Upsert {
    /// There was no link to this peer.
    Created,
    /// The link was the same already; its candidates are signalled once more.
    Reused,
    /// The peer or its keys are new: the old link is gone with what waited in it.
    Replaced,
    /// There are too many links.
    Refused,
}

/// A datagram from a socket.
#[derive(Debug, Clone, Copy)]
pub struct Datagram<'a> {
    /// The address it was sent to: one of ours.
    pub local: SocketAddr,
    /// The address it came from.
    pub remote: SocketAddr,
    /// The UDP payload.
    pub payload: &'a [u8],
}

/// What [`Node::open`](super::Node::open) made of a datagram.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Opened {
    /// The first `len` bytes of the slot are a packet from this peer: well-formed only as far as its length goes.
    Packet {
        /// Who sent it.
        peer: PeerId,
        /// Its length in bytes.
        len: usize,
    },
    /// It was for the link itself; the node's outputs may have grown.
    Handled,
    /// It belongs to no link, or isn't authentic. To be counted, not to be logged.
    Dropped,
}

/// Why a packet could not be sealed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SealError {
    /// There is no link to this peer.
    #[error("no link to this peer")]
    UnknownPeer,
    /// The send queue has no room; see [`SendQueue::is_full`](crate::SendQueue::is_full).
    #[error("the send queue is full")]
    QueueFull,
    /// The path leads through a relay that has no channel to the peer.
    #[error("the relay does not take packets to this peer")]
    NoPath,
    /// The packet is longer than the MTU and may not be cut.
    #[error(transparent)]
    ExceedsMtu(#[from] ExceedsMtu),
}
