//! What the host can ask of a session, and how a session ends.

use std::io;

use connlib_net::tun::TunError;
use connlib_net::udp::BindError;
use connlib_net::{dns_control, netlink, nft};
use connlib_portal_api::client::{ConfigError, FatalError};
use connlib_tunnel::Stats;
use tokio::sync::mpsc;

use crate::io::IoStats;

/// Something that the host asks of a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Command {
    /// End in an orderly way: peers are told.
    Stop,
    /// The network is another one, or should be treated as such: new sockets, and the portal is called at once.
    Reset,
    /// Turn the internet resource on or off (clients).
    SetInternetResourceActive(bool),
}

/// The session's end of [`commands`].
pub type Commands = mpsc::Receiver<Command>;

/// A queue of commands. A session whose sender is dropped goes on.
pub fn commands() -> (mpsc::Sender<Command>, Commands) {
    mpsc::channel(16)
}

/// What a session has counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counters {
    /// Packets that were carried, and those that were dropped, by reason.
    pub tunnel: Stats,
    /// What was lost between the kernel and us.
    pub io: IoStats,
}

/// Why a session could not start, or had to end.
#[derive(Debug, thiserror::Error)]
pub enum SessionError {
    /// The settings for the portal are unusable.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The portal does not let us in.
    #[error(transparent)]
    Portal(Box<FatalError>),
    /// There is no TUN device.
    #[error(transparent)]
    Tun(#[from] TunError),
    /// There are no sockets.
    #[error(transparent)]
    Sockets(#[from] BindError),
    /// The interface could not be set up.
    #[error(transparent)]
    Netlink(#[from] netlink::Error),
    /// The gateway's NAT could not be set up.
    #[error(transparent)]
    Nat(#[from] nft::NatError),
    /// Forwarding could not be switched on.
    #[error(transparent)]
    Forwarding(#[from] nft::ForwardingError),
    /// The system's DNS settings could not be changed.
    #[error(transparent)]
    DnsControl(#[from] dns_control::Error),
    /// The operating system gives no random numbers.
    #[error("the operating system gives no random numbers")]
    Random(#[source] getrandom::Error),
    /// The TUN device or the event loop failed.
    #[error("{context}")]
    Io {
        /// What was attempted.
        context: &'static str,
        /// What the operating system said.
        source: io::Error,
    },
}

impl From<FatalError> for SessionError {
    fn from(error: FatalError) -> Self {
        Self::Portal(Box::new(error))
    }
}

impl SessionError {
    pub(crate) fn io(context: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { context, source }
    }

    /// Whether only a new token helps.
    pub fn requires_sign_in(&self) -> bool {
        matches!(self, Self::Portal(error) if error.requires_sign_in())
    }

    /// Whether it will happen again until somebody changes the settings or the machine.
    pub fn requires_administrator(&self) -> bool {
        use dns_control::Error::{NoBackup, NoResolvectl, Symlink};
        match self {
            Self::Config(_) | Self::Tun(_) | Self::Nat(_) | Self::Forwarding(_) => true,
            Self::DnsControl(error) => {
                matches!(error, NoResolvectl | Symlink { .. } | NoBackup { .. })
            }
            _ => false,
        }
    }
}

/// 32 random bytes for the state machines.
pub(crate) fn seed() -> Result<[u8; 32], SessionError> {
    let mut seed = [0; 32];
    getrandom::fill(&mut seed).map_err(SessionError::Random)?;
    Ok(seed)
}
