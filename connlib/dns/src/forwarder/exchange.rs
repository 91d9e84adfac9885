//! What goes into a forwarder and comes out of it.

use std::net::SocketAddr;
use std::time::Instant;

use crate::query::Query;
use crate::response::ResponseError;
use crate::upstream::{Transport, Upstream};

/// A query in flight, never used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct QueryId(pub(super) u64);

/// An asker: who sent a query, where to and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Client {
    /// The address that the query was sent to, from which the answer must come.
    pub server: SocketAddr,
    /// The address that the query came from, to which the answer goes.
    pub source: SocketAddr,
    /// UDP or TCP. A TCP connection is known by its two addresses.
    pub transport: Transport,
}

/// What there is to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// Send a message to a server.
    Transmit(Transmit),
    /// Send a message to an asker.
    Answer {
        /// The asker.
        to: Client,
        /// The whole message.
        message: Vec<u8>,
    },
    /// The query is over. What was opened for it can be closed.
    Finished(QueryId),
    /// Nothing until then, or until something comes in. `None` if nothing is under way.
    Timeout(Option<Instant>),
}

/// A message to a server.
///
/// Each query wants a source port of its own, as that is what makes it hard to forge a response;
/// so the caller opens a socket, a connection or a request for a [`QueryId`] that is new to it,
/// uses it for all that is sent for this query, and names the query when something comes back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transmit {
    /// The query that this belongs to.
    pub query: QueryId,
    /// The server.
    pub server: Upstream,
    /// What has to carry the message.
    pub transport: Transport,
    /// The message, without a length before it.
    pub message: Vec<u8>,
}

/// A query that found its answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answered {
    /// The query.
    pub query: Query,
    /// The complete answer to it.
    pub answer: Vec<u8>,
}

/// Why a response was ignored. The query, if there is one, waits on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Rejected {
    /// The query is over, usually because the response is late.
    #[error("the query is over")]
    UnknownQuery,
    /// It comes from another server than the one that was asked.
    #[error("the response comes from another server")]
    WrongServer,
    /// It is no response to the query.
    #[error(transparent)]
    Response(#[from] ResponseError),
}
