//! What a channel has to say to its owner.

use std::fmt;
use std::time::Instant;

use super::super::Frame;

/// What the owner of a channel has to do.
#[derive(PartialEq)]
pub enum Output {
    /// Write this text frame and call [`Channel::handle_written`](super::Channel::handle_written); till then, there is no
    /// other one.
    Transmit(String),
    /// Something happened.
    Event(Event),
    /// The connection is of no more use. Final.
    Closed(Closed),
    /// Nothing until then: call [`Channel::handle_timeout`](super::Channel::handle_timeout).
    Timeout(Instant),
}

/// Does not show the frame: it may hold secrets.
impl fmt::Debug for Output {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Transmit(_) => f.write_str("Transmit(..)"),
            Self::Event(event) => event.fmt(f),
            Self::Closed(reason) => reason.fmt(f),
            Self::Timeout(at) => f.debug_tuple("Timeout").field(at).finish(),
        }
    }
}

/// What happens on a channel.
#[derive(Debug, PartialEq)]
pub enum Event {
    /// The portal let us in: its full state follows. Happens again if the portal forgot us.
    Joined,
    /// A message of the portal.
    Frame(Frame),
}

/// Why a connection is of no more use.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Closed {
    /// The portal did not answer the join.
    #[error("the portal did not answer the join within 5 s")]
    JoinTimedOut,
    /// The portal does not let us in.
    #[error("the portal refused the join: {reason}")]
    JoinRefused {
        /// Why.
        reason: String,
    },
    /// The portal is silent.
    #[error("the portal left more than 3 heartbeats unanswered")]
    HeartbeatsUnanswered,
    /// The portal closed the channel.
    #[error("the portal closed the channel")]
    ByPortal,
    /// The portal ended the session.
    #[error("the portal ended the session: {reason}")]
    SessionEnded {
        /// Why: see [`Disconnect`](crate::channel::Disconnect).
        reason: String,
    },
}
