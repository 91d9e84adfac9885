//! The time that our end lives in.

use std::time::{Duration, Instant};

/// A clock that starts now and may run faster than the real one.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    start: Instant,
    speed: u32,
}

impl Clock {
    /// The real time.
    pub fn real() -> Self {
        Self { start: Instant::now(), speed: 1 }
    }

    /// Twenty-five times the real time: a rekey every five seconds, and what our end retries within fractions of a
    /// second still leaves the other program some milliseconds.
    #[cfg(feature = "fast-clock")]
    pub fn fast() -> Self {
        Self { start: Instant::now(), speed: 25 }
    }

    /// What it shows.
    pub fn now(&self) -> Instant {
        self.start + self.start.elapsed() * self.speed
    }

    /// How long it takes in real time until it shows `at`.
    pub(crate) fn real_time_until(&self, at: Instant) -> Duration {
        at.saturating_duration_since(self.now()) / self.speed
    }
}
