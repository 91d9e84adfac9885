//! What a tunnel wants done or known.

use std::time::Instant;

use connlib_link::Transmit;

/// One step of a tunnel's `poll_output`.
#[derive(Debug)]
pub enum Output<E> {
    /// Send this datagram.
    Transmit(Transmit),
    /// Write this packet to the TUN device: one of our own, not a peer's.
    TunPacket(Vec<u8>),
    /// Something happened, or something is wanted.
    Event(E),
    /// Nothing else is queued: call `handle_timeout` at this time at the latest.
    Timeout(Instant),
}
