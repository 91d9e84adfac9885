//! What a tunnel wants done or known.

use std::time::Instant;

use connlib_link::{StreamRequest, Transmit};

/// One step of a tunnel's `poll_output`.
#[derive(Debug)]
pub enum Output<E> {
    /// Send this datagram, by a stream if one is connected between its addresses.
    Transmit(Transmit),
    /// A stream to a relay is wanted, or not any more.
    Stream(StreamRequest),
    /// Write this packet to the TUN device: one of our own, not a peer's.
    TunPacket(Vec<u8>),
    /// Something happened, or something is wanted.
    Event(E),
    /// Nothing else is queued: call `handle_timeout` at this time at the latest.
    Timeout(Instant),
}
