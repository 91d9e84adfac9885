//! STUN (RFC 8489): what its messages look like, and servers that tell us our addresses.

pub(crate) mod message;
mod servers;

pub(crate) use servers::{Mapping, Reached, StunServers};

/// The length of a STUN header.
const HEADER: usize = 20;

/// What sets STUN apart from other protocols on the same port.
const MAGIC_COOKIE: u32 = 0x2112_a442;

/// A transaction id.
pub(crate) type Transaction = [u8; 12];

/// Whether a datagram is a STUN message rather than WireGuard's: both begin with a small number, only STUN has the
/// magic cookie.
pub(crate) fn is_stun(datagram: &[u8]) -> bool {
    datagram.len() >= HEADER && datagram[0] < 4 && datagram[4..8] == MAGIC_COOKIE.to_be_bytes()
}

/// The transaction id of a datagram for which [`is_stun`] holds.
pub(crate) fn transaction_id(datagram: &[u8]) -> Option<Transaction> {
    datagram.get(8..HEADER)?.try_into().ok()
}

/// Whether a datagram for which [`is_stun`] holds is a request (class bits 00, RFC 8489 §5).
pub(crate) fn is_request(datagram: &[u8]) -> bool {
    datagram.len() >= 2 && datagram[0] & 1 == 0 && datagram[1] & 0x10 == 0
}
