//! What happened so far, for metrics.

use std::collections::BTreeMap;

/// Sums since the start.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counters {
    /// Payload that clients sent to peers.
    pub to_peers: Traffic,
    /// Payload that peers sent to clients.
    pub to_clients: Traffic,
    /// Allocations made.
    pub allocations: u64,
    responses: BTreeMap<(Method, u16), u64>,
    drops: [u64; Drop::ALL.len()],
}

/// Datagrams, and the bytes of their payload.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Datagrams.
    pub packets: u64,
    /// Bytes without any header.
    pub bytes: u64,
}

impl Traffic {
    pub(crate) fn add(&mut self, len: usize) {
        self.packets += 1;
        self.bytes += len as u64;
    }
}

impl Counters {
    /// How many responses were sent, by method and error code; the code of a success is `None`.
    pub fn responses(&self) -> impl Iterator<Item = (Method, Option<u16>, u64)> + '_ {
        self.responses
            .iter()
            .map(|((method, code), count)| (*method, Some(*code).filter(|code| *code != 0), *count))
    }

    /// How many datagrams came to nothing, by reason. All reasons are there.
    pub fn drops(&self) -> impl Iterator<Item = (Drop, u64)> + '_ {
        Drop::ALL.iter().map(|reason| (*reason, self.dropped(*reason)))
    }

    /// How many datagrams came to nothing for this reason.
    pub fn dropped(&self, reason: Drop) -> u64 {
        self.drops[reason as usize]
    }

    pub(crate) fn count_response(&mut self, method: Method, code: Option<u16>) {
        *self.responses.entry((method, code.unwrap_or(0))).or_default() += 1;
    }

    pub(crate) fn count_drop(&mut self, reason: Drop) {
        self.drops[reason as usize] += 1;
    }
}

/// What a request asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[allow(missing_docs)]
pub enum Method {
    Binding,
    Allocate,
    Refresh,
    CreatePermission,
    ChannelBind,
}

impl From<Method> for connlib_stun::Method {
    fn from(method: Method) -> Self {
        match method {
            Method::Binding => Self::BINDING,
            Method::Allocate => Self::ALLOCATE,
            Method::Refresh => Self::REFRESH,
            Method::CreatePermission => Self::CREATE_PERMISSION,
            Method::ChannelBind => Self::CHANNEL_BIND,
        }
    }
}

impl Method {
    pub(crate) fn of(method: connlib_stun::Method) -> Option<Self> {
        let methods = [
            Self::Binding,
            Self::Allocate,
            Self::Refresh,
            Self::CreatePermission,
            Self::ChannelBind,
        ];
        methods.into_iter().find(|known| connlib_stun::Method::from(*known) == method)
    }

    /// Its name in metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Binding => "binding",
            Self::Allocate => "allocate",
            Self::Refresh => "refresh",
            Self::CreatePermission => "create_permission",
            Self::ChannelBind => "channel_bind",
        }
    }
}

macro_rules! drops {
    ($($(#[$doc:meta])* $variant:ident = $name:literal,)*) => {
        /// Why a datagram came to nothing.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum Drop { $($(#[$doc])* $variant,)* }

        impl Drop {
            /// All there are.
            pub const ALL: [Self; [$($name),*].len()] = [$(Self::$variant),*];

            /// Its name in metrics.
            pub fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }
        }
    };
}

drops! {
    /// From a client: neither STUN nor channel data, or cut off, or a bad FINGERPRINT.
    Malformed = "malformed",
    /// From a client: a response, an unknown method or an unknown indication.
    Unexpected = "unexpected",
    /// From a client: data without an allocation.
    NoAllocation = "no_allocation",
    /// From a client: data for a channel that isn't bound.
    NoChannel = "no_channel",
    /// Data to or from a peer without permission.
    NoPermission = "no_permission",
    /// Data for a peer that nobody may send to.
    ForbiddenPeer = "forbidden_peer",
    /// From a peer: more than fits a message.
    TooLong = "too_long",
    /// A response that would have been more than its source may provoke without credentials.
    SourceLimit = "source_limit",
    /// A response while too many wait to be sent already.
    Backlog = "backlog",
    /// From a peer: the allocation is gone.
    Stale = "stale",
    /// A repeated Allocate request while the first is being served.
    Repeated = "repeated",
}
