//! How much who gets over time, in memory that doesn't grow with their number.

use std::hash::{BuildHasher, Hash};
use std::net::IpAddr;
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
        let bucket = self.hasher.hash_one(whose) as usize % BUCKETS;
        let now = now.saturating_duration_since(self.start).as_nanos() as u64;
        let after = self.full_at[bucket].max(now) + self.interval;
        let is_granted = after - now <= self.tolerance;
        if is_granted {
            self.full_at[bucket] = after;
        }
        is_granted
    }
}

/// Whom strangers count as: what a sender of forged datagrams can aim at one network (an IPv4 /24, an IPv6 /48).
pub(crate) fn network(source: IpAddr) -> u64 {
    match source.to_canonical() {
        IpAddr::V4(ip) => u64::from(ip.to_bits() >> 8),
        IpAddr::V6(ip) => (ip.to_bits() >> 80) as u64 | 1 << 63,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_has_its_burst_then_its_rate() {
        let start = Instant::now();
        let mut budget = Budget::new(Rate { per_second: 10, burst: 3 }, 1, start);
        let source = |last| network([192, 0, 2, last].into());
        let granted = |budget: &mut Budget, ms, source| {
            let now = start + Duration::from_millis(ms);
            (0..20).take_while(|_| budget.take(source, now)).count()
        };
        assert_eq!(granted(&mut budget, 0, source(1)), 3);
        assert_eq!(granted(&mut budget, 0, source(2)), 0, "the same /24");
        assert_eq!(granted(&mut budget, 0, network([192, 0, 3, 1].into())), 3);
        assert_eq!(granted(&mut budget, 100, source(1)), 1);
        assert_eq!(granted(&mut budget, 60_000, source(1)), 3);
    }
}
