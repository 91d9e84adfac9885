//! Whom nobody may send to through the relay.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ops::RangeInclusive;

use ipnet::IpNet;

use super::config::Config;

/// Decides which addresses can be peers (RFC 8656 §9.2, §21.2.3).
pub(crate) struct PeerPolicy {
    public: Vec<IpAddr>,
    own: Vec<IpAddr>,
    denied: Vec<IpNet>,
    allowed: Vec<IpNet>,
    allocation_ports: RangeInclusive<u16>,
    service_ports: Vec<u16>,
}

impl PeerPolicy {
    pub(crate) fn new(config: &Config) -> Self {
        let ip4 = config.public_ip4.map(IpAddr::from);
        Self {
            public: ip4.into_iter().chain(config.public_ip6.map(IpAddr::from)).collect(),
            own: config.own_addresses.clone(),
            denied: config.denied_peers.clone(),
            allowed: config.allowed_peers.clone(),
            allocation_ports: config.allocation_ports.clone(),
            service_ports: config.service_ports.clone(),
        }
    }

    /// Whether a permission for this address can be had.
    pub(crate) fn allows(&self, ip: IpAddr) -> bool {
        let is_in = |networks: &[IpNet]| networks.iter().any(|network| network.contains(&ip));
        if self.public.contains(&ip) || is_in(&self.allowed) {
            return true;
        }
        let is_denied = is_special(ip) || self.own.contains(&ip) || is_in(&self.denied);
        !is_denied && embedded_ip4(ip).is_none_or(|ip| self.allows(ip.into()))
    }

    /// Whether data may go to this address and port: on our public addresses to allocations only, never to a service.
    pub(crate) fn allows_port(&self, peer: SocketAddr) -> bool {
        let port = peer.port();
        let is_allocation =
            self.allocation_ports.contains(&port) && !self.service_ports.contains(&port);
        port != 0 && (is_allocation || !self.public.contains(&peer.ip()))
    }
}

/// Addresses that are no host's on the internet, or this one's.
fn is_special(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => {
            let is_reserved = ip.octets()[0] >= 240; // RFC 1112 §4, the broadcast address among them
            let is_this_network = ip.octets()[0] == 0; // RFC 1122 §3.2.1.3
            is_this_network
                || ip.is_loopback()
                || ip.is_link_local()
                || ip.is_multicast()
                || is_reserved
        }
        IpAddr::V6(ip) => {
            let is_unspecified_or_loopback = ip.is_unspecified() || ip.is_loopback();
            is_unspecified_or_loopback || ip.is_unicast_link_local() || ip.is_multicast()
        }
    }
}

/// The IPv4 address to which an IPv6 address may lead.
fn embedded_ip4(ip: IpAddr) -> Option<Ipv4Addr> {
    let IpAddr::V6(ip) = ip else { return None };
    let bits = ip.to_bits();
    let prefix =
        |prefix: Ipv6Addr, len: u32| bits >> (128 - len) == prefix.to_bits() >> (128 - len);
    let is_mapped = prefix(Ipv6Addr::new(0, 0, 0, 0, 0, 0xffff, 0, 0), 96);
    let is_compatible = prefix(Ipv6Addr::UNSPECIFIED, 96);
    let is_nat64 = prefix(Ipv6Addr::new(0x64, 0xff9b, 0, 0, 0, 0, 0, 0), 96);
    let is_6to4 = prefix(Ipv6Addr::new(0x2002, 0, 0, 0, 0, 0, 0, 0), 16);
    if is_mapped || is_compatible {
        // Not on the wire between hosts: an operating system would take it for IPv4.
        Some(Ipv4Addr::UNSPECIFIED)
    } else if is_nat64 {
        Some(Ipv4Addr::from_bits(bits as u32))
    } else if is_6to4 {
        Some(Ipv4Addr::from_bits((bits >> 80) as u32))
    } else {
        None
    }
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
        config.denied_peers = vec!["192.168.0.0/16".parse().unwrap()];
        config.allowed_peers = vec!["127.0.0.2/32".parse().unwrap()];
        config.service_ports = vec![50_000];
        let policy = PeerPolicy::new(&config);
        for allowed in [
            "198.51.100.7",
            "10.0.0.6",
            "203.0.113.1",
            "2001:db8::1",
            "2a00::1",
            "fd00::1",
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
            "::127.0.0.1",
            "fe80::1",
            "ff02::1",
            "64:ff9b::7f00:1",
            "64:ff9b::10.0.0.5",
            "2002:7f00:1::1",
        ] {
            assert!(!policy.allows(denied.parse().unwrap()), "{denied}");
        }
        for (peer, is_allowed) in [
            ("203.0.113.1:49152", true),
            ("203.0.113.1:3478", false),
            ("203.0.113.1:22", false),
            ("203.0.113.1:50000", false),
            ("[2001:db8::1]:443", false),
            ("[2001:db8::1]:65535", true),
            ("198.51.100.7:3478", true),
            ("198.51.100.7:0", false),
        ] {
            assert_eq!(policy.allows_port(peer.parse().unwrap()), is_allowed, "{peer}");
        }
    }
}
