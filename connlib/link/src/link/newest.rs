//! Which packet of the peer's is the newest: it says what path the peer uses.

use std::time::{Duration, Instant};

/// How long the path that the peer last used outranks what ICE says, at the controlled end.
const LIFETIME: Duration = Duration::from_secs(5);

/// The newest authentic packet so far.
#[derive(Debug, Clone, Copy)]
pub(super) struct Newest {
    session: u32,
    counter: u64,
    seen: Instant,
}

impl Newest {
    /// What this authentic WireGuard data message makes the newest. `None`: it is older than `known`.
    pub(super) fn after(known: Option<Self>, datagram: &[u8], now: Instant) -> Option<Self> {
        let session = datagram.get(4..8)?.try_into().map(u32::from_le_bytes).ok()?;
        let counter = datagram.get(8..16)?.try_into().map(u64::from_le_bytes).ok()?;
        // A new session counts from zero again.
        let is_newest = known.is_none_or(|it| it.session != session || it.counter < counter);
        is_newest.then_some(Self { session, counter, seen: now })
    }

    /// Whether the path it came by outranks what ICE says.
    pub(super) fn is_recent(&self, now: Instant) -> bool {
        now < self.seen + LIFETIME
    }
}
