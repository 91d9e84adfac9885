//! What the relay's XDP program and its loader agree on: the shapes of headers, the contents of maps, the counters.
//!
//! Everything in a network header is a multiple of 16 bits and starts at an even offset, and the checksums of the
//! internet are sums of 16-bit words. So the *word* is the unit here: sixteen bits with the bytes in the order of the
//! wire, whatever the machine's own order is ([`word`] and [`number`] translate). Map keys and values are arrays of
//! words, or of `u64`, without padding that nobody has written.
#![no_std]
#![forbid(unsafe_code)]

mod count;
mod leg;
mod own;
mod shape;

pub use count::{COUNTS, Count, Outcome, Pass};
pub use leg::Leg;
pub use own::{Address, Config, Ethernet, EthernetAddress, INTERFACES, Own};
pub use shape::{ETHERNET, Family, Framing, PATHS, Path, Shape, UDP};

/// Names of the program and its maps in the object.
pub mod names {
    /// The program.
    pub const PROGRAM: &str = "relay";
    /// Array with the one [`Config`](crate::Config).
    pub const CONFIG: &str = "CONFIG";
    /// Array with the one [`Ethernet`](crate::Ethernet).
    pub const ETHERNET: &str = "ETHERNET";
    /// Array with a byte for each port: the [bits](crate::Family::bit) of the families in which it is an allocation's.
    pub const PORTS: &str = "PORTS";
    /// Hash from the [`Leg`](crate::Leg) to a client to the one to its peer.
    pub const CHANNELS: &str = "CHANNELS";
    /// Hash from the [`Leg`](crate::Leg) to a peer to the one to its client.
    pub const PEERS: &str = "PEERS";
    /// Device map: the interfaces that packets may leave by, by their index.
    pub const EGRESS: &str = "EGRESS";
    /// Per-CPU array of [`Count`](crate::Count).
    pub const COUNTS: &str = "COUNTS";
}

/// A number as it stands on the wire.
#[inline(always)]
pub const fn word(number: u16) -> u16 {
    number.to_be()
}

/// The number that a word of the wire stands for.
#[inline(always)]
pub const fn number(word: u16) -> u16 {
    u16::from_be(word)
}
