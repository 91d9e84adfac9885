//! What goes wrong between us and the portal, and whether trying again can help.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use crate::channel::{Closed, Disconnect, QueueFull};
use crate::login::Problem;

/// Why a connection did not come about or ended. Unless it is fatal, we try again.
#[derive(Debug, thiserror::Error)]
pub enum ConnectionError {
    /// The host's name was not resolved.
    #[error("cannot resolve `{host}`")]
    Resolve {
        /// The name.
        host: String,
        /// What the resolver says.
        source: io::Error,
    },
    /// None of the host's addresses answered.
    #[error("cannot connect to {address}")]
    Tcp {
        /// The one that failed last.
        address: SocketAddr,
        /// What the operating system says.
        source: io::Error,
    },
    /// TLS failed: often a certificate that this machine does not trust, or its clock.
    #[error("TLS failed")]
    Tls(#[source] io::Error),
    /// The connection took longer than 15 s to come about.
    #[error("no connection within 15 s")]
    TimedOut,
    /// The connection broke.
    #[error("the connection broke")]
    Broken(#[source] io::Error),
    /// What answers there is not a portal.
    #[error("not a portal: {0}")]
    NotAPortal(&'static str),
    /// The portal refused the connection.
    #[error("the portal refused us: {} {}", problem.status, refusal(problem))]
    Refused {
        /// Status and reason.
        problem: Problem,
        /// When we may come again, if it says so.
        retry_after: Option<Duration>,
    },
    /// The portal closed the connection, or is not there any more.
    #[error(transparent)]
    Closed(#[from] Closed),
}

/// Why we do not try again.
#[derive(Debug, thiserror::Error)]
pub enum FatalError {
    /// The token is missing, unknown, revoked or expired: only a new one helps.
    #[error("sign in again: {detail}")]
    SignInRequired {
        /// What the portal says.
        detail: String,
    },
    /// The portal does not let us in, whatever the token.
    #[error("authentication failed: {detail}")]
    AuthenticationFailed {
        /// What the portal says.
        detail: String,
    },
    /// The portal let us connect, but not join.
    #[error("the portal refused the join: {reason}")]
    JoinRefused {
        /// Why.
        reason: String,
    },
    /// We tried for as long as we may.
    #[error("gave up after {} s", after.as_secs())]
    GaveUp {
        /// How long that was.
        after: Duration,
        /// What went wrong the last time.
        source: ConnectionError,
    },
}

impl FatalError {
    /// Whether the user has to sign in again, or an administrator to give a new token.
    pub fn requires_sign_in(&self) -> bool {
        matches!(self, Self::SignInRequired { .. })
    }
}

impl ConnectionError {
    /// Only 401, an ended session of an expired token, and a refused join are fatal.
    pub(super) fn into_fatal(self) -> Result<FatalError, Self> {
        match self {
            Self::Refused { problem, .. } if problem.status == 401 => {
                let detail = refusal(&problem).to_owned();
                Ok(match problem.requires_sign_in() {
                    true => FatalError::SignInRequired { detail },
                    false => FatalError::AuthenticationFailed { detail },
                })
            }
            Self::Closed(Closed::SessionEnded { reason })
                if reason == Disconnect::TOKEN_EXPIRED =>
            {
                let detail = "the token has expired or was revoked".to_owned();
                Ok(FatalError::SignInRequired { detail })
            }
            Self::Closed(Closed::JoinRefused { reason }) => Ok(FatalError::JoinRefused { reason }),
            other => Err(other),
        }
    }

    pub(super) fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Refused { retry_after, .. } => *retry_after,
            _ => None,
        }
    }
}

/// The most telling text of a refusal.
fn refusal(problem: &Problem) -> &str {
    let texts = [&problem.detail, &problem.title, &problem.code];
    texts.into_iter().find(|text| !text.is_empty()).map_or("without a reason", String::as_str)
}

/// Why a message was not sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SendError {
    /// The portal is away. Hold what must not be lost until [`super::Event::Connected`].
    #[error("not connected to the portal")]
    NotConnected,
    /// The connection is stuck. It heals or breaks within a minute.
    #[error(transparent)]
    QueueFull(#[from] QueueFull),
}
