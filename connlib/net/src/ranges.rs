//! The address ranges that the operating system must know of.

use std::net::{Ipv4Addr, Ipv6Addr};

use ipnet::{Ipv4Net, Ipv6Net};

/// Tunnel addresses of clients and gateways.
pub const TUNNEL_V4: Ipv4Net = Ipv4Net::new_assert(Ipv4Addr::new(100, 64, 0, 0), 11);
/// Tunnel addresses of clients and gateways.
pub const TUNNEL_V6: Ipv6Net =
    Ipv6Net::new_assert(Ipv6Addr::new(0xfd00, 0x2021, 0x1111, 0, 0, 0, 0, 0), 107);

/// Addresses at which a client answers DNS queries.
pub const SENTINELS_V4: Ipv4Net = Ipv4Net::new_assert(Ipv4Addr::new(100, 100, 111, 0), 24);
/// Addresses at which a client answers DNS queries.
pub const SENTINELS_V6: Ipv6Net =
    Ipv6Net::new_assert(Ipv6Addr::new(0xfd00, 0x2021, 0x1111, 0x8000, 0x100, 0x100, 0x111, 0), 120);
