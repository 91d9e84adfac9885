//! The addresses of the host, for host candidates (RFC 8445 §5.1.1.1).

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::{fs, io};

use nix::ifaddrs::{InterfaceAddress, getifaddrs};
use nix::net::if_::InterfaceFlags;

/// More addresses than this are not worth a connectivity check each.
pub const MAX_INTERFACE_ADDRESSES: usize = 16;

/// The addresses that peers may reach this host at: of interfaces that are up, without loopback, link-local ones and
/// those of the interface `own_tun`. At most [`MAX_INTERFACE_ADDRESSES`], IPv4 and IPv6 in turn.
///
/// An interface with stable IPv6 addresses is known by these alone; otherwise by its temporary ones (RFC 8981), and by
/// deprecated ones only if it has no others. Addresses that are still being checked for duplicates can't be used yet.
///
/// # Errors
///
/// If the kernel does not list its addresses.
pub fn interfaces(own_tun: &str) -> io::Result<Vec<IpAddr>> {
    // Without this file (a container may hide it) all addresses are taken for stable ones. The thread's, not the
    // process's, which may be in another network namespace.
    let table = fs::read_to_string("/proc/thread-self/net/if_inet6").unwrap_or_default();
    let states = parse_states(&table);
    let found = getifaddrs()?
        .filter(|address| address.interface_name != own_tun)
        .filter_map(|address| Some((address.interface_name.clone(), usable_ip(&address)?)));
    Ok(choose(found, &states))
}

fn usable_ip(address: &InterfaceAddress) -> Option<IpAddr> {
    let flags = address.flags;
    if !flags.contains(InterfaceFlags::IFF_UP) || flags.contains(InterfaceFlags::IFF_LOOPBACK) {
        return None;
    }
    let storage = address.address.as_ref()?;
    let ip = match (storage.as_sockaddr_in(), storage.as_sockaddr_in6()) {
        (Some(v4), _) => IpAddr::V4(v4.ip()),
        (_, Some(v6)) => IpAddr::V6(v6.ip()),
        _ => return None,
    };
    let is_local = match ip {
        IpAddr::V4(ip) => ip.is_loopback() || ip.is_link_local() || ip.is_unspecified(),
        IpAddr::V6(ip) => ip.is_loopback() || ip.is_unicast_link_local() || ip.is_unspecified(),
    };
    (!is_local).then_some(ip)
}

/// How good an IPv6 address is for peers to know.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum State {
    Stable,
    Temporary,
    Deprecated,
    Unusable,
}

impl State {
    /// From the `IFA_F_*` flags.
    fn from_flags(flags: u32) -> Self {
        match flags {
            _ if flags & (libc::IFA_F_TENTATIVE | libc::IFA_F_DADFAILED) != 0
                && flags & libc::IFA_F_OPTIMISTIC == 0 =>
            {
                Self::Unusable
            }
            _ if flags & libc::IFA_F_DEPRECATED != 0 => Self::Deprecated,
            _ if flags & libc::IFA_F_TEMPORARY != 0 => Self::Temporary,
            _ => Self::Stable,
        }
    }
}

/// Reads `if_inet6`: address, interface index, prefix length, scope, flags (all hexadecimal), interface name.
fn parse_states(table: &str) -> HashMap<Ipv6Addr, State> {
    table
        .lines()
        .filter_map(|line| {
            let mut fields = line.split_ascii_whitespace();
            let address = u128::from_str_radix(fields.next()?, 16).ok()?;
            let flags = u32::from_str_radix(fields.nth(3)?, 16).ok()?;
            Some((address.into(), State::from_flags(flags)))
        })
        .collect()
}

fn choose(
    found: impl IntoIterator<Item = (String, IpAddr)>,
    states: &HashMap<Ipv6Addr, State>,
) -> Vec<IpAddr> {
    let (mut v4, mut v6) = (Vec::new(), Vec::new());
    for (interface, ip) in found {
        match ip {
            IpAddr::V4(_) => v4.push(ip),
            IpAddr::V6(address) => {
                let state = states.get(&address).copied().unwrap_or(State::Stable);
                v6.push((interface, ip, state));
            }
        }
    }
    let mut best = HashMap::new();
    for (interface, _, state) in &v6 {
        let entry = best.entry(interface.as_str()).or_insert(*state);
        *entry = (*entry).min(*state);
    }
    let mut v6 = v6
        .iter()
        .filter(|(interface, _, state)| {
            *state != State::Unusable && best.get(interface.as_str()) == Some(state)
        })
        .map(|(_, ip, _)| *ip);
    let mut v4 = v4.into_iter();

    // In turn, so that a host with very many addresses of one family (bridges of containers) offers both.
    let mut chosen = Vec::new();
    loop {
        let pair = [v4.next(), v6.next()];
        if pair == [None, None] || chosen.len() >= MAX_INTERFACE_ADDRESSES {
            break;
        }
        // One address may be on several interfaces.
        for ip in pair.into_iter().flatten() {
            if !chosen.contains(&ip) {
                chosen.push(ip);
            }
        }
    }
    chosen.truncate(MAX_INTERFACE_ADDRESSES);
    chosen
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    const TABLE: &str = "\
20010db8000000000000000000000001 02 40 00 80     eth0
20010db8000000000000000000000002 02 40 00 01     eth0
20010db8000000000000000000000003 02 40 00 20     eth0
20010db8000100000000000000000002 03 40 00 01    wlan0
20010db8000100000000000000000003 03 40 00 21    wlan0
20010db8000200000000000000000003 04 40 00 a0     eth1
20010db8000300000000000000000001 05 40 00 40     eth2
garbage
";

    #[test]
    fn each_interface_offers_its_best_ipv6_addresses() {
        let found = [
            ("eth0", "2001:db8::1"),
            ("eth0", "2001:db8::2"),
            ("eth0", "2001:db8::3"),
            ("wlan0", "2001:db8:1::2"),
            ("wlan0", "2001:db8:1::3"),
            ("eth1", "2001:db8:2::3"),
            ("eth2", "2001:db8:3::1"),
            ("eth2", "192.0.2.1"),
            ("unlisted", "2001:db8:4::1"),
        ]
        .map(|(interface, address)| (interface.to_owned(), ip(address)));
        assert_eq!(
            choose(found, &parse_states(TABLE)),
            ["192.0.2.1", "2001:db8::1", "2001:db8:1::2", "2001:db8:2::3", "2001:db8:4::1"].map(ip)
        );
    }

    #[test]
    fn a_host_with_many_addresses_offers_a_few_of_both_families() {
        let found = (0..=255)
            .map(|n| ("eth0".to_owned(), IpAddr::from([192, 0, 2, n / 2])))
            .chain([("eth0".to_owned(), ip("2001:db8::1"))]);
        let chosen = choose(found, &HashMap::new());
        assert_eq!(chosen.len(), MAX_INTERFACE_ADDRESSES);
        assert_eq!(chosen[..4], ["192.0.2.0", "2001:db8::1", "192.0.2.1", "192.0.2.2"].map(ip));
    }
}
