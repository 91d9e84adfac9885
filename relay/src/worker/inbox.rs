//! What others tell a worker: rare, and never about a packet.

use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use connlib_relay::server::UsernameMoved;
use nix::sys::eventfd::{EfdFlags, EventFd};

/// Commands that wait at most.
const CAPACITY: usize = 1024;

#[derive(Debug, Clone)]
pub(crate) enum Command {
    /// Another worker has a newer allocation of a username.
    UsernameMoved(UsernameMoved),
    /// This machine has other addresses than it had: these.
    OwnAddresses(Arc<[IpAddr]>),
    /// No new allocations; end when there is none left.
    Drain,
    /// End now.
    Stop,
}

/// The sending end.
#[derive(Debug, Clone)]
pub(crate) struct Mailbox {
    commands: SyncSender<Command>,
    waker: Arc<EventFd>,
}

/// The receiving end.
#[derive(Debug)]
pub(crate) struct Inbox {
    commands: Receiver<Command>,
    waker: Arc<EventFd>,
}

pub(crate) fn inbox() -> io::Result<(Mailbox, Inbox)> {
    let waker = EventFd::from_flags(EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC)?;
    let waker = Arc::new(waker);
    let (sender, receiver) = sync_channel(CAPACITY);
    let mailbox = Mailbox { commands: sender, waker: Arc::clone(&waker) };
    Ok((mailbox, Inbox { commands: receiver, waker }))
}

impl Mailbox {
    /// Leaves a command if there is room, and says whether there was.
    pub(crate) fn offer(&self, command: Command) -> bool {
        let is_taken = self.commands.try_send(command).is_ok();
        self.wake();
        is_taken
    }

    /// Leaves a command, for which it waits if need be. A worker that has ended needs none.
    pub(crate) fn send(&self, command: Command) {
        let _ = self.commands.send(command);
        self.wake();
    }

    fn wake(&self) {
        // It fails only if more than 2^64 wake-ups wait.
        let _ = self.waker.write(1);
    }
}

impl Inbox {
    /// Takes back the wake-up. Before the commands are looked at, so that none is overlooked.
    pub(crate) fn awake(&self) {
        let _ = self.waker.read();
    }

    pub(crate) fn next(&self) -> Option<Command> {
        self.commands.try_recv().ok()
    }
}

impl AsFd for Inbox {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.waker.as_fd()
    }
}
