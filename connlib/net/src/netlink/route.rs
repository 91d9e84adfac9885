//! Routes: sets of them in a table, replaced by their difference.

use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

use super::message::{ACK, APPEND, Attributes, CREATE, Message, attributes, u32_at};
use super::socket::Socket;
use super::{family, ip_from_bytes, ip_to_bytes};

/// `struct rtmsg`: family, destination and source prefix lengths, TOS, table, protocol, scope, type, flags.
const RTMSG_LEN: usize = 12;
const TYPE_OFFSET: usize = 7;
const FLAGS_OFFSET: usize = 8;

/// Marks our routes (`ip route` shows `proto 253`), so that no other route is ever removed.
pub(crate) const PROTOCOL: u8 = 253;

const RTN_UNICAST: u8 = 1;
const RT_SCOPE_UNIVERSE: u8 = 0;
const RT_SCOPE_LINK: u8 = 253;
/// What the kernel gives to an IPv6 route without a metric.
const DEFAULT_METRIC_V6: u32 = 1024;
/// `RTM_F_CLONED`: a cache entry and not a route.
const CLONED: u32 = 0x200;
/// `RTNH_F_DEAD | RTNH_F_LINKDOWN`: the interface is switched off, or without carrier.
const DOWN: u32 = 1 | 16;

/// A route to a neighbourhood: packets leave by the interface without a router in between.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Route {
    pub(crate) prefix: IpNet,
    pub(crate) interface: u32,
    pub(crate) metric: u32,
    /// The source address that local programs get.
    pub(crate) source: Option<IpAddr>,
}

impl Route {
    /// The usual route for `prefix` into an interface.
    pub(crate) fn new(prefix: IpNet, interface: u32) -> Self {
        let metric = if prefix.addr().is_ipv4() { 0 } else { DEFAULT_METRIC_V6 };
        // The kernel refuses IPv4 prefixes with host bits.
        Self { prefix: prefix.trunc(), interface, metric, source: None }
    }
}

/// A [`Route`] with what tells ours from others'.
pub(crate) struct Listed {
    pub(crate) route: Route,
    pub(crate) protocol: u8,
    /// The interface can't carry packets now.
    pub(crate) is_down: bool,
}

/// Makes `wanted` the only routes of ours in `table` among those that `is_in_scope` selects.
///
/// A route that fails does not keep the others from being set; the first failure is returned.
pub(crate) fn replace(
    socket: &mut Socket,
    table: u32,
    family: u8,
    wanted: &BTreeSet<Route>,
    is_in_scope: impl Fn(&Route) -> bool,
) -> io::Result<()> {
    let current: BTreeSet<Route> = neighbour_routes(socket, table, family)?
        .into_iter()
        .filter(|listed| listed.protocol == PROTOCOL && is_in_scope(&listed.route))
        .map(|listed| listed.route)
        .collect();

    let mut result = Ok(());
    // New ones first: a prefix that moves to another route is never without one.
    for route in wanted.difference(&current) {
        let added = ignore(io::ErrorKind::AlreadyExists, add(socket, table, route));
        if let Err(error) = &added {
            tracing::debug!(prefix = %route.prefix, table, %error, "Failed to add a route");
        }
        result = result.and(added);
    }
    for route in current.difference(wanted) {
        let removed = match remove(socket, table, route) {
            // ESRCH: it went with its interface or address.
            Err(error) if error.raw_os_error() == Some(libc::ESRCH) => Ok(()),
            removed => removed,
        };
        result = result.and(removed);
    }
    result
}

/// All unicast routes of `table` that lead to an interface without a gateway.
pub(crate) fn neighbour_routes(
    socket: &mut Socket,
    table: u32,
    family: u8,
) -> io::Result<Vec<Listed>> {
    let result = socket.dump(
        libc::RTM_GETROUTE,
        &header(family, 0, 0, 0, 0),
        &Attributes::new().u32(libc::RTA_TABLE, table),
        |message| parse(message.payload, table),
    );
    match result {
        // A table that never had a route does not exist.
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        result => result,
    }
}

/// Where a packet to `destination` with this firewall mark would leave: the interface and the gateway.
///
/// `None` if it would not: no route, a route that forbids, or a kernel without this address family.
pub(crate) fn look_up(
    socket: &mut Socket,
    destination: IpAddr,
    mark: u32,
) -> Option<(u32, Option<IpAddr>)> {
    let header = header(family(destination), super::address::full_prefix(destination), 0, 0, 0);
    let query =
        Attributes::new().bytes(libc::RTA_DST, &ip_to_bytes(destination)).u32(libc::RTA_MARK, mark);
    let mut found = None;
    let request = Message::new(libc::RTM_GETROUTE, ACK, &header, &query);
    let result = socket.request(request, |message| {
        let (mut interface, mut gateway) = (None, None);
        for (kind, value) in attributes(message.payload, RTMSG_LEN) {
            match kind {
                libc::RTA_OIF => interface = u32_at(value, 0),
                libc::RTA_GATEWAY => gateway = ip_from_bytes(value),
                // An IPv4 route by way of an IPv6 router: family, then address.
                libc::RTA_VIA => gateway = value.get(2..).and_then(ip_from_bytes),
                _ => {}
            }
        }
        let is_unicast = message.payload.get(TYPE_OFFSET) == Some(&RTN_UNICAST);
        found = interface.filter(|_| is_unicast).map(|interface| (interface, gateway));
    });
    result.ok().and(found)
}

/// Whether a notification speaks of a default route in the main table.
pub(crate) fn is_main_default(payload: &[u8]) -> bool {
    matches!(payload, [_, 0, _, _, libc::RT_TABLE_MAIN, ..])
}

fn add(socket: &mut Socket, table: u32, route: &Route) -> io::Result<()> {
    // APPEND and not EXCL: two interfaces may lead to the same prefix, say by cable and by radio.
    socket.request(request(libc::RTM_NEWROUTE, ACK | CREATE | APPEND, table, route), |_| {})
}

fn remove(socket: &mut Socket, table: u32, route: &Route) -> io::Result<()> {
    socket.request(request(libc::RTM_DELROUTE, ACK, table, route), |_| {})
}

fn request(kind: u16, flags: u16, table: u32, route: &Route) -> Message {
    let address = route.prefix.addr();
    let scope = if address.is_ipv4() { RT_SCOPE_LINK } else { RT_SCOPE_UNIVERSE };
    let header = header(family(address), route.prefix.prefix_len(), PROTOCOL, scope, RTN_UNICAST);
    let mut attributes = Attributes::new()
        .u32(libc::RTA_TABLE, table)
        .bytes(libc::RTA_DST, &ip_to_bytes(address))
        .u32(libc::RTA_OIF, route.interface)
        .u32(libc::RTA_PRIORITY, route.metric);
    if let Some(source) = route.source {
        attributes = attributes.bytes(libc::RTA_PREFSRC, &ip_to_bytes(source));
    }
    Message::new(kind, flags, &header, &attributes)
}

/// The table has eight bits here; ours are larger and go into an attribute.
fn header(family: u8, prefix_len: u8, protocol: u8, scope: u8, kind: u8) -> [u8; RTMSG_LEN] {
    [family, prefix_len, 0, 0, 0, protocol, scope, kind, 0, 0, 0, 0]
}

fn parse(payload: &[u8], wanted_table: u32) -> Option<Listed> {
    let &[family, prefix_len, _, _, table, protocol, scope, kind, ..] = payload else {
        return None;
    };
    let flags = u32_at(payload, FLAGS_OFFSET)?;
    let unspecified = match i32::from(family) {
        libc::AF_INET => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        libc::AF_INET6 => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        _ => return None,
    };
    let (mut table, mut destination) = (u32::from(table), unspecified);
    let (mut interface, mut metric, mut source) = (None, 0, None);
    for (kind, value) in attributes(payload, RTMSG_LEN) {
        match kind {
            libc::RTA_TABLE => table = u32_at(value, 0)?,
            libc::RTA_DST => destination = ip_from_bytes(value)?,
            libc::RTA_OIF => interface = u32_at(value, 0),
            libc::RTA_PRIORITY => metric = u32_at(value, 0)?,
            libc::RTA_PREFSRC => source = ip_from_bytes(value),
            libc::RTA_GATEWAY | libc::RTA_VIA | libc::RTA_MULTIPATH => return None,
            _ => {}
        }
    }
    let is_neighbour = kind == RTN_UNICAST && (scope == RT_SCOPE_LINK || unspecified.is_ipv6());
    if table != wanted_table || !is_neighbour || flags & CLONED != 0 {
        return None;
    }
    let prefix = IpNet::new(destination, prefix_len).ok()?;
    let route = Route { prefix, interface: interface?, metric, source };
    Some(Listed { route, protocol, is_down: flags & DOWN != 0 })
}

fn ignore(kind: io::ErrorKind, result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == kind => Ok(()),
        result => result,
    }
}
