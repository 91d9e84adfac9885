//! The address plan that both ends of a tunnel share, and its sizes.

use ipnet::{Ipv4Net, Ipv6Net};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Tunnel addresses of clients and gateways.
pub const TUNNEL_V4: Ipv4Net = Ipv4Net::new_assert(Ipv4Addr::new(100, 64, 0, 0), 11);
/// Tunnel addresses of clients and gateways.
pub const TUNNEL_V6: Ipv6Net =
    Ipv6Net::new_assert(Ipv6Addr::new(0xfd00, 0x2021, 0x1111, 0, 0, 0, 0, 0), 107);

/// Proxy addresses: what applications see of a DNS resource. [`SENTINEL_V4`] lies inside.
pub const PROXY_V4: Ipv4Net = Ipv4Net::new_assert(Ipv4Addr::new(100, 96, 0, 0), 11);
/// Proxy addresses: what applications see of a DNS resource. [`SENTINEL_V6`] lies outside.
pub const PROXY_V6: Ipv6Net =
    Ipv6Net::new_assert(Ipv6Addr::new(0xfd00, 0x2021, 0x1111, 0x8000, 0, 0, 0, 0), 107);

/// Sentinels: the addresses of DNS servers that only exist on the TUN. Never handed out as proxy addresses.
pub const SENTINEL_V4: Ipv4Net = Ipv4Net::new_assert(Ipv4Addr::new(100, 100, 111, 0), 24);
/// Sentinels: the addresses of DNS servers that only exist on the TUN. Never handed out as proxy addresses.
pub const SENTINEL_V6: Ipv6Net = Ipv6Net::new_assert(
    Ipv6Addr::new(0xfd00, 0x2021, 0x1111, 0x8000, 0x0100, 0x0100, 0x0111, 0),
    120,
);

/// The largest IP packet inside the tunnel, in bytes.
pub const MTU: u16 = 1280;

/// The UDP and TCP port on a gateway's tunnel addresses where it answers SRV and TXT queries.
pub const GATEWAY_DNS_PORT: u16 = 53535;

/// Whether `address` may be the tunnel address of a client or gateway.
pub fn is_tunnel(address: IpAddr) -> bool {
    contains(&TUNNEL_V4, &TUNNEL_V6, address)
}

/// Whether `address` belongs to the tunnel itself and not to any network behind it: a proxy address or a sentinel.
pub fn is_proxy_or_sentinel(address: IpAddr) -> bool {
    contains(&PROXY_V4, &PROXY_V6, address) || is_sentinel(address)
}

/// Whether `address` may be handed out for a DNS resource: in the proxy range, but no sentinel.
pub fn is_proxy(address: IpAddr) -> bool {
    is_proxy_or_sentinel(address) && !is_sentinel(address)
}

/// Whether `address` is in the range of the DNS sentinels.
pub fn is_sentinel(address: IpAddr) -> bool {
    contains(&SENTINEL_V4, &SENTINEL_V6, address)
}

fn contains(v4_net: &Ipv4Net, v6_net: &Ipv6Net, address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => v4_net.contains(&v4),
        IpAddr::V6(v6) => v6_net.contains(&v6),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges() {
        for (address, tunnel, proxy, sentinel) in [
            ("100.63.255.255", false, false, false),
            ("100.64.0.0", true, false, false),
            ("100.95.255.255", true, false, false),
            ("100.96.0.1", false, true, false),
            ("100.100.110.255", false, true, false),
            ("100.100.111.1", false, false, true),
            ("100.100.112.0", false, true, false),
            ("100.127.255.255", false, true, false),
            ("100.128.0.0", false, false, false),
            ("fd00:2021:1111::", true, false, false),
            ("fd00:2021:1111::1f:ffff", true, false, false),
            ("fd00:2021:1111::20:0", false, false, false),
            ("fd00:2021:1111:8000::", false, true, false),
            ("fd00:2021:1111:8000::1f:ffff", false, true, false),
            ("fd00:2021:1111:8000:100:100:111:0", false, false, true),
            ("fd00:2021:1111:8000:100:100:111:ff", false, false, true),
            ("fd00:2021:1111:8000:100:100:111:100", false, false, false),
        ] {
            let ip = address.parse().unwrap();
            assert_eq!(is_tunnel(ip), tunnel, "{address}");
            assert_eq!(is_proxy(ip), proxy, "{address}");
            assert_eq!(is_sentinel(ip), sentinel, "{address}");
            assert_eq!(is_proxy_or_sentinel(ip), proxy || sentinel, "{address}");
        }
    }
}
