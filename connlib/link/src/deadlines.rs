//! Who wants to be woken when.

use std::collections::BTreeSet;
use std::time::Instant;

/// At most one deadline for each of many slots; the next one is known without looking at all of them.
#[derive(Debug, Default)]
pub struct Deadlines {
    by_slot: Vec<Option<Instant>>,
    ordered: BTreeSet<(Instant, usize)>,
}

impl Deadlines {
    /// Replaces the deadline of a slot.
    pub fn set(&mut self, slot: usize, deadline: Option<Instant>) {
        if slot >= self.by_slot.len() {
            self.by_slot.resize(slot + 1, None);
        }
        let old = std::mem::replace(&mut self.by_slot[slot], deadline);
        if old == deadline {
            return;
        }
        if let Some(old) = old {
            self.ordered.remove(&(old, slot));
        }
        if let Some(new) = deadline {
            self.ordered.insert((new, slot));
        }
    }

    /// Moves the deadline of a slot to `earliest` if it is before that.
    pub fn postpone(&mut self, slot: usize, earliest: Instant) {
        if let Some(Some(deadline)) = self.by_slot.get(slot).copied() {
            self.set(slot, Some(deadline.max(earliest)));
        }
    }

    /// The earliest deadline.
    pub fn next(&self) -> Option<Instant> {
        self.ordered.first().map(|(deadline, _)| *deadline)
    }

    /// A slot whose deadline has passed; it has none any more.
    pub fn pop_due(&mut self, now: Instant) -> Option<usize> {
        let (_, slot) = *self.ordered.first().filter(|(deadline, _)| *deadline <= now)?;
        self.set(slot, None);
        Some(slot)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn earliest_first_and_replaced() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut deadlines = Deadlines::default();
        deadlines.set(3, Some(at(3)));
        deadlines.set(1, Some(at(1)));
        deadlines.set(2, Some(at(2)));
        deadlines.set(1, Some(at(5)));
        deadlines.set(2, None);
        assert_eq!(deadlines.next(), Some(at(3)));
        assert_eq!(deadlines.pop_due(at(2)), None);
        assert_eq!(deadlines.pop_due(at(9)), Some(3));
        assert_eq!(deadlines.pop_due(at(9)), Some(1));
        assert_eq!(deadlines.pop_due(at(9)), None);
        assert_eq!(deadlines.next(), None);
    }

    #[test]
    fn postponed_is_what_would_be_too_early() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut deadlines = Deadlines::default();
        deadlines.set(0, Some(at(1)));
        deadlines.set(1, Some(at(9)));
        for slot in 0..3 {
            deadlines.postpone(slot, at(5));
        }
        assert_eq!(deadlines.pop_due(at(4)), None);
        assert_eq!(deadlines.pop_due(at(5)), Some(0));
        assert_eq!(deadlines.next(), Some(at(9)));
    }
}
