//! What tables are looked up by, for each packet: of few words, so that it is hashed and compared at once.

use std::net::{IpAddr, SocketAddr};
use std::sync::OnceLock;

use foldhash::SharedSeed;
use foldhash::fast::SeedableRandomState;

use super::output::FiveTuple;

/// How tables are hashed.
pub(crate) type Hashing = SeedableRandomState;

/// A hasher of which nobody outside knows anything: who knows its secrets can have all of a table's keys in one place. The
/// larger part of those has to be static; it is the first server's.
pub(crate) fn hashing(seed: u64) -> Hashing {
    static SHARED: OnceLock<SharedSeed> = OnceLock::new();
    Hashing::with_seed(seed, SHARED.get_or_init(|| SharedSeed::from_u64(seed)))
}

/// An address without what doesn't tell hosts apart, flow label and scope.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct AddressKey {
    ip: u128,
    port: u16,
}

impl From<SocketAddr> for AddressKey {
    fn from(address: SocketAddr) -> Self {
        let ip = match address.ip() {
            IpAddr::V4(ip) => 0xffff << 32 | u128::from(ip.to_bits()), // as IPv6 maps it
            IpAddr::V6(ip) => ip.to_bits(),
        };
        Self { ip, port: address.port() }
    }
}

/// A 5-tuple.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct ClientKey {
    remote: AddressKey,
    local: AddressKey,
    transport: u64,
}

impl From<&FiveTuple> for ClientKey {
    fn from(client: &FiveTuple) -> Self {
        Self {
            remote: client.remote.into(),
            local: client.local.into(),
            transport: client.transport.number(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;
    use std::hash::BuildHasher;

    /// With the constants in the hasher's source these were all the same: there is one that cancels out the network.
    #[test]
    fn nobody_knows_which_addresses_collide() {
        let hashing = hashing(7);
        let peer = |n| {
            AddressKey::from(SocketAddr::from(([0xc0ac, 0x29b7, 0xc97c, 0x50dd, 0, 0, 0, n], 9)))
        };
        let hashes: HashSet<_> = (0..1000).map(|n| hashing.hash_one(peer(n))).collect();
        assert_eq!(hashes.len(), 1000);
    }
}
