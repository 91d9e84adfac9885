//! What the program is told about this relay.

use core::net::{Ipv4Addr, Ipv6Addr};

/// An address in words; IPv4's are followed by zeros. All zeros is no address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(C, align(8))]
pub struct Address(pub [u16; 8]);

/// An interface's address, in words. All zeros is none.
pub type EthernetAddress = [u16; 3];

/// How many interfaces a relay may have.
pub const INTERFACES: usize = 16;

/// A family's addresses of this relay; none, if it does not have this family.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct Own {
    /// Where packets for the relay arrive on this host, and where those it sends come from
    pub local: Address,
    /// What the relay is called by its clients' peers. Differs from the other behind a one-to-one NAT
    pub public: Address,
}

/// The one entry of the map of that name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct Config {
    /// IPv4
    pub v4: Own,
    /// IPv6
    pub v6: Own,
    /// Where clients talk to the relay
    pub listen_port: u16,
    /// Zeros
    pub reserved: [u16; 3],
}

/// The one entry of the map of that name: the Ethernet addresses of the relay's interfaces, and zeros.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct Ethernet(pub [EthernetAddress; INTERFACES]);

impl Address {
    /// No address.
    pub const NONE: Self = Self([0; 8]);

    /// IPv4
    pub const fn v4(ip: Ipv4Addr) -> Self {
        let [a, b, c, d] = ip.octets();
        let (high, low) = (u16::from_ne_bytes([a, b]), u16::from_ne_bytes([c, d]));
        Self([high, low, 0, 0, 0, 0, 0, 0])
    }

    /// IPv6
    pub const fn v6(ip: Ipv6Addr) -> Self {
        let [a, b, c, d, e, f, g, h] = ip.segments();
        Self([
            a.to_be(),
            b.to_be(),
            c.to_be(),
            d.to_be(),
            e.to_be(),
            f.to_be(),
            g.to_be(),
            h.to_be(),
        ])
    }
}

impl Config {
    /// How many words it is.
    pub const WORDS: usize = size_of::<Self>() / 2;

    /// All of it in the order of its fields.
    pub fn words(self) -> [u16; Self::WORDS] {
        let mut words = [0; _];
        let addresses = [self.v4.local, self.v4.public, self.v6.local, self.v6.public];
        for (room, address) in words.chunks_exact_mut(8).zip(addresses) {
            room.copy_from_slice(&address.0);
        }
        words[32] = self.listen_port;
        words
    }
}

impl Ethernet {
    /// How many words it is.
    pub const WORDS: usize = size_of::<Self>() / 2;

    /// These addresses, as many as there is room for.
    pub fn new(addresses: impl IntoIterator<Item = [u8; 6]>) -> Self {
        let mut all = [[0; 3]; _];
        for (room, [a, b, c, d, e, f]) in all.iter_mut().zip(addresses) {
            *room = [[a, b], [c, d], [e, f]].map(u16::from_ne_bytes);
        }
        Self(all)
    }

    /// All of it.
    pub fn words(self) -> [u16; Self::WORDS] {
        let mut words = [0; _];
        words.copy_from_slice(self.0.as_flattened());
        words
    }

    /// Whether one of them is this.
    #[inline(always)]
    pub fn contains(&self, [a, b, c]: EthernetAddress) -> bool {
        a | b | c != 0 && self.0.iter().any(|own| own[0] == a && own[1] == b && own[2] == c)
    }
}
