//! When which link wants to be woken.

use std::collections::BTreeSet;
use std::time::Instant;

/// One deadline per slot, the earliest first. All operations take logarithmic time in the number of slots.
#[derive(Debug, Default)]
pub(crate) struct Timers {
    by_slot: Vec<Option<Instant>>,
    by_time: BTreeSet<(Instant, usize)>,
}

impl Timers {
    /// Sets or clears the deadline of a slot.
    pub(crate) fn set(&mut self, slot: usize, deadline: Option<Instant>) {
        if slot >= self.by_slot.len() {
            self.by_slot.resize(slot + 1, None);
        }
        let old = std::mem::replace(&mut self.by_slot[slot], deadline);
        if old == deadline {
            return;
        }
        if let Some(old) = old {
            self.by_time.remove(&(old, slot));
        }
        if let Some(new) = deadline {
            self.by_time.insert((new, slot));
        }
    }

    /// The earliest deadline of all.
    pub(crate) fn next(&self) -> Option<Instant> {
        self.by_time.first().map(|(at, _)| *at)
    }

    /// Takes out the slot whose deadline passed first, if any has.
    pub(crate) fn pop_due(&mut self, now: Instant) -> Option<usize> {
        let (at, slot) = *self.by_time.first()?;
        if at > now {
            return None;
        }
        self.set(slot, None);
        Some(slot)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn deadlines_come_in_order_and_moving_one_replaces_it() {
        let now = Instant::now();
        let at = |ms| now + Duration::from_millis(ms);
        let mut timers = Timers::default();
        timers.set(3, Some(at(30)));
        timers.set(1, Some(at(10)));
        timers.set(3, Some(at(5)));
        assert_eq!(timers.next(), Some(at(5)));
        assert_eq!(timers.pop_due(at(4)), None);
        assert_eq!(timers.pop_due(at(100)), Some(3));
        assert_eq!(timers.pop_due(at(100)), Some(1));
        assert_eq!(timers.pop_due(at(100)), None);
    }
}
