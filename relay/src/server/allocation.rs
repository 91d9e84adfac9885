//! One allocation with its channels and permissions.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use connlib_stun::Transaction;

use super::key::{AddressKey, Hashing};
use super::output::{AllocationId, ChannelBinding, Families, FiveTuple};
use super::quota::Place;
use super::response::{Header, Signature};

/// RFC 5766 §11. Since RFC 8656 clients keep below 0x5000, but older ones (coturn's, for one) draw from all of these.
pub(crate) const CHANNEL_NUMBERS: std::ops::RangeInclusive<u16> = 0x4000..=0x7fff;

pub(crate) struct Allocation {
    pub(crate) id: AllocationId,
    pub(crate) client: FiveTuple,
    pub(crate) username: Arc<str>,
    pub(super) _place: Place,
    pub(crate) port: u16,
    pub(crate) families: Families,
    pub(crate) state: State,
    pub(crate) grant: Grant,
    pub(crate) created_at: Instant,
    pub(super) expires_at: Instant,
    pub(super) channels: HashMap<u16, Channel, Hashing>,
    pub(super) numbers: HashMap<AddressKey, u16, Hashing>,
    pub(super) permissions: HashMap<IpAddr, Instant, Hashing>,
}

/// Whether clients can use it yet.
pub(crate) enum State {
    /// Its port is being opened; then this is answered.
    Opening {
        header: Header,
        signature: Signature,
        must_be_even: bool,
        is_newest_only: bool,
        /// How many ports were tried.
        attempts: u32,
    },
    Open,
}

/// What the response to the Allocate request says, for when the request is repeated.
#[derive(Clone, Copy)]
pub(crate) struct Grant {
    pub(crate) transaction: Transaction,
    pub(crate) lifetime: Duration,
    /// The families that were asked for, too, but can't be had.
    pub(crate) missing: Families,
}

pub(super) struct Channel {
    pub(super) peer: SocketAddr,
    pub(super) expires_at: Instant,
}

impl Allocation {
    pub(crate) fn is_open(&self) -> bool {
        matches!(self.state, State::Open)
    }

    /// Whom a channel leads to.
    pub(crate) fn peer_of(&self, channel: u16) -> Option<SocketAddr> {
        self.channels.get(&channel).map(|channel| channel.peer)
    }

    /// Which channel leads to a peer.
    pub(crate) fn channel_to(&self, peer: SocketAddr) -> Option<u16> {
        self.numbers.get(&peer.into()).copied()
    }

    /// Whether data may go to and come from this address without a channel.
    pub(crate) fn has_permission(&self, ip: &IpAddr) -> bool {
        self.permissions.contains_key(ip)
    }

    pub(super) fn binding(&self, channel: u16, peer: SocketAddr) -> ChannelBinding {
        ChannelBinding { client: self.client, channel, allocation: self.id, port: self.port, peer }
    }
}
