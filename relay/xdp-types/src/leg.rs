//! Half of a channel binding.

use crate::{Address, Family, word};

/// One side of a channel binding: who is there, and what tells this binding from others of theirs.
///
/// The leg to a client is tagged with the number of the channel, the leg to a peer with the port of the allocation. Either
/// is the key that finds the other, so one lookup decides about a packet, whatever family its answer is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct Leg {
    /// The client's or the peer's address
    pub address: Address,
    /// Their UDP port
    pub port: u16,
    /// Channel number, or the allocation's port
    pub tag: u16,
    /// [`Family`] of the address, in the machine's byte order
    pub family: u16,
    /// Zero
    pub reserved: u16,
}

impl Leg {
    /// How many words it is.
    pub const WORDS: usize = size_of::<Self>() / 2;

    /// The leg to somebody at `address`, all in words.
    #[inline(always)]
    pub const fn new(family: Family, address: Address, port: u16, tag: u16) -> Self {
        Self { address, port, tag, family: family as u16, reserved: 0 }
    }

    /// The leg to somebody at a socket address.
    pub const fn to(remote: core::net::SocketAddr, tag: u16) -> Self {
        let (family, address) = match remote.ip() {
            core::net::IpAddr::V4(ip) => (Family::V4, Address::v4(ip)),
            core::net::IpAddr::V6(ip) => (Family::V6, Address::v6(ip)),
        };
        Self::new(family, address, word(remote.port()), word(tag))
    }

    /// All of it in the order of its fields.
    pub fn words(self) -> [u16; Self::WORDS] {
        let mut words = [0; _];
        let (address, rest) = words.split_at_mut(8);
        address.copy_from_slice(&self.address.0);
        rest.copy_from_slice(&[self.port, self.tag, self.family, self.reserved]);
        words
    }
}
