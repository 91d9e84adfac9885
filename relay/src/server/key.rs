//! What tables are looked up by, for each packet: of few words, so that it is hashed and compared at once.

use std::net::{IpAddr, SocketAddr};

use super::output::FiveTuple;

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
