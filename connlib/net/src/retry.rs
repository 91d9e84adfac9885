//! What the system refused and is tried again.

use std::future::pending;
use std::pin::Pin;
use std::time::Duration;

use tokio::time::{Sleep, sleep};

const FIRST: Duration = Duration::from_secs(1);
const MAX: Duration = Duration::from_secs(60);

/// When to try again: soon at first, then more and more rarely.
#[derive(Debug)]
pub struct Retry {
    sleep: Option<Pin<Box<Sleep>>>,
    pause: Duration,
}

impl Default for Retry {
    fn default() -> Self {
        Self { sleep: None, pause: FIRST }
    }
}

impl Retry {
    /// It was refused: it is due after a second, and after twice the time each time that it is refused again, a minute
    /// at most.
    pub fn later(&mut self) {
        self.sleep = Some(Box::pin(sleep(self.pause)));
        self.pause = (self.pause * 2).min(MAX);
    }

    /// It has succeeded: what is refused next is tried again soon.
    pub fn succeeded(&mut self) {
        self.pause = FIRST;
    }

    /// Waits until it is to be tried again; for ever if nothing was refused. Cancel safe.
    pub async fn due(&mut self) {
        match &mut self.sleep {
            Some(sleep) => sleep.as_mut().await,
            None => pending().await,
        }
        self.sleep = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::time::Instant;

    #[tokio::test(start_paused = true)]
    async fn it_is_tried_again_once_each_time_and_ever_more_rarely() {
        let mut retry = Retry::default();
        let mut pauses = Vec::new();
        for attempt in 0..10 {
            if attempt == 8 {
                retry.succeeded();
            }
            let start = Instant::now();
            retry.later();
            retry.due().await;
            pauses.push(start.elapsed().as_secs());
        }
        assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 60, 60, 1, 2]);
        let again = tokio::time::timeout(Duration::from_secs(3600), retry.due()).await;
        assert!(again.is_err());
    }
}
