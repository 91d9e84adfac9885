use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::netlink::{SOCKET_MARK, Socket, address, link, route};

/// Addresses that nobody has, by which the ways to the Internet are found: from the ranges for documentation.
const SOMEWHERE_V4: IpAddr = IpAddr::V4(Ipv4Addr::new(198, 51, 100, 1));
const SOMEWHERE_V6: IpAddr = IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1));

/// Flags of addresses that no new connection should use: not yet proven unique, not unique, about to expire.
const UNUSABLE: u32 = libc::IFA_F_TENTATIVE | libc::IFA_F_DADFAILED | libc::IFA_F_DEPRECATED;

/// What the outside of the machine looks like.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Network {
    /// The addresses of all interfaces that are up and have a carrier, in the order of interfaces and addresses. Our own
    /// interface, loopback and link-local addresses are left out, and so are IPv6 privacy addresses, which change by the
    /// hour, where there are others.
    pub addresses: Vec<InterfaceAddress>,
    /// How our packets leave for the IPv4 Internet, if they can.
    pub uplink_v4: Option<Uplink>,
    /// How our packets leave for the IPv6 Internet, if they can.
    pub uplink_v6: Option<Uplink>,
    /// How often these interfaces have lost their carrier. A radio that changes to another network can keep its address.
    carrier_losses: Vec<(u32, u32)>,
}

/// An address of this machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct InterfaceAddress {
    /// The number of the interface.
    pub interface: u32,
    /// The address.
    pub address: IpAddr,
}

/// A way to the Internet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Uplink {
    /// The number of the interface.
    pub interface: u32,
    /// The router, unless the interface leads to just one place.
    pub gateway: Option<IpAddr>,
}

impl Network {
    /// Looks at the machine, leaving out the interface `tun`.
    pub(super) fn read(socket: &mut Socket, tun: Option<u32>) -> io::Result<Self> {
        let mut links = link::links(socket)?;
        links.retain(|index, link| link.is_running && !link.is_loopback && Some(*index) != tun);

        let mut usable = address::addresses(socket, None)?;
        usable.retain(|address| links.contains_key(&address.interface) && is_usable(address));
        let has_stable = |interface| {
            usable.iter().any(|a| a.interface == interface && a.ip.is_ipv6() && !is_temporary(a))
        };
        let mut addresses: Vec<InterfaceAddress> = usable
            .iter()
            .filter(|address| !is_temporary(address) || !has_stable(address.interface))
            .map(|address| InterfaceAddress { interface: address.interface, address: address.ip })
            .collect();
        addresses.sort_unstable();

        links.retain(|index, _| addresses.iter().any(|address| address.interface == *index));
        let mut uplink = |destination| {
            route::look_up(socket, destination, SOCKET_MARK)
                .filter(|(interface, _)| Some(*interface) != tun)
                .map(|(interface, gateway)| Uplink { interface, gateway })
        };
        Ok(Self {
            uplink_v4: uplink(SOMEWHERE_V4),
            uplink_v6: uplink(SOMEWHERE_V6),
            addresses,
            carrier_losses: links.iter().map(|(index, l)| (*index, l.carrier_losses)).collect(),
        })
    }

    /// Whether what went out before goes out as it did: by the same interfaces and routers, with the same addresses.
    pub(super) fn has_ways_of(&self, before: &Self) -> bool {
        let ways = |network: &Self| [network.uplink_v4, network.uplink_v6];
        let on_ways = |interface: &u32| {
            ways(before).iter().flatten().any(|uplink| uplink.interface == *interface)
        };
        let mut addresses = before.addresses.iter().filter(|it| on_ways(&it.interface));
        let mut losses = before.carrier_losses.iter().filter(|(interface, _)| on_ways(interface));
        ways(self) == ways(before)
            && ways(before) != [None; 2]
            && addresses.all(|address| self.addresses.contains(address))
            && losses.all(|losses| self.carrier_losses.contains(losses))
    }
}

fn is_usable(address: &address::Address) -> bool {
    address.flags & UNUSABLE == 0 && !address.is_link_local
}

/// Whether it is a privacy address (RFC 8981).
fn is_temporary(address: &address::Address) -> bool {
    // The flag that says *temporary* of an IPv6 address says *secondary* of an IPv4 one.
    address.ip.is_ipv6() && address.flags & libc::IFA_F_TEMPORARY != 0
}
