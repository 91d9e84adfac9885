//! One thread of the relay: its sockets, its [`Server`], and the loop between them.
//!
//! It waits for sockets to become readable, reads a bounded number of datagrams from each, asks the server where they
//! go, and sends all of that at the end of the turn, run by run. No packet ever leaves its thread.

mod hairpin;
mod inbox;
mod ports;
mod sender;
mod stats;
mod streams;
mod token;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant, SystemTime};

use connlib_relay::server::{FiveTuple, FromClient, Now, Output, Server, Transport, message_len};
use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};

use self::inbox::Inbox;
use self::ports::Ports;
use self::sender::Sender;
use self::stats::Schedule;
use self::streams::Streams;
use self::token::Token;
use crate::fast_path::FastPath;
use crate::outbox::{Outbox, Via};
use crate::streams::{Listener, Seats};
use crate::udp::{LARGEST_RUN, UdpSocket};

pub(crate) use self::hairpin::Hairpin;
pub(crate) use self::inbox::{Command, Mailbox, inbox};
pub(crate) use self::ports::BindAddresses;
pub(crate) use self::stats::{IoCounters, Snapshot, Stats};

/// Sockets that one turn looks at.
const EVENTS: usize = 64;
/// System calls that one turn reads with at most; the sockets that have something share them.
const READS: usize = 64;
/// What a turn reads into. It fits into a second-level cache, and three of the longest runs into it.
const BUFFER: usize = 256 * 1024;
/// The kernel's buffers of each socket, in each direction.
pub(crate) const SOCKET_BUFFER: usize = 4 << 20;

/// What a worker is made of.
pub(crate) struct Parts {
    pub(crate) server: Server,
    pub(crate) listen: Listen,
    pub(crate) bind: BindAddresses,
    pub(crate) hairpin: Hairpin,
    pub(crate) listeners: Vec<Arc<Listener>>,
    pub(crate) seats: Seats,
    pub(crate) inbox: Inbox,
    /// Of all other workers.
    pub(crate) others: Vec<Mailbox>,
    pub(crate) stats: Arc<Stats>,
    pub(crate) fast_path: FastPath,
    /// How many workers have not drained. All share it.
    pub(crate) undrained: Arc<AtomicUsize>,
}

/// The sockets that clients talk to over UDP, and their addresses.
#[derive(Debug, Default)]
pub(crate) struct Listen {
    pub(crate) v4: Option<(UdpSocket, SocketAddr)>,
    pub(crate) v6: Option<(UdpSocket, SocketAddr)>,
}

impl Listen {
    fn family(&self, is_v4: bool) -> Option<&(UdpSocket, SocketAddr)> {
        if is_v4 { self.v4.as_ref() } else { self.v6.as_ref() }
    }

    /// The socket of the family that `client` has.
    fn socket(&self, client: SocketAddr) -> Option<&UdpSocket> {
        self.family(client.is_ipv4()).map(|(socket, _)| socket)
    }
}

pub(crate) struct Worker {
    server: Server,
    epoll: Epoll,
    listen: Listen,
    ports: Ports,
    streams: Streams,
    hairpin: Hairpin,
    inbox: Inbox,
    others: Vec<Mailbox>,
    outbox: Outbox,
    sender: Sender,
    buffer: Box<[u8]>,
    /// Where the next datagram goes in the buffer. What is before it waits to be sent.
    cursor: usize,
    now: Now,
    counters: IoCounters,
    stats: Arc<Stats>,
    schedule: Schedule,
    fast_path: FastPath,
    undrained: Arc<AtomicUsize>,
    draining: Draining,
    is_stopped: bool,
}

/// How far a worker has come with its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Draining {
    No,
    /// It has allocations left.
    Begun,
    /// It has none, and gets none any more.
    Done,
}

impl Worker {
    /// # Errors
    /// If the kernel does not watch the sockets.
    pub(crate) fn new(parts: Parts) -> io::Result<Self> {
        let now = read_clocks();
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        epoll.add(&parts.inbox, EpollEvent::new(EpollFlags::EPOLLIN, Token::Inbox.into()))?;
        for is_v4 in [true, false] {
            if let Some((socket, _)) = parts.listen.family(is_v4) {
                let token = Token::Listen { is_v4 }.into();
                epoll.add(socket, EpollEvent::new(EpollFlags::EPOLLIN, token))?;
            }
        }
        let streams = Streams::new(parts.listeners, parts.seats, now.instant);
        streams.listen(&epoll)?;
        Ok(Self {
            server: parts.server,
            epoll,
            listen: parts.listen,
            ports: Ports::new(parts.bind, SOCKET_BUFFER),
            streams,
            hairpin: parts.hairpin,
            inbox: parts.inbox,
            others: parts.others,
            outbox: Outbox::new(),
            sender: Sender::default(),
            buffer: vec![0; BUFFER].into(),
            cursor: 0,
            now,
            counters: IoCounters::default(),
            stats: parts.stats,
            schedule: Schedule::default(),
            fast_path: parts.fast_path,
            undrained: parts.undrained,
            draining: Draining::No,
            is_stopped: false,
        })
    }

    /// Works until it is told to stop, or to drain and no worker has anything left.
    ///
    /// # Errors
    /// If the kernel does not say any more which sockets are readable.
    pub(crate) fn run(mut self) -> io::Result<()> {
        let mut events = [EpollEvent::empty(); EVENTS];
        let mut deadline = self.obey_server();
        loop {
            let timeout = self.timeout(deadline);
            let ready = match self.epoll.wait(&mut events, timeout) {
                Ok(ready) => ready,
                Err(Errno::EINTR) => 0,
                Err(error) => return Err(error.into()),
            };
            self.now = read_clocks();
            if let Some(share) = READS.checked_div(ready) {
                self.schedule.touch(self.now.instant);
                for event in &events[..ready] {
                    if let Ok(token) = Token::try_from(event.data()) {
                        self.handle(token, event.events(), share.max(1));
                    }
                }
            }
            self.send_gathered();
            if deadline.is_some_and(|at| at <= self.now.instant) {
                self.server.handle_timeout(self.now.instant);
                self.schedule.touch(self.now.instant);
            }
            self.sweep_streams();
            deadline = self.obey_server();
            self.note_drained();
            self.publish();
            if self.is_stopped {
                return Ok(());
            }
        }
    }

    /// A worker that has nothing left waits for the others: were its sockets closed, the kernel would spread what comes
    /// over those that are left, in another way than before. The last one ends them all.
    fn note_drained(&mut self) {
        if self.draining != Draining::Begun || self.server.allocations() > 0 {
            return;
        }
        self.draining = Draining::Done;
        if self.undrained.fetch_sub(1, Ordering::Relaxed) == 1 {
            self.others.iter().for_each(|other| other.send(Command::Stop));
            self.is_stopped = true;
        }
    }

    fn handle(&mut self, token: Token, flags: EpollFlags, share: usize) {
        match token {
            Token::Inbox => self.obey_commands(),
            Token::Listen { is_v4 } => self.read_clients(is_v4, share),
            Token::Relay { slot, is_v4 } => self.read_peers(slot, is_v4, share),
            Token::Listener { index } => {
                let Self { streams, server, epoll, now, counters, .. } = self;
                streams.accept(epoll, index, now.instant, counters, server);
            }
            Token::Stream { slot } => {
                if flags.contains(EpollFlags::EPOLLOUT) {
                    self.streams.writable(slot);
                }
                self.read_stream(slot, share);
            }
        }
    }

    fn obey_commands(&mut self) {
        self.inbox.awake();
        while let Some(command) = self.inbox.next() {
            match command {
                Command::UsernameMoved(moved) => self.server.handle_username_moved(&moved),
                Command::OwnAddresses(addresses) => self.server.handle_own_addresses(&addresses),
                Command::Drain if self.draining != Draining::No => {}
                Command::Drain => {
                    self.draining = Draining::Begun;
                    self.server.drain();
                    self.streams.stop_listening(&self.epoll);
                }
                Command::Stop => self.is_stopped = true,
            }
        }
    }

    /// Datagrams of clients.
    fn read_clients(&mut self, is_v4: bool, share: usize) {
        for _ in 0..share {
            self.make_room(LARGEST_RUN);
            let Some((socket, local)) = self.listen.family(is_v4) else { return };
            let run = match socket.receive(&mut self.buffer[self.cursor..]) {
                Ok(run) => run,
                Err(error) => return log_receive_error(&error),
            };
            let client = FiveTuple { transport: Transport::Udp, remote: run.from, local: *local };
            let end = self.cursor + run.length;
            let mut start = self.cursor;
            self.counters.received.calls += 1;
            while start < end {
                let message = start..end.min(start + run.segment_size);
                start = message.end;
                self.counters.received.datagrams += 1;
                self.handle_message(client, message, run.ecn);
            }
            if !self.outbox.is_empty() {
                self.cursor = end;
            }
        }
    }

    /// A message of a client, by its place in the buffer.
    fn handle_message(&mut self, client: FiveTuple, place: std::ops::Range<usize>, ecn: u8) {
        let message = &self.buffer[place];
        let FromClient::Forward(to_peer) = self.server.handle_client(client, message, self.now)
        else {
            return;
        };
        let start = to_peer.payload.as_ptr().addr() - self.buffer.as_ptr().addr();
        let payload = start..start + to_peer.payload.len();
        let (slot, peer) = (to_peer.allocation.slot(), self.hairpin.towards(to_peer.peer));
        self.outbox.push(Via::Relay(slot), peer, ecn, None, payload, 0);
        if self.outbox.is_full() {
            self.send_outbox();
        }
    }

    /// Datagrams of peers.
    fn read_peers(&mut self, slot: usize, is_v4: bool, share: usize) {
        for _ in 0..share {
            self.make_room(LARGEST_RUN);
            let Some(port) = self.ports.at(slot) else { return };
            let Some(socket) = port.family(is_v4) else { return };
            let run = match socket.receive(&mut self.buffer[self.cursor..]) {
                Ok(run) => run,
                Err(error) => return log_receive_error(&error),
            };
            let (allocation, peer) = (port.allocation, self.hairpin.from(run.from));
            let end = self.cursor + run.length;
            let mut start = self.cursor;
            self.counters.received.calls += 1;
            // An empty datagram is relayed as well.
            loop {
                let payload = start..end.min(start + run.segment_size);
                start = payload.end;
                self.counters.received.datagrams += 1;
                if let Some(out) = self.server.handle_peer(allocation, peer, payload.len()) {
                    let client = out.client;
                    if client.transport.is_stream() {
                        let payload = &self.buffer[payload];
                        let parts = [out.prefix.as_bytes(), payload, &[0; 3][..out.padding]];
                        self.streams.push(client, &parts, &mut self.counters);
                    } else {
                        let prefix = Some(out.prefix);
                        self.outbox.push(
                            Via::Listen,
                            client.remote,
                            run.ecn,
                            prefix,
                            payload,
                            out.padding,
                        );
                        if self.outbox.is_full() {
                            self.send_outbox();
                        }
                    }
                }
                if start >= end {
                    break;
                }
            }
            if !self.outbox.is_empty() {
                self.cursor = end;
            }
        }
    }

    /// Bytes of a client's stream.
    fn read_stream(&mut self, slot: usize, share: usize) {
        for _ in 0..share {
            // The beginning of a message, and what one call reads.
            self.make_room(2 * LARGEST_RUN);
            let room = &mut self.buffer[self.cursor..self.cursor + 2 * LARGEST_RUN];
            let messages = match self.streams.read(slot, room) {
                Ok(Some(messages)) => messages,
                Ok(None) => return,
                Err(error) => {
                    tracing::trace!(%error, "a stream ended");
                    return self.close_stream(slot);
                }
            };
            let mut start = self.cursor;
            let end = start + messages.length;
            let has_length = |bytes: &[u8]| {
                message_len(bytes).map(|length| length.filter(|length| *length <= bytes.len()))
            };
            let result = loop {
                match has_length(&self.buffer[start..end]) {
                    Ok(Some(length)) => {
                        self.handle_message(messages.client, start..start + length, 0);
                        start += length;
                    }
                    Ok(None) => break self.streams.keep(slot, &self.buffer[start..end]),
                    Err(error) => break Err(error),
                }
            };
            if start > self.cursor {
                self.streams.heard(slot);
            }
            if let Err(error) = result {
                tracing::debug!(%error, "a stream was closed");
                self.counters.streams_failed += 1;
                return self.close_stream(slot);
            }
            if !self.outbox.is_empty() {
                self.cursor = end;
            }
        }
    }

    fn close_stream(&mut self, slot: usize) {
        self.streams.close(slot, &mut self.server);
    }

    /// Sends what was gathered if there is no room for `bytes` more.
    fn make_room(&mut self, bytes: usize) {
        if self.buffer.len() - self.cursor < bytes {
            self.send_outbox();
            self.cursor = 0;
        }
    }

    /// Sends the datagrams that were gathered. What they are in stays where it is.
    fn send_outbox(&mut self) {
        let Self { sender, outbox, buffer, listen, ports, counters, .. } = self;
        sender.flush(outbox, buffer, listen, ports, counters);
    }

    fn send_gathered(&mut self) {
        self.send_outbox();
        self.cursor = 0;
        self.flush_streams();
    }

    fn flush_streams(&mut self) {
        let Self { streams, server, epoll, now, .. } = self;
        streams.flush(epoll, now.instant, server);
    }

    fn sweep_streams(&mut self) {
        let Self { streams, server, epoll, now, counters, .. } = self;
        streams.sweep(epoll, now.instant, counters, server);
    }

    /// Does what the server wants done. Says when it wants to be asked again.
    ///
    /// Nothing may be gathered: a socket that is closed here could be one to send through.
    fn obey_server(&mut self) -> Option<Instant> {
        loop {
            match self.server.poll_output() {
                Output::Send { client, bytes } => self.send_to_client(client, &bytes),
                Output::OpenPort { allocation, port, families } => {
                    let result = self.ports.open(&self.epoll, allocation, port, families);
                    if result.is_ok() {
                        self.fast_path.add_port(port, families);
                    }
                    self.server.handle_port_opened(allocation, result, self.now.instant);
                }
                Output::ClosePort { allocation, port, families } => {
                    if self.ports.has(allocation) {
                        // Before another worker can have the port.
                        self.fast_path.remove_port(port, families);
                        self.ports.close(allocation, families);
                    }
                }
                Output::ChannelBound(binding) => self.fast_path.bind(&binding),
                Output::ChannelUnbound(binding) => self.fast_path.unbind(&binding),
                Output::UsernameMoved(moved) => {
                    for other in &self.others {
                        if !other.offer(Command::UsernameMoved(moved.clone())) {
                            tracing::debug!("an old allocation was left to expire");
                        }
                    }
                }
                Output::Timeout(at) => {
                    self.flush_streams();
                    return at;
                }
            }
        }
    }

    fn send_to_client(&mut self, client: FiveTuple, bytes: &[u8]) {
        if client.transport.is_stream() {
            self.streams.push(client, &[bytes], &mut self.counters);
        } else if let Some(socket) = self.listen.socket(client.remote) {
            let result = socket.send(client.remote, 0, None, &[io::IoSlice::new(bytes)]);
            sender::count(result, 1, &mut self.counters);
        }
    }

    fn timeout(&self, server: Option<Instant>) -> EpollTimeout {
        let due = [server, self.schedule.due(), self.streams.due()].into_iter().flatten().min();
        let Some(due) = due else { return EpollTimeout::NONE };
        let wait = due.saturating_duration_since(Instant::now());
        if wait.is_zero() {
            return EpollTimeout::ZERO;
        }
        // Rounded up: too early would be a turn for nothing.
        let wait = wait.min(Duration::from_secs(3600)) + Duration::from_millis(1);
        EpollTimeout::try_from(wait).unwrap_or(EpollTimeout::MAX)
    }

    fn publish(&mut self) {
        if self.schedule.take(self.now.instant) || self.is_stopped {
            self.stats.publish(Snapshot {
                server: self.server.counters().clone(),
                allocations: self.server.allocations(),
                channels: self.server.channels(),
                streams: self.streams.count(),
                io: self.counters,
            });
        }
    }
}

fn read_clocks() -> Now {
    let since_1970 = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    Now {
        instant: Instant::now(),
        unix_seconds: since_1970.map_or(0, |since_1970| since_1970.as_secs()),
    }
}

fn log_receive_error(error: &io::Error) {
    if error.kind() != io::ErrorKind::WouldBlock {
        tracing::trace!(%error, "a datagram was not received");
    }
}
