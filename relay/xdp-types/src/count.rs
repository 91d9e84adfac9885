//! What the program counts. One slot a CPU and outcome; nothing is reported per packet.

use crate::{PATHS, Path};

/// How many counters there are.
pub const COUNTS: u32 = PASSES_FROM + Pass::ALL.len() as u32;

/// Slots below are paths'.
const PASSES_FROM: u32 = 16;

/// One counter.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Count {
    /// How many packets
    pub packets: u64,
    /// How many bytes of the application's data they carried; only of those that were relayed
    pub bytes: u64,
}

/// Why a packet for the relay was left to user space.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u32)]
pub enum Pass {
    /// On the listen port, and not channel data: STUN
    Control,
    /// Channel data whose length does not fit the datagram's
    Length,
    /// Channel data on a channel that is not bound
    NoChannel,
    /// For an allocation, from somebody whom no channel is bound to
    NoPeer,
    /// Came without a checksum and would need one
    Checksum,
    /// Has no hop left to live
    Expired,
    /// The kernel knows no route, no neighbour yet, or is not to be asked
    NoRoute,
    /// Would leave by an interface that the program does not serve
    Egress,
    /// Longer than the way out allows
    TooBig,
    /// The driver leaves no room for longer headers
    NoRoom,
    /// Its checksum is yet to be finished: it comes from this machine, or the kernel has joined several
    Unfinished,
}

/// What a counter stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// Relayed by the program
    Relayed(Path),
    /// Left to user space
    Passed(Pass),
}

impl Pass {
    /// All there are, in order.
    pub const ALL: [Self; 11] = [
        Self::Control,
        Self::Length,
        Self::NoChannel,
        Self::NoPeer,
        Self::Checksum,
        Self::Expired,
        Self::NoRoute,
        Self::Egress,
        Self::TooBig,
        Self::NoRoom,
        Self::Unfinished,
    ];
}

impl Outcome {
    /// Everything that is counted.
    pub fn all() -> impl Iterator<Item = Self> {
        let relayed = PATHS.into_iter().map(Self::Relayed);
        relayed.chain(Pass::ALL.into_iter().map(Self::Passed))
    }

    /// The slot in the map.
    #[inline(always)]
    pub const fn index(self) -> u32 {
        match self {
            Self::Relayed(path) => path.index(),
            Self::Passed(pass) => PASSES_FROM + pass as u32,
        }
    }
}
