//! Notifications from the kernel, gathered until they calm down.

use std::io;
use std::time::Duration;

use tokio::io::unix::AsyncFd;
use tokio::time::Instant;

use super::message::Received;
use super::socket::{BUFFER_SIZE, Socket};
use crate::readiness::register;

/// A mask of route netlink groups.
pub(crate) const fn groups<const N: usize>(groups: [libc::c_uint; N]) -> u32 {
    let (mut mask, mut i) = (0, 0);
    while i < N {
        mask |= 1 << (groups[i] - 1);
        i += 1;
    }
    mask
}

/// Listens to route netlink groups. Costs nothing while nothing changes.
pub(crate) struct Monitor {
    socket: AsyncFd<Socket>,
    buffer: Box<[u8]>,
}

impl Monitor {
    /// Must be called within a tokio runtime.
    pub(crate) fn new(groups: u32) -> io::Result<Self> {
        let socket = register(Socket::multicast(groups)?)?;
        Ok(Self { socket, buffer: vec![0; BUFFER_SIZE].into() })
    }

    /// Waits for a notification that `is_relevant` selects; others are dropped.
    ///
    /// Cancel safe: a notification is either still queued or was reported.
    pub(crate) async fn changed(
        &mut self,
        mut is_relevant: impl FnMut(&Received<'_>) -> bool,
    ) -> io::Result<()> {
        loop {
            let mut ready = self.socket.readable().await?;
            match ready.get_inner().receive(&mut self.buffer) {
                Ok(messages) => {
                    // Each message is looked at: the filter may keep notes.
                    if messages.fold(false, |any, message| is_relevant(&message) | any) {
                        return Ok(());
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => ready.clear_ready(),
                // More happened than the queue can hold: something relevant may be among it.
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => return Ok(()),
                Err(error) => return Err(error),
            }
        }
    }
}

/// Turns a burst of changes into one: due when it has been quiet for a while, or has lasted too long.
pub(crate) struct Debounce {
    quiet: Duration,
    limit: Duration,
    burst: Option<Burst>,
}

struct Burst {
    first: Instant,
    last: Instant,
}

impl Debounce {
    pub(crate) fn new(quiet: Duration, limit: Duration) -> Self {
        Self { quiet, limit, burst: None }
    }

    /// Notes a change.
    pub(crate) fn note(&mut self, now: Instant) {
        self.burst.get_or_insert(Burst { first: now, last: now }).last = now;
    }

    /// When the burst is over, if there is one.
    fn deadline(&self) -> Option<Instant> {
        let burst = self.burst.as_ref()?;
        Some((burst.last + self.quiet).min(burst.first + self.limit))
    }

    /// Waits for the end of the burst, for ever if there is none. Cancel safe; ends the burst on return.
    pub(crate) async fn settled(&mut self) {
        match self.deadline() {
            Some(deadline) => tokio::time::sleep_until(deadline).await,
            None => std::future::pending().await,
        }
        self.burst = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_ends_when_it_is_quiet_or_when_it_has_lasted_too_long() {
        let (quiet, limit) = (Duration::from_millis(100), Duration::from_millis(250));
        let start = Instant::now();
        let mut debounce = Debounce::new(quiet, limit);
        assert_eq!(debounce.deadline(), None);

        debounce.note(start);
        assert_eq!(debounce.deadline(), Some(start + quiet));
        debounce.note(start + quiet / 2);
        assert_eq!(debounce.deadline(), Some(start + quiet / 2 + quiet));
        debounce.note(start + quiet * 2);
        assert_eq!(debounce.deadline(), Some(start + limit));
    }
}
