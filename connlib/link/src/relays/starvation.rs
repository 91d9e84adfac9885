//! When to ask the portal for other relays.

use std::time::{Duration, Instant};

/// Without an allocation for so long, the portal is asked; then after longer and longer times.
const STARVED: Duration = Duration::from_secs(5);
const FIRST_PAUSE: Duration = Duration::from_secs(60);
const MAX_PAUSE: Duration = Duration::from_secs(900);

/// There are relays, and none of them works.
#[derive(Debug, Default)]
pub(super) struct Starvation {
    /// When to ask, and how long to wait then.
    next: Option<(Instant, Duration)>,
}

impl Starvation {
    pub(super) fn next_timeout(&self) -> Option<Instant> {
        self.next.map(|(at, _)| at)
    }

    /// Notes how it is at present; true if it is time to ask.
    pub(super) fn review(&mut self, is_starving: bool, now: Instant) -> bool {
        if !is_starving {
            self.next = None;
            return false;
        }
        let (at, pause) = self.next.get_or_insert((now + STARVED, FIRST_PAUSE));
        let is_due = now >= *at;
        if is_due {
            (*at, *pause) = (now + *pause, (*pause * 2).min(MAX_PAUSE));
        }
        is_due
    }
}
