//! The one timer of an event loop.

use std::pin::Pin;
use std::time::Instant;

use tokio::time::{Sleep, sleep_until};

/// Fires at a time that moves. Moving it to where it is costs nothing.
#[derive(Debug)]
pub(crate) struct Timer {
    sleep: Pin<Box<Sleep>>,
    at: Instant,
}

impl Timer {
    pub(crate) fn new(at: Instant) -> Self {
        Self { sleep: Box::pin(sleep_until(at.into())), at }
    }

    pub(crate) fn set(&mut self, at: Instant) {
        if self.at != at {
            self.at = at;
            self.sleep.as_mut().reset(at.into());
        }
    }

    /// Waits until it is time. Cancel safe.
    pub(crate) async fn elapsed(&mut self) {
        self.sleep.as_mut().await;
    }
}
