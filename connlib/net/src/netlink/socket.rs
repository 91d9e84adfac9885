//! A netlink socket that carries out one request after the other.
//!
//! The kernel executes a request inside `send` and has queued the whole answer (of a dump: its first part) when `send`
//! returns. Nothing here ever waits, so these calls are plain functions and not futures, and a `&mut` socket is all it
//! takes to serialise them.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};

use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, getsockname,
    recv, send, socket,
};

use super::message::{Attributes, DUMP, DUMP_INTERRUPTED, Message, Received, messages};
use crate::readiness::Owner;

/// The kernel fills dump datagrams up to this size if the reader's buffer has it.
pub(crate) const BUFFER_SIZE: usize = 32 * 1024;

/// A table that changes during a dump is listed again this many times.
const DUMP_ATTEMPTS: usize = 4;

/// A netlink socket bound in the network namespace of the thread that opened it.
pub(crate) struct Socket {
    fd: OwnedFd,
    port: u32,
    sequence: u32,
    /// Allocated by the first request.
    buffer: Vec<u8>,
}

impl Socket {
    /// Opens a socket for links, addresses, routes and rules.
    pub(crate) fn route() -> io::Result<Self> {
        let socket = Self::open(SockProtocol::NetlinkRoute, 0)?;
        // Lets the kernel filter dumps. Kernels before 4.20 list everything, which is only slower:
        // whoever reads a dump checks each object anyway.
        let _ = set_strict_check(&socket.fd);
        Ok(socket)
    }

    /// Opens a socket for nf_tables.
    pub(crate) fn netfilter() -> io::Result<Self> {
        Self::open(SockProtocol::NetlinkNetFilter, 0)
    }

    /// Opens a socket that hears of changes in these route groups (a mask, group `n` at bit `n - 1`).
    pub(crate) fn multicast(groups: u32) -> io::Result<Self> {
        Self::open(SockProtocol::NetlinkRoute, groups)
    }

    fn open(protocol: SockProtocol, groups: u32) -> io::Result<Self> {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let fd = socket(AddressFamily::Netlink, SockType::Raw, flags, protocol)?;
        bind(fd.as_raw_fd(), &NetlinkAddr::new(0, groups))?;
        let port = getsockname::<NetlinkAddr>(fd.as_raw_fd())?.pid();
        Ok(Self { fd, port, sequence: 0, buffer: Vec::new() })
    }

    /// A socket of another kind.
    #[cfg(test)]
    pub(crate) fn of(fd: OwnedFd) -> Self {
        Self { fd, port: 0, sequence: 0, buffer: Vec::new() }
    }

    /// The number by which notifications name this socket as their cause.
    pub(crate) fn port(&self) -> u32 {
        self.port
    }

    /// Carries out one request that asks for a confirmation (`NLM_F_ACK`); `each` sees what comes before it.
    pub(crate) fn request(
        &mut self,
        message: Message,
        each: impl FnMut(&Received<'_>),
    ) -> io::Result<()> {
        let sequence = self.send_all([message])?;
        self.receive_until(sequence, each)
    }

    /// Lists the objects that `parse` accepts, as they were at one moment.
    pub(crate) fn dump<T>(
        &mut self,
        kind: u16,
        header: &[u8],
        attributes: &Attributes,
        mut parse: impl FnMut(&Received<'_>) -> Option<T>,
    ) -> io::Result<Vec<T>> {
        for _ in 0..DUMP_ATTEMPTS {
            let mut objects = Vec::new();
            let mut consistent = true;
            let request = Message::new(kind, DUMP, header, attributes);
            let sequence = self.send_all([request])?;
            self.receive_until(sequence, |message| {
                consistent &= message.flags & DUMP_INTERRUPTED == 0;
                objects.extend(parse(message));
            })?;
            if consistent {
                return Ok(objects);
            }
        }
        Err(io::ErrorKind::ResourceBusy.into())
    }

    /// Sends messages that belong together and returns the sequence number of the first.
    ///
    /// Answers are left in the queue for [`Socket::receive`].
    pub(crate) fn send_all(
        &mut self,
        messages: impl IntoIterator<Item = Message>,
    ) -> io::Result<u32> {
        let first = self.sequence.wrapping_add(1);
        let mut bytes = Vec::new();
        for message in messages {
            self.sequence = self.sequence.wrapping_add(1);
            bytes.extend(message.into_bytes(self.sequence));
        }
        send(self.fd.as_raw_fd(), &bytes, MsgFlags::empty())?;
        Ok(first)
    }

    /// Reads one datagram; `WouldBlock` if the kernel has nothing more to say.
    pub(crate) fn receive<'a>(
        &self,
        buffer: &'a mut [u8],
    ) -> io::Result<impl Iterator<Item = Received<'a>> + use<'a>> {
        let len = recv(self.fd.as_raw_fd(), buffer, MsgFlags::empty())?;
        Ok(messages(&buffer[..len]))
    }

    /// Reads up to the end of the answer to request `sequence`.
    fn receive_until(
        &mut self,
        sequence: u32,
        mut each: impl FnMut(&Received<'_>),
    ) -> io::Result<()> {
        self.buffer.resize(BUFFER_SIZE, 0);
        loop {
            let len = recv(self.fd.as_raw_fd(), &mut self.buffer, MsgFlags::empty())?;
            // What is left of the answer to an earlier request is skipped by its number.
            for message in messages(&self.buffer[..len]).filter(|m| m.sequence == sequence) {
                if let Some(outcome) = message.outcome() {
                    return outcome;
                }
                if message.kind == libc::NLMSG_DONE as u16 {
                    return Ok(());
                }
                each(&message);
            }
        }
    }
}

impl Owner for Socket {}

impl AsRawFd for Socket {
    fn as_raw_fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }
}

fn set_strict_check(fd: &OwnedFd) -> io::Result<()> {
    let on: libc::c_int = 1;
    // SAFETY: the pointer and the length describe `on`, which outlives the call.
    let result = unsafe {
        libc::setsockopt(
            fd.as_raw_fd(),
            libc::SOL_NETLINK,
            libc::NETLINK_GET_STRICT_CHK,
            (&raw const on).cast(),
            size_of_val(&on) as libc::socklen_t,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
