//! What a relay has been asked and has not answered yet.

use std::time::{Duration, Instant};

use connlib_stun::Transaction;

/// Requests that may wait for answers at a time.
const MAX_REQUESTS: usize = 64;

/// A request is repeated after this at first, unless the relay is further away. RFC 8489 §6.2.1 says 500 ms and twice
/// as long each time; but somebody waits, and few requests make no congestion.
const FIRST_GAP: Duration = Duration::from_millis(250);

/// How often it is repeated at that pace.
const QUICK: u32 = 4;

const MAX_GAP: Duration = Duration::from_secs(2);

/// After this nobody waits for the answer any more.
const PATIENCE: Duration = Duration::from_secs(8);

/// The same for an answer by a stream, where others wait for their turn.
const STREAM_PATIENCE: Duration = Duration::from_secs(5);

/// The same where packets are on the way, which the request has to wait for.
const BUSY_STREAM_PATIENCE: Duration = Duration::from_secs(15);

/// What a request is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    Allocate,
    Refresh,
    /// Gives the allocation back.
    Release,
    /// Binds a channel.
    Bind(u16),
}

#[derive(Debug)]
pub(super) struct Request {
    pub(super) purpose: Purpose,
    pub(super) transaction: Transaction,
    /// How often the same was asked with another nonce or other credentials.
    pub(super) tries: u8,
    pub(super) payload: Vec<u8>,
    started: Instant,
    /// When to repeat it or, if it is not repeated, to give up.
    due_at: Instant,
    repeats: Option<Repeats>,
}

#[derive(Debug)]
struct Repeats {
    gap: Duration,
    count: u32,
}

impl Request {
    /// `round_trip`: to the relay, if datagrams may get lost on the way.
    pub(super) fn new(
        purpose: Purpose,
        transaction: Transaction,
        tries: u8,
        payload: Vec<u8>,
        round_trip: Option<Duration>,
        now: Instant,
    ) -> Self {
        let gap = |round_trip| FIRST_GAP.max(round_trip * 3 / 2).min(MAX_GAP);
        let repeats = round_trip.map(|round_trip| Repeats { gap: gap(round_trip), count: 0 });
        let patience = match purpose {
            Purpose::Allocate => STREAM_PATIENCE,
            Purpose::Refresh | Purpose::Release | Purpose::Bind(_) => BUSY_STREAM_PATIENCE,
        };
        let due_at = now + repeats.as_ref().map_or(patience, |repeats| repeats.gap);
        Self { purpose, transaction, tries, payload, started: now, due_at, repeats }
    }
}

/// All requests of an allocation.
#[derive(Debug, Default)]
pub(super) struct Requests {
    requests: Vec<Request>,
}

/// What a timeout wants.
pub(super) enum Due {
    /// Send this once more.
    Repeat(Vec<u8>),
    /// This has not been answered in time.
    GiveUp(Purpose),
}

impl Requests {
    pub(super) fn has_room(&self) -> bool {
        self.requests.len() < MAX_REQUESTS
    }

    pub(super) fn has(&self, purpose: Purpose) -> bool {
        self.requests.iter().any(|request| request.purpose == purpose)
    }

    /// Waits for the answer to this, and no more for that to an earlier request of the same purpose.
    pub(super) fn add(&mut self, request: Request) {
        self.requests.retain(|other| other.purpose != request.purpose);
        self.requests.push(request);
    }

    pub(super) fn clear(&mut self) {
        self.requests.clear();
    }

    pub(super) fn awaits(&self, transaction: Transaction) -> bool {
        self.requests.iter().any(|request| request.transaction == transaction)
    }

    pub(super) fn take(&mut self, transaction: Transaction) -> Option<Request> {
        let at = self.requests.iter().position(|request| request.transaction == transaction)?;
        Some(self.requests.swap_remove(at))
    }

    pub(super) fn next_timeout(&self) -> Option<Instant> {
        self.requests.iter().map(|request| request.due_at).min()
    }

    /// Something that is due now. Call it until it returns `None`.
    pub(super) fn due(&mut self, now: Instant) -> Option<Due> {
        let at = self.requests.iter().position(|request| request.due_at <= now)?;
        let request = &mut self.requests[at];
        // A refresh by datagrams is also how we notice that a relay is back.
        let is_late = now >= request.started + PATIENCE && request.purpose != Purpose::Refresh;
        let Some(repeats) = request.repeats.as_mut().filter(|_| !is_late) else {
            return Some(Due::GiveUp(self.requests.swap_remove(at).purpose));
        };
        repeats.count += 1;
        if repeats.count > QUICK {
            repeats.gap = (repeats.gap * 2).min(MAX_GAP);
        }
        request.due_at = now + repeats.gap;
        Some(Due::Repeat(request.payload.clone()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn asking_again_takes_the_place_of_the_earlier_request() {
        let now = Instant::now();
        let mut requests = Requests::default();
        for number in 0..200 {
            for purpose in [Purpose::Refresh, Purpose::Bind(0x4000)] {
                let transaction = [number; 12];
                requests.add(Request::new(
                    purpose,
                    transaction,
                    0,
                    vec![],
                    Some(Duration::ZERO),
                    now,
                ));
            }
        }
        assert_eq!(requests.requests.len(), 2);
        assert!(requests.awaits([199; 12]) && !requests.awaits([198; 12]));
    }
}
