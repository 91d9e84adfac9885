//! What ends when.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Instant;

/// Deadlines in order of time. Each is taken out when what it belongs to goes, so that there are no more of them.
#[derive(Default)]
pub(crate) struct Timers(BTreeSet<(Instant, Timer)>);

/// What ends. The slot says whose it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Timer {
    Allocation(u32),
    Channel(u32, u16),
    Permission(u32, IpAddr),
}

impl Timers {
    pub(crate) fn set(&mut self, timer: Timer, old: Option<Instant>, new: Option<Instant>) {
        if let Some(old) = old {
            self.0.remove(&(old, timer));
        }
        if let Some(new) = new {
            self.0.insert((new, timer));
        }
    }

    pub(crate) fn next(&self) -> Option<Instant> {
        self.0.first().map(|(at, _)| *at)
    }

    pub(crate) fn pop_due(&mut self, now: Instant) -> Option<Timer> {
        let due = *self.0.first().filter(|(at, _)| *at <= now)?;
        self.0.remove(&due);
        Some(due.1)
    }
}
