//! What a [`Node`](crate::Node) wants done or known.

use std::fmt;
use std::net::SocketAddr;
use std::time::Instant;

use uuid::Uuid;

/// The portal's id of a peer.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PeerId(pub Uuid);

impl fmt::Debug for PeerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl fmt::Display for PeerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

/// A pair of transport addresses that datagrams travel between.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Path {
    /// Our address. `None`: whichever the operating system picks for the destination.
    pub local: Option<SocketAddr>,
    /// The peer's address as we see it.
    pub remote: SocketAddr,
}

impl fmt::Debug for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.local {
            Some(local) => write!(f, "{local} -> {}", self.remote),
            None => write!(f, "* -> {}", self.remote),
        }
    }
}

/// A datagram to be sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transmit {
    /// From where to where.
    pub path: Path,
    /// The UDP payload.
    pub payload: Vec<u8>,
}

/// A relay's address for TURN by a stream (RFC 8656 §2.1): for networks that let no datagrams through.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum StreamServer {
    /// A TCP connection.
    Tcp(SocketAddr),
    /// TLS in a TCP connection.
    Tls(SocketAddr),
}

impl StreamServer {
    /// What to connect to.
    pub fn address(self) -> SocketAddr {
        match self {
            Self::Tcp(address) | Self::Tls(address) => address,
        }
    }
}

/// What is to be done about a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StreamRequest {
    /// Connect to this, and tell [`Node::handle_stream_opened`](crate::Node::handle_stream_opened) or, if that fails,
    /// [`Node::handle_stream_closed`](crate::Node::handle_stream_closed).
    Open(StreamServer),
    /// Leave it, connected or not.
    Close(StreamServer),
}

/// One step of [`Node::poll_output`](crate::Node::poll_output).
#[derive(Debug)]
pub enum Output {
    /// Send this datagram; or, if a stream is connected between these addresses, put it into that, padded to a multiple
    /// of four bytes (RFC 8656 §12.5).
    Transmit(Transmit),
    /// A stream to a relay is wanted, or not any more.
    Stream(StreamRequest),
    /// Something happened.
    Event(Event),
    /// Nothing else is queued: call [`Node::handle_timeout`](crate::Node::handle_timeout) at this time at the latest.
    Timeout(Instant),
}

/// Something that whoever owns the node wants to know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// Signal these candidates of ours to the peer: SDP strings, best first.
    NewCandidates {
        /// The peer.
        peer: PeerId,
        /// SDP candidate attributes.
        candidates: Vec<String>,
    },
    /// Tell the peer that these candidates of ours are gone.
    InvalidatedCandidates {
        /// The peer.
        peer: PeerId,
        /// SDP candidate attributes.
        candidates: Vec<String>,
    },
    /// Packets can travel for the first time on this link.
    Connected {
        /// The peer.
        peer: PeerId,
        /// The path they take.
        path: Path,
    },
    /// A connected link moved to another path.
    PathChanged {
        /// The peer.
        peer: PeerId,
        /// The path packets take from now on.
        path: Path,
    },
    /// There were packets for the peer, and nothing is heard of it: it may not know us any more, and whoever knows its
    /// keys should be asked. Comes again as long as that lasts, and only at the controlling end.
    Silent {
        /// The peer.
        peer: PeerId,
    },
    /// None of the relays works, and has not for a while: the portal may know others. Comes again, ever more rarely.
    NoRelays,
    /// The link is gone; packets that waited in it are lost.
    Failed {
        /// The peer.
        peer: PeerId,
        /// Why.
        failure: Failure,
    },
}

/// Why a link failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// The peer has not signalled a single candidate in time.
    #[error("the peer sent no candidates")]
    NoCandidates,
    /// No pair of addresses works (any more).
    #[error("no path to the peer works")]
    NoPath,
    /// Datagrams get through but WireGuard's handshake is not answered: the peer has other keys than the portal said.
    #[error("the peer does not answer WireGuard handshakes")]
    HandshakeTimeout,
}
