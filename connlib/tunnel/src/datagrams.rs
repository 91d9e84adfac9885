//! Datagrams from a socket.

use std::net::SocketAddr;

use connlib_packet::Ecn;

/// Datagrams between the same two addresses, as one system call receives them (UDP GRO).
#[derive(Debug, Clone, Copy)]
pub struct Datagrams<'a> {
    /// The address they were sent to: one of ours.
    pub local: SocketAddr,
    /// The address they came from.
    pub remote: SocketAddr,
    /// The congestion bits of the IP header around them.
    pub ecn: Ecn,
    /// Length of each datagram in bytes but the last, which may be shorter.
    pub stride: usize,
    /// The datagrams, one behind the other.
    pub bytes: &'a [u8],
}

impl<'a> Datagrams<'a> {
    /// A single datagram.
    pub fn one(local: SocketAddr, remote: SocketAddr, payload: &'a [u8]) -> Self {
        Self { local, remote, ecn: Ecn::NotEct, stride: payload.len(), bytes: payload }
    }

    pub(crate) fn payloads(&self) -> impl Iterator<Item = &'a [u8]> + use<'a> {
        self.bytes.chunks(self.stride.max(1))
    }
}
