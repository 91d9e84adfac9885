//! Whom nobody may send to through the relay.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ops::RangeInclusive;

use ipnet::IpNet;

use super::config::Config;
use super::open_ports::OpenPorts;

/// Decides which addresses can be peers (RFC 8656 §9.2, §21.2.3).
pub(crate) struct PeerPolicy {
    public_ip4: Option<Ipv4Addr>,
    public_ip6: Option<Ipv6Addr>,
    own: Vec<IpAddr>,
    denied: Vec<IpNet>,
    allowed: Vec<IpNet>,
    allocation_ports: RangeInclusive<u16>,
    open_ports: OpenPorts,
}

impl PeerPolicy {
    pub(crate) fn new(config: &Config) -> Self {
        Self {
            public_ip4: config.public_ip4,
            public_ip6: config.public_ip6,
            own: config.own_addresses.clone(),
            denied: config.denied_peers.clone(),
            allowed: config.allowed_peers.clone(),
            allocation_ports: config.allocation_ports.clone(),
            open_ports: config.open_ports.clone(),
        }
    }

    /// These are this machine's addresses from now on.
    pub(crate) fn set_own(&mut self, addresses: &[IpAddr]) {
        self.own = addresses.to_vec();
    }

    /// Whether a permission for this address can be had.
    pub(crate) fn allows(&self, ip: IpAddr) -> bool {
        let is_in = |networks: &[IpNet]| networks.iter().any(|network| network.contains(&ip));
        if self.is_public(ip) || is_in(&self.allowed) {
            return true;
        }
        if self.own.contains(&ip) || is_in(&self.denied) {
            return false;
        }
        match ip {
            IpAddr::V4(ip) => !is_special_ip4(ip),
            IpAddr::V6(ip) => match translated(ip) {
                Some(ip) => {
                    // Behind the translator, ports of ours could not be told from others.
                    !is_private(ip) && !self.is_public(ip.into()) && self.allows(ip.into())
                }
                None => !is_special_ip6(ip),
            },
        }
    }

    /// Whether a channel to this address and port can be had: on our public addresses to what can be an allocation.
    pub(crate) fn allows_port(&self, peer: SocketAddr) -> bool {
        let port = peer.port();
        port != 0 && (self.allocation_ports.contains(&port) || !self.is_public(peer.ip()))
    }

    /// Whether data may go to this address and port now: on our public addresses to allocations only, never to a service.
    pub(crate) fn lets_through(&self, peer: SocketAddr) -> bool {
        peer.port() != 0 && (!self.is_public(peer.ip()) || self.open_ports.has(peer))
    }

    fn is_public(&self, ip: IpAddr) -> bool {
        match ip {
            IpAddr::V4(ip) => self.public_ip4 == Some(ip),
            IpAddr::V6(ip) => self.public_ip6 == Some(ip),
        }
    }
}

/// Addresses that are no host's on the internet or on a private network, or that clouds give their machines' own services.
fn is_special_ip4(ip: Ipv4Addr) -> bool {
    let is_reserved = ip.octets()[0] >= 240; // RFC 1112 §4, the broadcast address among them
    let is_this_network = ip.octets()[0] == 0; // RFC 1122 §3.2.1.3
    let is_protocols = ip.octets()[..3] == [192, 0, 0]; // RFC 6890 §2.2.2, and Oracle's metadata
    let is_cloud_s = CLOUD_IP4.contains(&ip);
    is_this_network
        || ip.is_loopback()
        || ip.is_link_local()
        || ip.is_multicast()
        || is_reserved
        || is_protocols
        || is_cloud_s
}

/// The same of IPv6: what is neither global unicast (RFC 4291 §2.4, as far as it is given out) nor unique local (RFC 4193),
/// and of these what leads to something else.
fn is_special_ip6(ip: Ipv6Addr) -> bool {
    let is_of = |prefix: u16, len: u32| (ip.segments()[0] ^ prefix) >> (16 - len) == 0;
    let is_host_s = is_of(0x2000, 3) || is_of(0xfc00, 7);
    // Teredo among them, behind which is an IPv4 address.
    let is_protocols = is_in(ip, Ipv6Addr::new(0x2001, 0, 0, 0, 0, 0, 0, 0), 23); // RFC 2928
    let is_6to4 = is_of(0x2002, 16); // RFC 3056
    // RFC 5214 §6.1: with the bit for universal addresses or without.
    let is_isatap = ip.segments()[4] & !0x0200 == 0 && ip.segments()[5] == 0x5efe;
    let is_cloud_s = CLOUD_IP6.iter().any(|(prefix, len)| is_in(ip, *prefix, *len));
    !is_host_s || is_protocols || is_6to4 || is_isatap || is_cloud_s
}

/// Metadata, name service and the like, which clouds serve to each machine: Azure, Alibaba.
const CLOUD_IP4: [Ipv4Addr; 2] =
    [Ipv4Addr::new(168, 63, 129, 16), Ipv4Addr::new(100, 100, 100, 200)];

/// The same of IPv6: Amazon, Google, Oracle, Scaleway.
const CLOUD_IP6: [(Ipv6Addr, u32); 4] = [
    (Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0), 32),
    (Ipv6Addr::new(0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254), 128),
    (Ipv6Addr::new(0xfd00, 0xc1, 0, 0, 0, 0, 0xa9fe, 0xa9fe), 128),
    (Ipv6Addr::new(0xfd00, 0x42, 0, 0, 0, 0, 0, 0x42), 128),
];

/// The IPv4 address to which a translator takes an IPv6 address (NAT64, RFC 6052 §2.1).
fn translated(ip: Ipv6Addr) -> Option<Ipv4Addr> {
    is_in(ip, Ipv6Addr::new(0x64, 0xff9b, 0, 0, 0, 0, 0, 0), 96)
        .then(|| Ipv4Addr::from_bits(ip.to_bits() as u32))
}

/// What RFC 6052 §3.1 has no translator take: RFC 1918, and RFC 6598 between a provider and its customers.
fn is_private(ip: Ipv4Addr) -> bool {
    let is_shared = ip.octets()[0] == 100 && ip.octets()[1] & 0xc0 == 64;
    ip.is_private() || is_shared
}

fn is_in(ip: Ipv6Addr, prefix: Ipv6Addr, len: u32) -> bool {
    (ip.to_bits() ^ prefix.to_bits()).leading_zeros() >= len
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::Credentials;

    #[test]
    fn peers_are_other_hosts() {
        let mut config = Config::new(Credentials::default(), [0; 32]);
        config.public_ip4 = Some([203, 0, 113, 1].into());
        config.public_ip6 = Some("2001:db8::1".parse().unwrap());
        config.own_addresses = vec!["10.0.0.5".parse().unwrap()];
        config.denied_peers =
            ["192.168.0.0/16", "198.51.100.200/32"].map(|network| network.parse().unwrap()).into();
        config.allowed_peers = vec!["127.0.0.2/32".parse().unwrap()];
        let policy = PeerPolicy::new(&config);
        for allowed in [
            "198.51.100.7",
            "10.0.0.6",
            "203.0.113.1",
            "2001:db8::1",
            "2001:db8:ffff::1",
            "2001:200::1",
            "2a00::1",
            "3fff:ffff::1",
            "2a00::100:5efe:7f00:1",
            "fc00::1",
            "fd00::1",
            "fd20:ce::1",
            "64:ff9b::198.51.100.7",
            "127.0.0.2",
        ] {
            assert!(policy.allows(allowed.parse().unwrap()), "{allowed}");
        }
        for denied in [
            "0.0.0.0",
            "0.1.2.3",
            "127.0.0.1",
            "127.255.0.1",
            "169.254.169.254",
            "224.0.0.1",
            "239.255.255.255",
            "240.0.0.1",
            "255.255.255.255",
            "10.0.0.5",
            "192.168.3.4",
            "::",
            "::1",
            "::ffff:198.51.100.7",
            "::ffff:0:198.51.100.7",
            "::127.0.0.1",
            "fe80::1",
            "ff02::1",
            "64:ff9b::7f00:1",
            "64:ff9b::10.0.0.5",
            "64:ff9b::10.0.0.6",
            "64:ff9b::100.64.0.1",
            "64:ff9b::203.0.113.1",
            "64:ff9b::198.51.100.200",
            "64:ff9b::168.63.129.16",
            "64:ff9b:1::198.51.100.7",
            "64:ff9b::1:0:0:7",
            "2002:7f00:1::1",
            "2002:c633:6407::1",
            "2001:0:7f00:1::1",
            "2001:1ff::1",
            "2a00::5efe:198.51.100.7",
            "fd00::200:5efe:198.51.100.7",
            "100::1",
            "1fff::1",
            "4000::1",
            "c0ac::1",
            "fbff::1",
            "fec0::1",
            "168.63.129.16",
            "100.100.100.200",
            "192.0.0.192",
            "fd00:ec2::254",
            "fd20:ce::254",
            "fd00:c1::a9fe:a9fe",
            "fd00:42::42",
        ] {
            assert!(!policy.allows(denied.parse().unwrap()), "{denied}");
        }
        for (peer, is_allowed) in [
            ("203.0.113.1:49152", true),
            ("203.0.113.1:3478", false),
            ("203.0.113.1:22", false),
            ("[2001:db8::1]:443", false),
            ("[2001:db8::1]:65535", true),
            ("198.51.100.7:3478", true),
            ("198.51.100.7:0", false),
        ] {
            assert_eq!(policy.allows_port(peer.parse().unwrap()), is_allowed, "{peer}");
        }
    }
}
