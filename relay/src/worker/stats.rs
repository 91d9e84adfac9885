//! What a worker has done, for others to see.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use connlib_relay::server::Counters;

/// How old the published numbers of a busy worker get.
const PERIOD: Duration = Duration::from_secs(1);

/// The numbers of one worker at one time.
#[derive(Debug, Clone, Default)]
pub(crate) struct Snapshot {
    pub(crate) server: Counters,
    pub(crate) allocations: usize,
    pub(crate) channels: usize,
    pub(crate) streams: usize,
    pub(crate) io: IoCounters,
}

/// What happened at the sockets since the start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct IoCounters {
    /// Datagrams that were received, and the system calls it took.
    pub(crate) received: Calls,
    /// Datagrams that were sent, and the system calls it took.
    pub(crate) sent: Calls,
    /// Datagrams that the kernel had no room for.
    pub(crate) send_buffer_full: u64,
    /// Datagrams that the kernel refused for another reason: no route, a filter, an address of a family we lack.
    pub(crate) send_refused: u64,
    /// Messages for a stream whose client reads too slowly.
    pub(crate) stream_full: u64,
    /// Messages for a stream that is gone.
    pub(crate) stream_gone: u64,
    /// Streams that were accepted.
    pub(crate) streams_accepted: u64,
    /// Streams that were turned away: too many in all or from their source.
    pub(crate) streams_refused: u64,
    /// Streams that were closed because of what they sent or didn't send.
    pub(crate) streams_failed: u64,
}

/// Datagrams and the system calls that moved them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Calls {
    pub(crate) datagrams: u64,
    pub(crate) calls: u64,
}

/// Where a worker leaves its numbers now and then, so that nobody asks it while it works.
#[derive(Debug, Default)]
pub(crate) struct Stats(Mutex<Snapshot>);

impl Stats {
    pub(crate) fn latest(&self) -> Snapshot {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn publish(&self, snapshot: Snapshot) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = snapshot;
    }
}

/// When a worker publishes: soon after something happened, and never while nothing does.
#[derive(Debug, Default)]
pub(crate) struct Schedule {
    last: Option<Instant>,
    due: Option<Instant>,
}

impl Schedule {
    /// Something happened.
    pub(crate) fn touch(&mut self, now: Instant) {
        if self.due.is_none() {
            self.due = Some(self.last.map_or(now, |last| (last + PERIOD).max(now)));
        }
    }

    /// When to publish next, if at all.
    pub(crate) fn due(&self) -> Option<Instant> {
        self.due
    }

    /// Whether it is time. Says so once.
    pub(crate) fn take(&mut self, now: Instant) -> bool {
        let is_time = self.due.is_some_and(|due| due <= now);
        if is_time {
            (self.last, self.due) = (Some(now), None);
        }
        is_time
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn news_is_published_at_once_and_then_once_a_second() {
        let start = Instant::now();
        let mut schedule = Schedule::default();
        assert_eq!(schedule.due(), None);
        schedule.touch(start);
        assert!(schedule.take(start));
        assert!(!schedule.take(start + PERIOD), "nothing happened");
        let soon = start + PERIOD / 4;
        schedule.touch(soon);
        assert_eq!(schedule.due(), Some(start + PERIOD));
        assert!(!schedule.take(soon) && schedule.take(start + PERIOD));
    }
}
