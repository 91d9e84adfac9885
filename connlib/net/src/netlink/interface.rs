use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use nix::net::if_::if_nametoindex;

use super::error::Error;
use super::route::Route;
use super::socket::Socket;
use super::{address, family, route};

/// The number of the routing table that `ip route` shows.
pub const MAIN_TABLE: u32 = libc::RT_TABLE_MAIN as u32;

/// Whether an interface can have IPv6 addresses and routes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Ipv6Support {
    /// IPv6 was configured like IPv4.
    Available,
    /// The kernel has no IPv6 or an administrator has disabled it: everything that is IPv6 was left out.
    Unavailable,
}

impl Ipv6Support {
    /// What the interface of this name has at this moment.
    pub fn of(interface: &str) -> Self {
        // The folder is missing if the kernel has no IPv6, or if the MTU is below 1280.
        let path = format!("/proc/sys/net/ipv6/conf/{interface}/disable_ipv6");
        match std::fs::read_to_string(path) {
            Ok(value) if value.trim() == "0" => Self::Available,
            _ => Self::Unavailable,
        }
    }

    /// The address families that can be configured.
    pub(crate) fn families(self) -> &'static [u8] {
        const BOTH: [u8; 2] = [libc::AF_INET as u8, libc::AF_INET6 as u8];
        match self {
            Self::Available => &BOTH,
            Self::Unavailable => &BOTH[..1],
        }
    }
}

/// A network interface of ours (the TUN device), whose addresses and routes we set.
///
/// It belongs to the network namespace of the thread that opened it.
pub struct Interface {
    name: String,
    index: u32,
    socket: Socket,
}

impl Interface {
    /// Finds the interface.
    pub fn open(name: &str) -> Result<Self, Error> {
        let index =
            if_nametoindex(name).map_err(|_| Error::NoInterface { name: name.to_owned() })?;
        let socket = Socket::route().map_err(Error::during("open a netlink socket"))?;
        Ok(Self { name: name.to_owned(), index, socket })
    }

    /// The interface's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The interface's number in its network namespace.
    pub fn index(&self) -> u32 {
        self.index
    }

    /// Makes these the interface's only addresses, as /32 and /128. IPv6 link-local addresses are left alone.
    ///
    /// They can be bound to as soon as this returns.
    pub fn set_addresses(
        &mut self,
        ipv4: Option<Ipv4Addr>,
        ipv6: Option<Ipv6Addr>,
    ) -> Result<Ipv6Support, Error> {
        let support = Ipv6Support::of(&self.name);
        let wanted: Vec<IpAddr> = ipv4
            .map(IpAddr::V4)
            .into_iter()
            .chain(ipv6.map(IpAddr::V6))
            .filter(|ip| support.families().contains(&family(*ip)))
            .collect();

        let current = address::addresses(&mut self.socket, Some(self.index))
            .map_err(Error::during("list the addresses of the TUN device"))?;
        let is_wanted = |address: &address::Address| {
            wanted.contains(&address.ip) && address.prefix_len == address::full_prefix(address.ip)
        };
        for surplus in current.iter().filter(|a| !is_wanted(a) && !a.is_link_local) {
            address::remove(&mut self.socket, surplus)
                .map_err(Error::during("remove an address from the TUN device"))?;
        }
        for ip in &wanted {
            if !current.iter().any(|address| address.ip == *ip && is_wanted(address)) {
                address::add(&mut self.socket, self.index, *ip)
                    .map_err(Error::during("add an address to the TUN device"))?;
            }
        }
        Ok(support)
    }

    /// Makes these our only routes to the interface in `table`; routes of other programs stay.
    ///
    /// All routes are tried; the error is the first that occurred. The interface must be up.
    pub fn set_routes(
        &mut self,
        table: u32,
        prefixes: impl IntoIterator<Item = IpNet>,
    ) -> Result<Ipv6Support, Error> {
        let support = Ipv6Support::of(&self.name);
        let index = self.index;
        let wanted: BTreeSet<Route> =
            prefixes.into_iter().map(|prefix| Route::new(prefix, index)).collect();
        let mut result = Ok(());
        for address_family in support.families() {
            let is_of_family = |r: &&Route| family(r.prefix.addr()) == *address_family;
            let wanted = wanted.iter().filter(is_of_family).cloned().collect();
            result = result.and(route::replace(
                &mut self.socket,
                table,
                *address_family,
                &wanted,
                |route| route.interface == index,
            ));
        }
        result.map_err(Error::during("set routes to the TUN device"))?;
        Ok(support)
    }

    pub(crate) fn socket(&mut self) -> &mut Socket {
        &mut self.socket
    }
}
