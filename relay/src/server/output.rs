//! What goes in and out of a [`Server`](super::Server).

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

/// What a client is to us: RFC 8656 §3's 5-tuple.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct FiveTuple {
    /// What carries its messages.
    pub transport: Transport,
    /// Where it sends from, as we see it.
    pub remote: SocketAddr,
    /// Where it sends to: an address of ours, or the unspecified one if the socket doesn't tell.
    pub local: SocketAddr,
}

/// What carries the messages of a client. To peers it is UDP always.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Transport {
    /// A datagram is a message.
    Udp,
    /// TCP, or TLS over it. The number tells streams apart and is never used again for another one.
    Stream(u64),
}

impl Transport {
    /// Whether it is a stream.
    pub fn is_stream(self) -> bool {
        matches!(self, Self::Stream(_))
    }

    /// Tells transports apart.
    pub(crate) fn number(self) -> u64 {
        match self {
            Self::Udp => 0,
            Self::Stream(id) => id.wrapping_add(1),
        }
    }
}

/// What time it is. Both are read once per batch of datagrams.
#[derive(Debug, Clone, Copy)]
pub struct Now {
    /// The monotonic clock, which all lifetimes follow.
    pub instant: Instant,
    /// Seconds since 1970: what the expiry in a stamped username is held against.
    pub unix_seconds: u64,
}

/// An allocation, or where one was: ids are not used again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct AllocationId {
    pub(crate) slot: u32,
    pub(crate) generation: u32,
}

impl AllocationId {
    /// A small number that no other allocation has at the same time: an index for the caller's own table of sockets.
    /// It can be used again when the allocation is gone.
    pub fn slot(self) -> usize {
        self.slot as usize
    }
}

/// What [`Server::handle_client`](super::Server::handle_client) made of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FromClient<'a> {
    /// Send this payload to a peer.
    Forward(ToPeer<'a>),
    /// It was for the server; its outputs may have grown.
    Handled,
    /// Nothing comes of it. Counted already, not to be logged.
    Dropped,
}

/// A payload for a peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ToPeer<'a> {
    /// Through which allocation: its socket of the family that `peer` has.
    pub allocation: AllocationId,
    /// The port of the allocation.
    pub port: u16,
    /// To whom.
    pub peer: SocketAddr,
    /// Part of the message that was handed in.
    pub payload: &'a [u8],
}

/// How a peer's datagram goes to the client: `prefix`, then the payload, then `padding` bytes of zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ToClient {
    /// To whom.
    pub client: FiveTuple,
    /// What goes before the payload.
    pub prefix: Prefix,
    /// How many bytes of zero go after the payload, at most three. None over UDP as far as channels go.
    pub padding: usize,
}

/// The header of channel data, or of a Data indication.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Prefix {
    bytes: [u8; Prefix::MAX],
    len: u8,
}

impl Prefix {
    /// The longest there is: the headroom to leave before a payload. A Data indication from an IPv6 peer has the
    /// STUN header, XOR-PEER-ADDRESS and the head of DATA.
    pub const MAX: usize = 20 + 24 + 4;

    pub(crate) fn new(parts: &[&[u8]]) -> Self {
        let (mut bytes, mut len) = ([0; Self::MAX], 0);
        for part in parts {
            bytes[len..len + part.len()].copy_from_slice(part);
            len += part.len();
        }
        Self { bytes, len: len as u8 }
    }

    /// Its bytes: 4 for channel data, 36 or 48 for an indication.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len)]
    }
}

/// One step of [`Server::poll_output`](super::Server::poll_output).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Output {
    /// Send this message to a client; a stream's are whole multiples of four bytes.
    Send {
        /// To whom.
        client: FiveTuple,
        /// The message.
        bytes: Vec<u8>,
    },
    /// Bind this port for the wanted families, then say so by
    /// [`Server::handle_port_opened`](super::Server::handle_port_opened).
    OpenPort {
        /// Whose port it is.
        allocation: AllocationId,
        /// The same in both families.
        port: u16,
        /// Which families.
        families: Families,
    },
    /// Close these sockets: the allocation has lost one family, or is gone if none is left. Also comes for a port
    /// that was asked for and has not been answered yet.
    ClosePort {
        /// Whose port it was.
        allocation: AllocationId,
        /// The port.
        port: u16,
        /// Which families to close.
        families: Families,
    },
    /// From now on this channel stands, whether its client comes over UDP or a stream. What it needs to bypass the
    /// server is in the binding. Comes once for a binding, however often it is refreshed.
    ChannelBound(ChannelBinding),
    /// The channel is gone.
    ChannelUnbound(ChannelBinding),
    /// Other workers are to drop older allocations of this username:
    /// [`Server::handle_username_moved`](super::Server::handle_username_moved).
    UsernameMoved(UsernameMoved),
    /// Nothing else is queued: call [`Server::handle_timeout`](super::Server::handle_timeout) at this time at the
    /// latest, if there is one.
    Timeout(Option<Instant>),
}

/// A set of address families.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Hash)]
pub struct Families {
    /// IPv4 is in it.
    pub ip4: bool,
    /// IPv6 is in it.
    pub ip6: bool,
}

impl Families {
    pub(crate) const NONE: Self = Self { ip4: false, ip6: false };

    /// The family of this address alone.
    pub fn of(address: SocketAddr) -> Self {
        Self { ip4: address.is_ipv4(), ip6: address.is_ipv6() }
    }

    /// Whether the family of this address is in it.
    pub fn has(self, address: SocketAddr) -> bool {
        if address.is_ipv4() { self.ip4 } else { self.ip6 }
    }

    /// Whether there is none.
    pub fn is_empty(self) -> bool {
        self == Self::NONE
    }

    pub(crate) fn and(self, other: Self) -> Self {
        Self { ip4: self.ip4 && other.ip4, ip6: self.ip6 && other.ip6 }
    }

    pub(crate) fn without(self, other: Self) -> Self {
        Self { ip4: self.ip4 && !other.ip4, ip6: self.ip6 && !other.ip6 }
    }
}

/// All that is needed to turn channel data into a peer's datagrams and back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ChannelBinding {
    /// Whose channel it is.
    pub client: FiveTuple,
    /// Its number, 0x4000 to 0x7fff.
    pub channel: u16,
    /// The allocation.
    pub allocation: AllocationId,
    /// The port of the allocation.
    pub port: u16,
    /// Whom it leads to.
    pub peer: SocketAddr,
}

/// A stamped username has a new allocation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UsernameMoved {
    /// Which one.
    pub username: Arc<str>,
    /// Whether the new allocation's client comes over a stream: only those of the same kind go.
    pub is_stream: bool,
    /// When: only older ones go.
    pub at: Instant,
}

/// Why a port could not be opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PortError {
    /// Somebody has it: another one is tried.
    #[error("the port is in use")]
    InUse,
    /// No other port would do either: the allocation is refused.
    #[error("no socket can be opened")]
    Unavailable,
}
