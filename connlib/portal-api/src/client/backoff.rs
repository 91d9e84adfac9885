//! When to try again.

use std::time::{Duration, Instant};

use rand::rngs::SmallRng;
use rand::{RngExt as _, SeedableRng as _};

/// Attempts of a first sign-in come that often, so that the user soon sees something …
const FAIL_FAST_DELAY: Duration = Duration::from_secs(1);
/// … and end after this time.
const FAIL_FAST_BUDGET: Duration = Duration::from_secs(15);
const FIRST_DELAY: Duration = Duration::from_millis(500);
const GROWTH: f64 = 1.5;
const MAX_DELAY: Duration = Duration::from_secs(60);
/// Delays are longer or shorter by up to this part, so that peers do not come all at once.
const JITTER: f64 = 0.5;
/// No `Retry-After` keeps us away for longer.
const MAX_RETRY_AFTER: Duration = Duration::from_secs(3600);
/// A connection of this age was a good one: the next outage starts with the first delay again.
const STABLE_AFTER: Duration = Duration::from_secs(10);

/// For how long to try.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retry {
    /// The first connection comes about within 15 s or not at all: somebody is waiting for it.
    pub fail_fast: bool,
    /// How long an outage may last; `None`: for ever.
    pub budget: Option<Duration>,
}

impl Retry {
    /// For an app with a user in front of it.
    pub const fn interactive(budget: Duration) -> Self {
        Self { fail_fast: true, budget: Some(budget) }
    }

    /// For a service: it never gives up.
    pub const FOR_EVER: Self = Self { fail_fast: false, budget: None };
}

#[derive(Debug)]
pub(super) struct Backoff {
    retry: Retry,
    rng: SmallRng,
    ever_joined: bool,
    delay: Duration,
    /// When the current outage began.
    failing_since: Option<Instant>,
    joined_at: Option<Instant>,
}

impl Backoff {
    pub(super) fn new(retry: Retry, seed: u64) -> Self {
        Self {
            retry,
            rng: SmallRng::seed_from_u64(seed),
            ever_joined: false,
            delay: FIRST_DELAY,
            failing_since: None,
            joined_at: None,
        }
    }

    /// An attempt begins.
    pub(super) fn attempting(&mut self, now: Instant) {
        self.failing_since.get_or_insert(now);
    }

    /// The attempt succeeded, or a connection joined again.
    pub(super) fn joined(&mut self, now: Instant) {
        self.ever_joined = true;
        self.failing_since = None;
        self.joined_at.get_or_insert(now);
    }

    /// The network is another one: whatever failed before does not count.
    pub(super) fn reset(&mut self) {
        self.delay = FIRST_DELAY;
        self.failing_since = None;
        self.joined_at = None;
    }

    /// An attempt failed or a connection ended: when to try again, or how long we tried if that was enough.
    pub(super) fn failed(
        &mut self,
        retry_after: Option<Duration>,
        now: Instant,
    ) -> Result<Duration, Duration> {
        if self.joined_at.take().is_some_and(|joined_at| now - joined_at >= STABLE_AFTER) {
            self.delay = FIRST_DELAY;
        }
        let elapsed = now - *self.failing_since.get_or_insert(now);
        let fail_fast = self.retry.fail_fast && !self.ever_joined;
        let budget = if fail_fast { Some(FAIL_FAST_BUDGET) } else { self.retry.budget };
        if budget.is_some_and(|budget| elapsed >= budget) {
            return Err(elapsed);
        }
        let delay = if fail_fast { FAIL_FAST_DELAY } else { self.grow() };
        Ok(retry_after.map_or(delay, |at_least| at_least.min(MAX_RETRY_AFTER)))
    }

    fn grow(&mut self) -> Duration {
        let delay = self.delay.mul_f64(self.rng.random_range(1.0 - JITTER..1.0 + JITTER));
        self.delay = self.delay.mul_f64(GROWTH).min(MAX_DELAY);
        delay
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: Duration = Duration::from_secs(1);

    fn new(retry: Retry) -> (Backoff, Instant) {
        (Backoff::new(retry, 1), Instant::now())
    }

    #[test]
    fn delays_grow_from_half_a_second_to_a_minute_give_or_take_half() {
        let (mut backoff, now) = new(Retry::FOR_EVER);
        let mut expected = 0.5;
        for _ in 0..40 {
            let delay = backoff.failed(None, now).unwrap().as_secs_f64();
            assert!((expected * 0.5..=expected * 1.5).contains(&delay), "{delay} for {expected}");
            expected = f64::min(expected * 1.5, 60.0);
        }
    }

    #[test]
    fn delays_differ_by_seed() {
        let delay = |seed| Backoff::new(Retry::FOR_EVER, seed).failed(None, Instant::now());
        assert_ne!(delay(1), delay(2));
        assert_eq!(delay(1), delay(1));
    }

    #[test]
    fn a_first_connection_fails_after_15_s_of_attempts_every_second() {
        let (mut backoff, mut now) = new(Retry::interactive(3600 * S));
        let mut attempts = 0;
        let tried = loop {
            backoff.attempting(now);
            attempts += 1;
            match backoff.failed(None, now) {
                Ok(delay) => {
                    assert_eq!(delay, S);
                    now += delay;
                }
                Err(tried) => break tried,
            }
        };
        assert_eq!((tried, attempts), (15 * S, 16));
    }

    #[test]
    fn once_joined_the_budget_of_an_outage_counts_from_its_begin() {
        let (mut backoff, start) = new(Retry::interactive(3600 * S));
        backoff.attempting(start);
        backoff.joined(start);
        let lost = start + 7200 * S;
        assert!(backoff.failed(None, lost).is_ok());
        assert!(backoff.failed(None, lost + 3599 * S).is_ok());
        assert_eq!(backoff.failed(None, lost + 3600 * S), Err(3600 * S));
    }

    #[test]
    fn the_portal_says_when_to_come_again_within_reason() {
        let (mut backoff, now) = new(Retry::FOR_EVER);
        assert_eq!(backoff.failed(Some(7 * S), now), Ok(7 * S));
        assert_eq!(backoff.failed(Some(Duration::MAX), now), Ok(3600 * S));
    }

    #[test]
    fn only_a_stable_connection_or_another_network_starts_over() {
        let (mut backoff, mut now) = new(Retry::FOR_EVER);
        let first = |backoff: &mut Backoff, now| {
            backoff.failed(None, now).unwrap() < Duration::from_millis(750)
        };
        for _ in 0..20 {
            backoff.attempting(now);
            backoff.joined(now);
            now += S;
            backoff.failed(None, now).unwrap();
        }
        assert!(!first(&mut backoff, now), "a portal that drops us at once is not stormed");
        backoff.joined(now);
        assert!(first(&mut backoff, now + 10 * S));
        for _ in 0..20 {
            backoff.failed(None, now).unwrap();
        }
        backoff.reset();
        assert!(first(&mut backoff, now));
    }
}
