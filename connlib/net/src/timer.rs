//! A timer for an event loop.

use std::io;
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::time::{Duration, Instant};

use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};
use tokio::io::unix::AsyncFd;

use crate::readiness::{Owner, register};

/// A timer that was set to something later by less than this fires at the old time and waits on: under load the time
/// moves with each packet, and need not cost a system call each.
const SLACK: Duration = Duration::from_millis(100);

/// Fires at a time that moves.
///
/// The kernel's, not the runtime's: that one rounds what is far away down, and wakes up twice for each time.
#[derive(Debug)]
pub struct Timer {
    fd: AsyncFd<Descriptor>,
    at: Instant,
    armed: Option<Instant>,
}

#[derive(Debug)]
struct Descriptor(TimerFd);

impl AsRawFd for Descriptor {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_fd().as_raw_fd()
    }
}

impl Owner for Descriptor {}

impl Timer {
    /// A timer that fires at `at`. Must be called within a tokio runtime.
    ///
    /// # Errors
    ///
    /// The kernel or the runtime has no room for it.
    pub fn new(at: Instant) -> io::Result<Self> {
        let flags = TimerFlags::TFD_NONBLOCK | TimerFlags::TFD_CLOEXEC;
        let timer = TimerFd::new(ClockId::CLOCK_MONOTONIC, flags)?;
        Ok(Self { fd: register(Descriptor(timer))?, at, armed: None })
    }

    /// From now on, it fires at `at`.
    pub fn set(&mut self, at: Instant) {
        self.at = at;
    }

    /// Waits until it is time. Cancel safe.
    ///
    /// # Errors
    ///
    /// The runtime is gone.
    pub async fn elapsed(&mut self) -> io::Result<()> {
        loop {
            let now = Instant::now();
            if self.at <= now {
                return Ok(());
            }
            self.arm(now)?;
            self.fd.readable().await?.clear_ready();
            self.armed = None;
        }
    }

    fn arm(&mut self, now: Instant) -> io::Result<()> {
        if self.armed.is_some_and(|armed| armed <= self.at && self.at <= armed + SLACK) {
            return Ok(());
        }
        let rest = TimeSpec::from_duration(self.at.duration_since(now));
        self.fd.get_ref().0.set(Expiration::OneShot(rest), TimerSetTimeFlags::empty())?;
        self.armed = Some(self.at);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn it_fires_at_the_time_that_was_set_last() {
        let start = Instant::now();
        let ms = |n| start + Duration::from_millis(n);
        let mut timer = Timer::new(start).unwrap();
        timer.elapsed().await.unwrap();

        for (first, then) in [(500, 60), (80, 120), (180, 400)] {
            timer.set(ms(first));
            tokio::select! {
                biased;
                result = timer.elapsed() => panic!("{result:?}"),
                () = std::future::ready(()) => {}
            }
            timer.set(ms(then));
            timer.elapsed().await.unwrap();
            assert!(Instant::now() >= ms(then));
        }
        // It was left armed by the last one that was cancelled, if at all: nothing fires twice.
        timer.set(start + Duration::from_secs(3600));
        let again = tokio::time::timeout(Duration::from_millis(50), timer.elapsed()).await;
        assert!(again.is_err());
    }
}
