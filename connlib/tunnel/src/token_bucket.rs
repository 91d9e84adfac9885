//! How often something may happen.

use std::time::{Duration, Instant};

/// Lets `burst` events through at once and one per `interval` in the long run.
#[derive(Debug, Clone, Copy)]
pub(crate) struct TokenBucket {
    interval: Duration,
    /// How far `empty_at` may be ahead of the time.
    depth: Duration,
    /// Each event moves this on by an interval; until that time some of the burst is spent.
    spent_until: Instant,
}

impl TokenBucket {
    pub(crate) fn new(burst: u32, interval: Duration, now: Instant) -> Self {
        Self { interval, depth: interval * burst, spent_until: now }
    }

    /// Whether one more may happen now; if so, it counts.
    pub(crate) fn take(&mut self, now: Instant) -> bool {
        let spent_until = self.spent_until.max(now) + self.interval;
        let allowed = spent_until <= now + self.depth;
        if allowed {
            self.spent_until = spent_until;
        }
        allowed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_and_then_a_rate() {
        let start = Instant::now();
        let second = Duration::from_secs(1);
        let mut bucket = TokenBucket::new(3, second, start);
        let taken = |bucket: &mut TokenBucket, now| (0..10).filter(|_| bucket.take(now)).count();
        assert_eq!(taken(&mut bucket, start), 3);
        assert_eq!(taken(&mut bucket, start + second / 2), 0);
        assert_eq!(taken(&mut bucket, start + second), 1);
        assert_eq!(taken(&mut bucket, start + 3 * second), 2);
        assert_eq!(taken(&mut bucket, start + 1000 * second), 3);
    }
}
