//! The streams of one worker.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use connlib_relay::server::{FiveTuple, NotAMessage, Server, Transport, message_len};
use nix::sys::epoll::{Epoll, EpollEvent, EpollFlags};

use super::stats::IoCounters;
use super::token::Token;
use crate::streams::{Connection, Listener, Seat, Seats, Secrecy};

/// A client has said something that makes sense by then, its TLS handshake included.
const PATIENCE: Duration = Duration::from_secs(10);
/// A connection without an allocation is closed after so long, whatever is said on it: anybody can say something.
const STRANGER: Duration = Duration::from_secs(20);
/// A client that takes nothing of what waits for it is gone.
const STUCK: Duration = Duration::from_secs(30);
/// How often deadlines are looked at.
const SWEEP: Duration = Duration::from_secs(5);
/// How long nothing is accepted after a failure. The listener stays readable: asking again at once would never end.
const PAUSE: Duration = Duration::from_secs(1);
/// Connections that are accepted in one turn at most.
const ACCEPTS: usize = 16;
/// The longest message of a client without an allocation: so much is kept of a message that has not come to its end.
const LONGEST_STRANGER: usize = 4096;

/// Success response to Allocate (RFC 8489 §5: class 2, method 3).
const ALLOCATED: [u8; 2] = [0x01, 0x03];

#[derive(Debug)]
pub(super) struct Streams {
    listeners: Vec<Arc<Listener>>,
    seats: Seats,
    slots: Vec<Option<Stream>>,
    free: Vec<usize>,
    count: usize,
    accepted: u64,
    /// Those that have something to send.
    waiting: Vec<usize>,
    next_sweep: Instant,
    paused_until: Option<Instant>,
}

#[derive(Debug)]
struct Stream {
    connection: Connection,
    client: FiveTuple,
    has_spoken: bool,
    /// Since when there is no allocation.
    stranger_since: Option<Instant>,
    /// Since when nothing of what waits was taken.
    stuck_since: Option<Instant>,
    is_waiting: bool,
    watches_writing: bool,
    _seat: Seat,
}

/// What [`Streams::read`] found.
pub(super) struct Messages {
    pub(super) client: FiveTuple,
    /// Bytes at the front of the buffer.
    pub(super) length: usize,
}

impl Streams {
    pub(super) fn new(listeners: Vec<Arc<Listener>>, seats: Seats, now: Instant) -> Self {
        Self {
            listeners,
            seats,
            slots: Vec::new(),
            free: Vec::new(),
            count: 0,
            accepted: 0,
            waiting: Vec::new(),
            next_sweep: now,
            paused_until: None,
        }
    }

    /// Watches the listeners. Of all workers that do, one wakes up for a connection.
    pub(super) fn listen(&self, epoll: &Epoll) -> io::Result<()> {
        for (index, listener) in self.listeners.iter().enumerate() {
            let flags = EpollFlags::EPOLLIN | EpollFlags::EPOLLEXCLUSIVE;
            epoll.add(listener, EpollEvent::new(flags, Token::Listener { index }.into()))?;
        }
        Ok(())
    }

    /// Takes no more connections.
    pub(super) fn stop_listening(&mut self, epoll: &Epoll) {
        // Other workers may still share the sockets, so that dropping them is not enough.
        self.unwatch_listeners(epoll);
        self.listeners.clear();
    }

    fn unwatch_listeners(&self, epoll: &Epoll) {
        for listener in &self.listeners {
            if let Err(error) = epoll.delete(listener) {
                tracing::debug!(%error, "a listener was not watched");
            }
        }
    }

    pub(super) fn count(&self) -> usize {
        self.count
    }

    pub(super) fn accept(
        &mut self,
        epoll: &Epoll,
        index: usize,
        now: Instant,
        io: &mut IoCounters,
        server: &mut Server,
    ) {
        let Some(listener) = self.listeners.get(index).map(Arc::clone) else { return };
        for _ in 0..ACCEPTS {
            let (stream, remote) = match listener.accept() {
                Ok(accepted) => accepted,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => continue,
                Err(error) => {
                    // Too many open files, most likely.
                    tracing::debug!(%error, "no connections are accepted for a while");
                    self.unwatch_listeners(epoll);
                    self.paused_until = Some(now + PAUSE);
                    return;
                }
            };
            let Some(seat) = self.take_seat(remote.ip(), now, server) else {
                io.streams_refused += 1;
                continue;
            };
            let secrecy = match &listener.certificates {
                Some(certificates) => Secrecy::Tls(certificates.current()),
                None => Secrecy::Plain,
            };
            let local = stream.local_addr();
            let connection = Connection::new(stream, secrecy).map_err(io::Error::other);
            let added = local.and_then(|local| {
                connection
                    .and_then(|connection| self.add(epoll, connection, remote, local, seat, now))
            });
            match added {
                Ok(()) => io.streams_accepted += 1,
                Err(error) => tracing::debug!(%error, "a connection was given up"),
            }
        }
    }

    /// A seat for a newcomer, that of the oldest stranger if all are taken.
    fn take_seat(&mut self, from: IpAddr, now: Instant, server: &mut Server) -> Option<Seat> {
        if self.seats.are_all_taken() {
            let strangers = self.slots.iter().enumerate().filter_map(|(slot, stream)| {
                stream.as_ref()?.stranger_since.map(|since| (since, slot))
            });
            if let Some((_, slot)) = strangers.min() {
                self.close(slot, server);
            }
        }
        self.seats.take(from, now)
    }

    fn add(
        &mut self,
        epoll: &Epoll,
        connection: Connection,
        remote: SocketAddr,
        local: SocketAddr,
        seat: Seat,
        now: Instant,
    ) -> io::Result<()> {
        let slot = self.free.last().copied().unwrap_or(self.slots.len());
        epoll.add(
            &connection,
            EpollEvent::new(EpollFlags::EPOLLIN, Token::Stream { slot }.into()),
        )?;
        self.accepted += 1;
        // The number of the connection, never used again, and where it is.
        let transport = Transport::Stream(self.accepted << 32 | slot as u64);
        let stream = Stream {
            connection,
            client: FiveTuple { transport, remote, local },
            has_spoken: false,
            stranger_since: Some(now),
            stuck_since: None,
            is_waiting: false,
            watches_writing: false,
            _seat: seat,
        };
        if self.free.pop().is_some() {
            self.slots[slot] = Some(stream);
        } else {
            self.slots.push(Some(stream));
        }
        if self.count == 0 {
            self.next_sweep = now + SWEEP;
        }
        self.count += 1;
        Ok(())
    }

    /// Reads once from the socket to the front of `buffer`. `Ok(None)`: nothing is there.
    ///
    /// # Errors
    /// The connection is over.
    pub(super) fn read(&mut self, slot: usize, buffer: &mut [u8]) -> io::Result<Option<Messages>> {
        let Some(stream) = self.slots.get_mut(slot).and_then(Option::as_mut) else {
            return Ok(None);
        };
        let result = stream.connection.read(buffer);
        // A handshake has answers of its own.
        if !stream.is_waiting {
            stream.is_waiting = true;
            self.waiting.push(slot);
        }
        match result {
            Ok(length) => Ok(Some(Messages { client: stream.client, length })),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {
                Ok(Some(Messages { client: stream.client, length: 0 }))
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Keeps what is left of [`read`](Self::read) bytes after all whole messages.
    ///
    /// # Errors
    /// It begins no message, or one that is longer than a stranger may send.
    pub(super) fn keep(&mut self, slot: usize, partial: &[u8]) -> Result<(), NotAMessage> {
        let Some(stream) = self.slots.get_mut(slot).and_then(Option::as_mut) else {
            return Ok(());
        };
        if let Some(length) = message_len(partial)?
            && length > LONGEST_STRANGER
            && stream.stranger_since.is_some()
        {
            return Err(NotAMessage);
        }
        stream.connection.keep(partial);
        Ok(())
    }

    /// Whole messages came. A part of one doesn't count: time goes on for those who send a byte now and then.
    pub(super) fn heard(&mut self, slot: usize) {
        if let Some(stream) = self.slots.get_mut(slot).and_then(Option::as_mut) {
            stream.has_spoken = true;
        }
    }

    /// Hands a message to a client. It is sent with the next [`flush`](Self::flush).
    pub(super) fn push(&mut self, client: FiveTuple, parts: &[&[u8]], io: &mut IoCounters) {
        let Transport::Stream(number) = client.transport else { return };
        let slot = (number & u64::from(u32::MAX)) as usize;
        let stream = self.slots.get_mut(slot).and_then(Option::as_mut);
        let Some(stream) = stream.filter(|stream| stream.client.transport == client.transport)
        else {
            io.stream_gone += 1;
            return;
        };
        if !stream.connection.push(parts) {
            io.stream_full += 1;
            return;
        }
        if parts.first().is_some_and(|part| part.starts_with(&ALLOCATED)) {
            stream.stranger_since = None;
        }
        if !stream.is_waiting {
            stream.is_waiting = true;
            self.waiting.push(slot);
        }
    }

    /// Sends what waits, and closes connections that break.
    pub(super) fn flush(&mut self, epoll: &Epoll, now: Instant, server: &mut Server) {
        while let Some(slot) = self.waiting.pop() {
            if let Err(error) = self.flush_one(epoll, slot, now) {
                tracing::debug!(%error, "a connection broke");
                self.close(slot, server);
            }
        }
    }

    fn flush_one(&mut self, epoll: &Epoll, slot: usize, now: Instant) -> io::Result<()> {
        let Some(stream) = self.slots.get_mut(slot).and_then(Option::as_mut) else { return Ok(()) };
        stream.is_waiting = false;
        let before = stream.connection.unsent();
        let is_done = stream.connection.flush()?;
        stream.stuck_since = match stream.stuck_since {
            _ if is_done => None,
            Some(since) if stream.connection.unsent() >= before => Some(since),
            _ => Some(now),
        };
        if stream.watches_writing == is_done {
            stream.watches_writing = !is_done;
            let mut flags = EpollFlags::EPOLLIN;
            flags.set(EpollFlags::EPOLLOUT, stream.watches_writing);
            epoll.modify(
                &stream.connection,
                &mut EpollEvent::new(flags, Token::Stream { slot }.into()),
            )?;
        }
        Ok(())
    }

    /// The socket may take more.
    pub(super) fn writable(&mut self, slot: usize) {
        if let Some(stream) = self.slots.get_mut(slot).and_then(Option::as_mut)
            && !stream.is_waiting
        {
            stream.is_waiting = true;
            self.waiting.push(slot);
        }
    }

    /// Closes a connection; the server ends its allocation.
    pub(super) fn close(&mut self, slot: usize, server: &mut Server) {
        if let Some(mut stream) = self.slots.get_mut(slot).and_then(Option::take) {
            stream.connection.close();
            self.free.push(slot);
            self.count -= 1;
            server.handle_stream_closed(stream.client);
        }
    }

    /// When to [sweep](Self::sweep) next, if at all.
    pub(super) fn due(&self) -> Option<Instant> {
        let sweep = (self.count > 0).then_some(self.next_sweep);
        [sweep, self.paused_until].into_iter().flatten().min()
    }

    /// Closes the connections whose time is over, and listens again after a pause.
    pub(super) fn sweep(
        &mut self,
        epoll: &Epoll,
        now: Instant,
        io: &mut IoCounters,
        server: &mut Server,
    ) {
        if self.paused_until.is_some_and(|until| until <= now) {
            self.paused_until = None;
            if let Err(error) = self.listen(epoll) {
                tracing::debug!(%error, "still no connections are accepted");
                self.unwatch_listeners(epoll);
                self.paused_until = Some(now + PAUSE);
            }
        }
        if self.count == 0 || self.next_sweep > now {
            return;
        }
        self.next_sweep = now + SWEEP;
        for slot in 0..self.slots.len() {
            let Some(stream) = &mut self.slots[slot] else { continue };
            stream.connection.shrink();
            if stream.stranger_since.is_none() && !server.has_allocation(&stream.client) {
                stream.stranger_since = Some(now);
            }
            let patience = if stream.has_spoken { STRANGER } else { PATIENCE };
            let is_stranger = stream.stranger_since.is_some_and(|since| now >= since + patience);
            let is_stuck = stream.stuck_since.is_some_and(|since| now >= since + STUCK);
            if is_stranger || is_stuck {
                io.streams_failed += 1;
                self.close(slot, server);
            }
        }
    }
}
