//! How much who gets over time, in memory that doesn't grow with their number.

use std::hash::{BuildHasher, Hash};
use std::time::{Duration, Instant};

use super::key::{Hashing, hashing};
use super::limits::Rate;

/// Those who fall into one bucket share its rate: that takes a flood from more of them than there are buckets.
const BUCKETS: usize = 16_384;

/// A rate for each source or user.
pub(crate) struct Budget {
    /// When each bucket would be full again, in nanoseconds since the start.
    full_at: Box<[u64]>,
    interval: u64,
    tolerance: u64,
    hasher: Hashing,
    start: Instant,
}

impl Budget {
    pub(crate) fn new(rate: Rate, seed: u64, start: Instant) -> Self {
        let interval = Duration::from_secs(1).as_nanos() as u64 / u64::from(rate.per_second.max(1));
        Self {
            full_at: vec![0; BUCKETS].into_boxed_slice(),
            interval,
            tolerance: interval * u64::from(rate.burst),
            hasher: hashing(seed),
            start,
        }
    }

    /// Whether this one may have one more, which it then has had.
    pub(crate) fn take(&mut self, whose: impl Hash, now: Instant) -> bool {
        self.take_within(self.tolerance, whose, now)
    }

    /// The same for somebody who has to leave half of what there is at once to others.
    pub(crate) fn take_of_half(&mut self, whose: impl Hash, now: Instant) -> bool {
        self.take_within(self.tolerance / 2, whose, now)
    }

    fn take_within(&mut self, tolerance: u64, whose: impl Hash, now: Instant) -> bool {
        let bucket = self.hasher.hash_one(whose) as usize % BUCKETS;
        let now = now.saturating_duration_since(self.start).as_nanos() as u64;
        let after = self.full_at[bucket].max(now) + self.interval;
        let is_granted = after - now <= tolerance;
        if is_granted {
            self.full_at[bucket] = after;
        }
        is_granted
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_has_its_burst_then_its_rate() {
        let start = Instant::now();
        let mut budget = Budget::new(Rate { per_second: 10, burst: 4 }, 1, start);
        let at = |ms| start + Duration::from_millis(ms);
        let granted = |budget: &mut Budget, ms, whose: u32| {
            (0..20).take_while(|_| budget.take(whose, at(ms))).count()
        };
        assert_eq!(granted(&mut budget, 0, 1), 4);
        assert_eq!(granted(&mut budget, 0, 2), 4);
        assert_eq!(granted(&mut budget, 100, 1), 1);
        assert_eq!(granted(&mut budget, 60_000, 1), 4);
        let half = (0..20).take_while(|_| budget.take_of_half(3, at(60_000))).count();
        assert_eq!((half, granted(&mut budget, 60_000, 3)), (2, 2));
    }
}
