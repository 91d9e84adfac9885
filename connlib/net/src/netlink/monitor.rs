//! Notifications from the kernel, gathered until they calm down.

use std::io;
use std::time::Duration;

use tokio::io::unix::AsyncFd;
use tokio::time::Instant;

use super::message::Received;
use super::socket::{BUFFER_SIZE, Socket};
use crate::readiness::register;
use crate::retry::Retry;

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
    groups: u32,
    /// `None`: it failed, and is due to be replaced.
    socket: Option<AsyncFd<Socket>>,
    retry: Retry,
    buffer: Box<[u8]>,
}

impl Monitor {
    /// Must be called within a tokio runtime.
    pub(crate) fn new(groups: u32) -> io::Result<Self> {
        let socket = Some(listen(groups)?);
        Ok(Self { groups, socket, retry: Retry::default(), buffer: vec![0; BUFFER_SIZE].into() })
    }

    /// Waits for a notification that `is_relevant` selects; others are dropped. Where some may have been missed, that
    /// counts as one: whoever listens is to look at everything.
    ///
    /// Cancel safe: a notification is either still queued or was reported.
    pub(crate) async fn changed(&mut self, mut is_relevant: impl FnMut(&Received<'_>) -> bool) {
        loop {
            let Some(socket) = &self.socket else {
                self.retry.due().await;
                if self.renew() {
                    return;
                }
                continue;
            };
            match hear(socket, &mut self.buffer, &mut is_relevant).await {
                Ok(any) => {
                    self.retry.succeeded();
                    if any {
                        return;
                    }
                }
                Err(error) => {
                    tracing::info!(%error, "cannot hear of changes of the network, trying again");
                    self.socket = None;
                    self.retry.later();
                }
            }
        }
    }

    /// Listens anew. Whether that is possible.
    fn renew(&mut self) -> bool {
        match listen(self.groups) {
            Ok(socket) => self.socket = Some(socket),
            Err(error) => {
                tracing::debug!(%error, "cannot listen to changes of the network");
                self.retry.later();
            }
        }
        self.socket.is_some()
    }
}

fn listen(groups: u32) -> io::Result<AsyncFd<Socket>> {
    register(Socket::multicast(groups)?)
}

/// Waits for notifications. Whether a relevant one is among them.
async fn hear(
    socket: &AsyncFd<Socket>,
    buffer: &mut [u8],
    mut is_relevant: impl FnMut(&Received<'_>) -> bool,
) -> io::Result<bool> {
    loop {
        let mut ready = socket.readable().await?;
        match ready.get_inner().receive(buffer) {
            // Each message is looked at: the filter may keep notes.
            Ok(messages) => {
                return Ok(messages.fold(false, |any, message| is_relevant(&message) | any));
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => ready.clear_ready(),
            // More happened than the queue can hold: something relevant may be among it.
            Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => return Ok(true),
            Err(error) => return Err(error),
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
    use std::process::Command;

    use nix::sched::{CloneFlags, unshare};

    use super::*;

    /// Readable, and no socket.
    fn broken() -> Socket {
        let (reader, _) = io::pipe().unwrap();
        Socket::of(reader.into())
    }

    fn ip(arguments: &str) {
        assert!(Command::new("ip").args(arguments.split(' ')).status().unwrap().success());
    }

    #[test]
    fn it_listens_again_after_a_failure_and_says_that_something_was_missed() {
        // A thread of its own goes with its network.
        let thread = std::thread::spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET).expect("this test must be run as root");
            ip("link set lo up");
            let mut builder = tokio::runtime::Builder::new_current_thread();
            builder.enable_all().start_paused(true).build().unwrap().block_on(async {
                let mut monitor = Monitor::new(groups([libc::RTNLGRP_LINK])).unwrap();
                for _ in 0..3 {
                    monitor.socket = Some(register(broken()).unwrap());
                    monitor.changed(|_| false).await;
                    ip("link set lo mtu 9000");
                    ip("link set lo mtu 65536");
                    let mut seen = 0;
                    monitor
                        .changed(|_| {
                            seen += 1;
                            true
                        })
                        .await;
                    assert!(seen > 0);
                }
            });
        });
        thread.join().unwrap();
    }

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
