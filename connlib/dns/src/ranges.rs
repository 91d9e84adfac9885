//! The addresses inside the tunnel's interface that belong to DNS. They are the same on all
//! clients and gateways.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{Ipv4Net, Ipv6Net};

/// Addresses that stand for the names of DNS resources.
pub const PROXY_RANGE_V4: Ipv4Net = Ipv4Net::new_assert(Ipv4Addr::new(100, 96, 0, 0), 11);
/// Addresses that stand for the names of DNS resources.
pub const PROXY_RANGE_V6: Ipv6Net =
    Ipv6Net::new_assert(Ipv6Addr::new(0xfd00, 0x2021, 0x1111, 0x8000, 0, 0, 0, 0), 107);

/// Addresses of DNS servers that the operating system is told. They lie within
/// [`PROXY_RANGE_V4`] and are never given to a name.
pub const SENTINEL_RANGE_V4: Ipv4Net = Ipv4Net::new_assert(Ipv4Addr::new(100, 100, 111, 0), 24);
/// Addresses of DNS servers that the operating system is told.
pub const SENTINEL_RANGE_V6: Ipv6Net =
    Ipv6Net::new_assert(Ipv6Addr::new(0xfd00, 0x2021, 0x1111, 0x8000, 0x100, 0x100, 0x111, 0), 120);

/// Whether the address lies in one of the sentinel ranges, assigned or not.
pub fn is_sentinel(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => SENTINEL_RANGE_V4.contains(&v4),
        IpAddr::V6(v6) => SENTINEL_RANGE_V6.contains(&v6),
    }
}
