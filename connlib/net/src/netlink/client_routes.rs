use std::collections::BTreeSet;
use std::io;
use std::time::Duration;

use ipnet::IpNet;
use tokio::time::Instant;

use super::error::Error;
use super::interface::{Interface, Ipv6Support, MAIN_TABLE};
use super::message::Received;
use super::monitor::{Debounce, Monitor, groups};
use super::route::{self, Route};
use super::rule::{self, Rule};

/// `SO_MARK` of the sockets that must bypass the tunnel: those that carry the tunnel itself.
pub const SOCKET_MARK: u32 = 0xfd00_2021;

/// Routes of resources.
const RESOURCE_TABLE: u32 = 0x2021_fd00;
/// Copies of the main table's routes to neighbours.
const NEIGHBOUR_TABLE: u32 = 0x2021_fd01;
/// Default routes, of the Internet resource.
const INTERNET_TABLE: u32 = 0x2021_fd02;
const TABLES: [u32; 3] = [RESOURCE_TABLE, NEIGHBOUR_TABLE, INTERNET_TABLE];

/// Priorities of the rules, in the order of [`TABLES`]. The main table has 32766.
const PRIORITIES: [u32; 3] = [100, 200, 300];

/// How long the machine's routes must be quiet before they are copied, and how long a burst may put that off.
const QUIET: Duration = Duration::from_millis(500);
const LIMIT: Duration = Duration::from_secs(5);

const GROUPS: u32 = groups([
    libc::RTNLGRP_LINK,
    libc::RTNLGRP_IPV4_ROUTE,
    libc::RTNLGRP_IPV6_ROUTE,
    libc::RTNLGRP_IPV4_RULE,
    libc::RTNLGRP_IPV6_RULE,
]);

/// Steers a client's packets into its TUN device.
///
/// Three rules send every packet without [`SOCKET_MARK`] through three tables before the main one: the routes of
/// resources, then the machine's own neighbourhood (so that printers and routers stay reachable while the Internet
/// resource is on), then the default routes of the Internet resource. The main table is never written to.
///
/// ```no_run
/// # async fn run(tun: &str, mut resources: tokio::sync::mpsc::Receiver<Vec<ipnet::IpNet>>) -> Result<(), connlib_net::netlink::Error> {
/// let mut routes = connlib_net::netlink::ClientRoutes::install(tun)?;
/// loop {
///     tokio::select! {
///         Some(prefixes) = resources.recv() => { let _ = routes.set(prefixes)?; }
///         () = routes.changed() => { let _ = routes.sync()?; }
///         else => break,
///     }
/// }
/// routes.remove()
/// # }
/// ```
///
/// One per network namespace: the tables have fixed numbers. Dropping it removes the rules and empties the tables.
///
/// Trap for administrators: with *strict* reverse path filtering (`net.ipv4.conf.*.rp_filter` = 1), the kernel drops
/// answers to marked sockets while the Internet resource is on, because an answer carries no mark and its source seems to
/// lie behind the TUN device. The loose mode (2), which most distributions set, is fine.
pub struct ClientRoutes {
    tun: Interface,
    monitor: Monitor,
    debounce: Debounce,
    wanted: BTreeSet<IpNet>,
}

impl ClientRoutes {
    /// Puts the rules in place and clears what a crashed process left in the tables.
    ///
    /// Must be called within a tokio runtime.
    pub fn install(tun: &str) -> Result<Self, Error> {
        let monitor = Monitor::new(GROUPS).map_err(Error::during("listen to changes of routes"))?;
        let mut routes = Self {
            tun: Interface::open(tun)?,
            monitor,
            debounce: Debounce::new(QUIET, LIMIT),
            wanted: BTreeSet::new(),
        };
        routes.clear_tables()?;
        let _ = routes.sync()?;
        Ok(routes)
    }

    /// Makes these the prefixes that are reached through the tunnel.
    ///
    /// Default routes (a prefix length of 0) yield to the neighbourhood, all others come before it.
    pub fn set(&mut self, prefixes: impl IntoIterator<Item = IpNet>) -> Result<Ipv6Support, Error> {
        self.wanted = prefixes.into_iter().map(|prefix| prefix.trunc()).collect();
        self.sync_resources()
    }

    /// Waits until somebody else has changed links, routes or rules, and things have calmed down. Then call
    /// [`ClientRoutes::sync`].
    ///
    /// Cancel safe; our own changes do not count.
    pub async fn changed(&mut self) {
        let own_port = self.tun.socket().port();
        loop {
            tokio::select! {
                biased;
                () = self.monitor.changed(|message| is_relevant(message, own_port)) => {
                    self.debounce.note(Instant::now());
                }
                () = self.debounce.settled() => return,
            }
        }
    }

    /// Brings everything in line with the machine: copies routes to neighbours, and restores what others removed.
    pub fn sync(&mut self) -> Result<Ipv6Support, Error> {
        let support = Ipv6Support::of(self.tun.name());
        let rules: BTreeSet<Rule> = TABLES
            .into_iter()
            .zip(PRIORITIES)
            .map(|(table, priority)| Rule {
                priority,
                table,
                mark: SOCKET_MARK,
                mask: u32::MAX,
                is_inverted: true,
            })
            .collect();
        for family in support.families() {
            rule::replace(self.tun.socket(), *family, &TABLES, &rules)
                .map_err(Error::during("set rules for policy routing"))?;
        }
        self.copy_neighbours(support)
            .map_err(Error::during("copy the routes to the local network"))?;
        self.sync_resources()
    }

    /// Removes the rules and empties the tables.
    pub fn remove(mut self) -> Result<(), Error> {
        self.clear()
    }

    fn sync_resources(&mut self) -> Result<Ipv6Support, Error> {
        let (default, specific): (Vec<IpNet>, Vec<IpNet>) =
            self.wanted.iter().partition(|prefix| prefix.prefix_len() == 0);
        let resources = self.tun.set_routes(RESOURCE_TABLE, specific);
        let internet = self.tun.set_routes(INTERNET_TABLE, default);
        resources.and(internet)
    }

    fn copy_neighbours(&mut self, support: Ipv6Support) -> io::Result<()> {
        let tun = self.tun.index();
        let socket = self.tun.socket();
        for family in support.families() {
            let copies = route::neighbour_routes(socket, MAIN_TABLE, *family)?
                .into_iter()
                .filter(|listed| !listed.is_down)
                .map(|listed| listed.route)
                .filter(|route| route.interface != tun && is_neighbourhood(route))
                .collect();
            route::replace(socket, NEIGHBOUR_TABLE, *family, &copies, |_| true)?;
        }
        Ok(())
    }

    fn clear(&mut self) -> Result<(), Error> {
        let rules = Ipv6Support::of(self.tun.name()).families().iter().try_for_each(|family| {
            rule::replace(self.tun.socket(), *family, &TABLES, &BTreeSet::new())
                .map_err(Error::during("remove rules for policy routing"))
        });
        rules.and(self.clear_tables())
    }

    fn clear_tables(&mut self) -> Result<(), Error> {
        for table in TABLES {
            for family in Ipv6Support::of(self.tun.name()).families() {
                route::replace(self.tun.socket(), table, *family, &BTreeSet::new(), |_| true)
                    .map_err(Error::during("remove routes"))?;
            }
        }
        Ok(())
    }
}

impl Drop for ClientRoutes {
    fn drop(&mut self) {
        if let Err(error) = self.clear() {
            tracing::debug!(%error, "Failed to remove rules and routes");
        }
    }
}

/// Whether a route leads to neighbours, as far as it must be copied.
///
/// A default route without a gateway (PPP, cellular) looks like one, but is what the Internet resource replaces. The
/// kernel never sends packets for IPv6 link-local addresses to another interface than the one that they name.
fn is_neighbourhood(route: &Route) -> bool {
    let is_link_local = match route.prefix {
        IpNet::V4(_) => false,
        IpNet::V6(prefix) => prefix.addr().is_unicast_link_local() || prefix.addr().is_multicast(),
    };
    route.prefix.prefix_len() > 0 && !is_link_local
}

fn is_relevant(message: &Received<'_>, own_port: u32) -> bool {
    message.port != own_port
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_neighbourhood_is_copied() {
        let is_copied = |prefix: &str| is_neighbourhood(&Route::new(prefix.parse().unwrap(), 2));
        for prefix in ["192.168.1.0/24", "169.254.0.0/16", "2001:db8::/64", "fd00::/64"] {
            assert!(is_copied(prefix), "{prefix}");
        }
        for prefix in ["0.0.0.0/0", "::/0", "fe80::/64", "ff00::/8"] {
            assert!(!is_copied(prefix), "{prefix}");
        }
    }
}
