//! Streams to relays (RFC 8656 §2.1), for networks that let no datagrams through.
//!
//! There are no tasks: bytes move while somebody waits in [`Streams::ready`] or [`Streams::flush`]. Buffers are allocated
//! once for each stream.

mod buffer;
mod connect;
#[cfg(test)]
mod tests;

use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use connlib_link::{Path, StreamRequest, StreamServer};
use connlib_net::udp;
use connlib_stun::{CHANNEL_HEADER, message_len, padding};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use buffer::Buffer;
use connect::{Connected, Connecting, Transport};

pub(crate) use connect::Connector;

/// More than a node asks for.
const MAX_STREAMS: usize = 32;

/// The longest message is channel data or, by a bit, STUN.
const LONGEST: usize = CHANNEL_HEADER + 65_536 + 16;

/// Room for a super-packet and some: more would only be latency. What does not fit is dropped, as a router would.
const OUTBOX: usize = 104 * 1024;

/// What of it is not for packets: a stream whose own messages get lost is given up.
const RESERVE: usize = 8 * 1024;

/// With so much in it, nothing more should come before it has been tried to write it.
const BUSY: usize = 32 * 1024;

/// Messages that are handed on together.
const MAX_RUN: usize = 64;

/// All streams, connected or about to be.
pub(super) struct Streams {
    connector: Connector,
    streams: Vec<Stream>,
}

/// Something that happened to a stream.
pub(super) enum StreamEvent<'a> {
    /// It is connected, and has this address of ours.
    Opened { server: StreamServer, local: SocketAddr },
    /// These came.
    Received(udp::Run<'a>),
    /// It is gone.
    Closed(StreamServer),
}

struct Stream {
    server: StreamServer,
    state: State,
}

enum State {
    Connecting(Connecting),
    Open(Open),
    Closed,
}

struct Open {
    transport: Box<dyn Transport>,
    local: SocketAddr,
    remote: SocketAddr,
    inbox: Buffer,
    outbox: Buffer,
    is_reported: bool,
}

impl Streams {
    pub(super) fn new(connector: Connector) -> Self {
        Self { connector, streams: Vec::new() }
    }

    pub(super) fn handle(&mut self, request: StreamRequest) {
        match request {
            StreamRequest::Open(server) => self.open(server),
            StreamRequest::Close(server) => self.streams.retain(|stream| stream.server != server),
        }
    }

    fn open(&mut self, server: StreamServer) {
        self.streams.retain(|stream| stream.server != server);
        let state = match self.streams.len() {
            ..MAX_STREAMS => State::Connecting(self.connector.connect(server)),
            _ => State::Closed,
        };
        self.streams.push(Stream { server, state });
    }

    /// Closes all of them, and says so.
    pub(super) fn reset(&mut self) {
        for stream in &mut self.streams {
            stream.state = State::Closed;
        }
    }

    /// Whether a stream is connected between these addresses; if so it takes packets, as datagrams of equal size but for
    /// the last, and says how many of them it had no room for.
    pub(super) fn send(&mut self, path: Path, segment_size: usize, bytes: &[u8]) -> Option<u64> {
        let open = self.streams.iter_mut().find_map(|stream| stream.between(path))?;
        let mut messages = bytes.chunks(segment_size.max(1));
        let taken = messages.by_ref().take_while(|message| open.push(message, RESERVE)).count();
        let all = bytes.len().div_ceil(segment_size.max(1));
        Some((all - taken) as u64)
    }

    /// The same for one message that the stream itself may depend on.
    pub(super) fn send_first(&mut self, path: Path, message: &[u8]) -> Option<u64> {
        let open = self.streams.iter_mut().find_map(|stream| stream.between(path))?;
        Some(u64::from(!open.push(message, 0)))
    }

    /// Whether what was sent last should be written before there is more.
    pub(super) fn are_busy(&mut self) -> bool {
        self.streams.iter_mut().any(|stream| match &mut stream.state {
            State::Open(open) => open.outbox.filled().len() > BUSY,
            State::Connecting(_) | State::Closed => false,
        })
    }

    /// Waits until [`take`](Self::take) has something to tell; writes what there is to be written meanwhile. Cancel safe.
    pub(super) async fn ready(&mut self) {
        poll_fn(|context| {
            let mut is_ready = false;
            for stream in &mut self.streams {
                is_ready |= stream.advance(context);
            }
            if is_ready { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
    }

    /// Waits until all is written that was sent, or cannot be.
    pub(super) async fn flush(&mut self) {
        poll_fn(|context| {
            let mut is_pending = false;
            for stream in &mut self.streams {
                if let State::Open(open) = &mut stream.state {
                    is_pending |= open.write(context).is_pending();
                }
            }
            if is_pending { Poll::Pending } else { Poll::Ready(()) }
        })
        .await;
    }

    /// What has happened.
    pub(super) fn take(&mut self, mut handle: impl FnMut(StreamEvent<'_>)) {
        for Stream { server, state } in &mut self.streams {
            match state {
                State::Connecting(_) => {}
                State::Open(open) => open.take(*server, &mut handle),
                State::Closed => handle(StreamEvent::Closed(*server)),
            }
        }
        self.streams.retain(|stream| !matches!(stream.state, State::Closed));
    }
}

impl Stream {
    fn between(&mut self, Path { local, remote }: Path) -> Option<&mut Open> {
        match &mut self.state {
            State::Open(open) if Some(open.local) == local && open.remote == remote => Some(open),
            _ => None,
        }
    }

    /// Does what can be done now; whether there is something to tell.
    fn advance(&mut self, context: &mut Context<'_>) -> bool {
        let result = match &mut self.state {
            State::Connecting(connecting) => match connecting.as_mut().poll(context) {
                Poll::Pending => return false,
                Poll::Ready(result) => result.map(|connected| {
                    self.state = State::Open(Open::new(connected, self.server.address()));
                    true
                }),
            },
            State::Open(open) => open.advance(context),
            State::Closed => Ok(true),
        };
        result.unwrap_or_else(|error| {
            tracing::debug!(server = ?self.server, %error, "no stream to the relay");
            self.state = State::Closed;
            true
        })
    }
}

impl Open {
    fn new(Connected { transport, local }: Connected, remote: SocketAddr) -> Self {
        let (inbox, outbox) = (Buffer::new(2 * LONGEST), Buffer::new(OUTBOX));
        Self { transport, local, remote, inbox, outbox, is_reported: false }
    }

    /// Queues a message, if as much room stays as is to be reserved. Whether it does.
    fn push(&mut self, message: &[u8], reserve: usize) -> bool {
        let padding = &[0; 3][..padding(message.len())];
        let len = self.outbox.filled().len() + message.len() + padding.len();
        len + reserve <= OUTBOX && self.outbox.push(&[message, padding])
    }

    /// Writes and reads; whether there is something to tell.
    fn advance(&mut self, context: &mut Context<'_>) -> io::Result<bool> {
        if let Poll::Ready(result) = self.write(context) {
            result?;
        }
        if !self.is_reported {
            return Ok(true);
        }
        loop {
            if let Some(len) = message_len(self.inbox.filled()).map_err(io::Error::other)?
                && len <= self.inbox.filled().len()
            {
                return Ok(true);
            }
            // INVARIANT: what is there is less than a message, so that there is room.
            let mut free = ReadBuf::new(self.inbox.free());
            match Pin::new(&mut self.transport).poll_read(context, &mut free) {
                Poll::Pending => return Ok(false),
                Poll::Ready(result) => result?,
            }
            match free.filled().len() {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                len => self.inbox.commit(len),
            }
        }
    }

    fn write(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.outbox.filled().is_empty() {
            let transport = Pin::new(&mut self.transport);
            match ready!(transport.poll_write(context, self.outbox.filled()))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                len => self.outbox.consume(len),
            }
        }
        Pin::new(&mut self.transport).poll_flush(context)
    }

    fn take(&mut self, server: StreamServer, handle: &mut impl FnMut(StreamEvent<'_>)) {
        let (local, remote) = (self.local, self.remote);
        if !std::mem::replace(&mut self.is_reported, true) {
            handle(StreamEvent::Opened { server, local });
        }
        while let Some((segment_size, len)) = first_run(self.inbox.filled()) {
            let bytes = self.inbox.filled().get_mut(..len).unwrap_or_default();
            let run = udp::Run { local, remote, ecn: 0, segment_size, bytes };
            handle(StreamEvent::Received(run));
            self.inbox.consume(len);
        }
    }
}

/// The messages of equal length that the bytes begin with: that length, and the length of all of them.
fn first_run(bytes: &[u8]) -> Option<(usize, usize)> {
    // What is no message is found out when more is to be read.
    let size = message_len(bytes).ok()??;
    let messages = bytes.chunks_exact(size).take(MAX_RUN);
    let count = messages.take_while(|message| message_len(message) == Ok(Some(size))).count();
    (count > 0).then_some((size, count * size))
}
