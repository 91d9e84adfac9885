//! The network between the ends: addresses, routers, and what becomes of datagrams.

mod nat;
pub(crate) mod streams;
pub(crate) mod stun;

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::{Duration, Instant};

use connlib_packet::Ecn;

pub use nat::Mapping;

use crate::model::ProbeId;
use crate::random::Random;
use nat::Nat;

/// The port that all hosts use.
const PORT: u16 = connlib_link::PREFERRED_PORT;

/// From a server to the backbone.
pub(crate) const SERVER_LATENCY: Duration = Duration::from_millis(5);

/// Where the STUN server listens.
pub(crate) const STUN_V4: SocketAddr =
    SocketAddr::new(IpAddr::V4(Ipv4Addr::new(198, 51, 100, 250)), 3478);
/// Where the STUN server listens.
pub(crate) const STUN_V6: SocketAddr =
    SocketAddr::new(IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0xffff, 0, 0, 0, 0, 1)), 3478);

/// Who sends and receives datagrams.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Node {
    /// A client, by its number.
    Client(usize),
    /// A gateway, by its number.
    Gateway(usize),
    /// The server that tells others their addresses.
    Stun,
    /// A relay, by its number.
    Relay(usize),
}

/// What a host's line to the internet is like.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Line {
    /// Time from the host to the backbone, and back.
    pub latency: Duration,
    /// Up to so much longer, for each datagram anew: this reorders them.
    pub jitter: Duration,
    /// Share of the datagrams that are lost, each way.
    pub loss: f64,
    /// Share of the datagrams that arrive twice.
    pub duplication: f64,
}

impl Line {
    /// A line that loses nothing.
    pub const fn clean(latency: Duration) -> Self {
        Self { latency, jitter: Duration::ZERO, loss: 0.0, duplication: 0.0 }
    }

    /// Whether each datagram arrives, and once.
    pub fn is_clean(&self) -> bool {
        self.loss == 0.0
    }
}

/// How a host is attached.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Access {
    /// Its line.
    pub line: Line,
    /// IPv4: `None` without, `Some(None)` with a public address, otherwise behind a router.
    pub ipv4: Option<Option<Mapping>>,
    /// IPv6: `None` without, `Some(None)` open, otherwise behind a firewall.
    pub ipv6: Option<Option<Mapping>>,
    /// How long routers remember those that were sent something.
    pub nat_lifetime: Duration,
}

impl Access {
    /// With a public IPv4 address.
    pub const fn public(line: Line) -> Self {
        Self { line, ipv4: Some(None), ipv6: None, nat_lifetime: Duration::from_secs(120) }
    }

    /// Behind a router.
    pub const fn behind(mapping: Mapping, line: Line) -> Self {
        Self { ipv4: Some(Some(mapping)), ..Self::public(line) }
    }

    /// With an open IPv6 address as well.
    pub const fn dual(mut self) -> Self {
        self.ipv6 = Some(None);
        self
    }
}

/// A datagram under way.
///
/// On its way from the backbone, `from` is the host that it goes to.
#[derive(Debug, Clone)]
pub(crate) struct Datagram {
    pub(crate) source: SocketAddr,
    pub(crate) destination: SocketAddr,
    pub(crate) payload: Vec<u8>,
    pub(crate) ecn: Ecn,
    /// The probe that is known to be inside, encrypted.
    pub(crate) cargo: Option<ProbeId>,
    from: Node,
}

impl Datagram {
    /// The host whose line it travels on.
    pub(crate) fn on_line_of(&self) -> Node {
        self.from
    }
}

/// What became of a datagram that was sent, or came to the backbone.
#[derive(Debug)]
pub(crate) enum Fate {
    /// It goes on at this time; if it was doubled, a copy as well.
    Travels(Instant, Datagram, Option<Instant>),
    /// The line lost it.
    Lost(Datagram),
    /// There is no way for it: no such address, a filter, a line that is down.
    Stopped(Datagram, &'static str),
}

#[derive(Debug)]
struct Host {
    line: Line,
    up: bool,
    ipv4: Option<SocketAddr>,
    ipv6: Option<SocketAddr>,
    /// By family: IPv4, IPv6.
    routers: [Option<usize>; 2],
    /// It receives on all ports, and sends from any.
    has_all_ports: bool,
}

impl Host {
    /// Whether a datagram can come here, or from here, with this address.
    fn has(&self, address: SocketAddr) -> bool {
        let mut own = [self.ipv4, self.ipv6].into_iter().flatten();
        own.any(|own| own == address || (self.has_all_ports && own.ip() == address.ip()))
    }
}

/// All hosts and routers.
#[derive(Debug)]
pub(crate) struct Internet {
    hosts: BTreeMap<Node, Host>,
    routers: Vec<Nat>,
    owners: BTreeMap<IpAddr, (Node, Option<usize>)>,
    /// Hosts whose networks let no datagrams through, and until when.
    walls: BTreeMap<Node, Instant>,
    given_out: u16,
    random: Random,
}

impl Internet {
    pub(crate) fn new(random: Random) -> Self {
        let mut internet = Self {
            hosts: BTreeMap::new(),
            routers: Vec::new(),
            owners: BTreeMap::new(),
            walls: BTreeMap::new(),
            given_out: 0,
            random,
        };
        internet.attach_server(Node::Stun, STUN_V4, STUN_V6);
        internet
    }

    /// Gives a server two addresses that everybody can reach, near the backbone.
    pub(crate) fn attach_server(&mut self, node: Node, ipv4: SocketAddr, ipv6: SocketAddr) {
        let host = Host {
            line: Line::clean(SERVER_LATENCY),
            up: true,
            ipv4: Some(ipv4),
            ipv6: Some(ipv6),
            routers: [None; 2],
            has_all_ports: matches!(node, Node::Relay(_)),
        };
        self.hosts.insert(node, host);
        self.owners.insert(ipv4.ip(), (node, None));
        self.owners.insert(ipv6.ip(), (node, None));
    }

    /// Gives a host new addresses in the place of those that it had, which nobody has any more.
    pub(crate) fn attach(&mut self, node: Node, access: Access) {
        self.detach(node);
        self.given_out += 1;
        let [high, low] = self.given_out.to_be_bytes();
        let mut routers = [None; 2];
        let public = IpAddr::from([203, 0, 113 + high, low]);
        let ipv4 = access.ipv4.map(|mapping| match mapping {
            None => {
                self.owners.insert(public, (node, None));
                SocketAddr::new(public, PORT)
            }
            Some(mapping) => {
                let router = self.add_router(mapping, public, access.nat_lifetime);
                self.owners.insert(public, (node, Some(router)));
                routers[0] = Some(router);
                // The same behind each router, as it is with those that people buy.
                SocketAddr::from(([192, 168, 1, 2], PORT))
            }
        });
        let global = IpAddr::from([0x2001, 0xdb8, self.given_out, 0, 0, 0, 0, 2]);
        let ipv6 = access.ipv6.map(|firewall| {
            let router =
                firewall.map(|_| self.add_router(Mapping::Firewall, global, access.nat_lifetime));
            self.owners.insert(global, (node, router));
            routers[1] = router;
            SocketAddr::new(global, PORT)
        });
        let (line, has_all_ports) = (access.line, false);
        let host = Host { line, up: true, ipv4, ipv6, routers, has_all_ports };
        self.hosts.insert(node, host);
    }

    /// Takes a host's addresses away.
    pub(crate) fn detach(&mut self, node: Node) {
        self.owners.retain(|_, (owner, _)| *owner != node);
        self.hosts.remove(&node);
    }

    /// Pulls a host's plug, or puts it back; addresses stay.
    pub(crate) fn set_up(&mut self, node: Node, up: bool) {
        if let Some(host) = self.hosts.get_mut(&node) {
            host.up = up;
        }
    }

    pub(crate) fn set_line(&mut self, node: Node, line: Line) {
        if let Some(host) = self.hosts.get_mut(&node) {
            host.line = line;
        }
    }

    /// The networks that a host is in let no datagrams through until then.
    pub(crate) fn wall(&mut self, node: Node, until: Instant) {
        let wall = self.walls.entry(node).or_insert(until);
        *wall = until.max(*wall);
    }

    /// Until when a host is behind a wall.
    pub(crate) fn walled_until(&self, node: Node) -> Option<Instant> {
        self.walls.get(&node).copied()
    }

    fn is_walled(&self, node: Node, now: Instant) -> bool {
        self.walls.get(&node).is_some_and(|until| now < *until)
    }

    /// A host's routers restart.
    pub(crate) fn restart_routers(&mut self, node: Node) {
        let Some(host) = self.hosts.get(&node) else { return };
        for router in host.routers.into_iter().flatten() {
            self.routers[router].forget();
        }
    }

    /// What a host's interfaces have, with the port of its socket.
    pub(crate) fn addresses(&self, node: Node) -> Vec<SocketAddr> {
        let host = self.hosts.get(&node);
        host.map(|host| host.ipv4.into_iter().chain(host.ipv6).collect()).unwrap_or_default()
    }

    /// Time there and back between two hosts, at its longest.
    pub(crate) fn round_trip(&self, a: Node, b: Node) -> Duration {
        let one_way = |node| {
            self.hosts
                .get(&node)
                .map_or(Duration::ZERO, |host| host.line.latency + host.line.jitter)
        };
        2 * (one_way(a) + one_way(b))
    }

    /// A host sends a datagram; without `local` from whatever address fits.
    #[expect(clippy::too_many_arguments, reason = "a datagram has as many parts")]
    pub(crate) fn send(
        &mut self,
        from: Node,
        local: Option<SocketAddr>,
        destination: SocketAddr,
        payload: Vec<u8>,
        ecn: Ecn,
        cargo: Option<ProbeId>,
        now: Instant,
    ) -> Fate {
        let fits = |source: &SocketAddr| source.is_ipv4() == destination.is_ipv4();
        let source = match local {
            Some(local) => {
                let is_own = self.hosts.get(&from).is_some_and(|host| host.has(local));
                Some(local).filter(|_| is_own).filter(fits)
            }
            None => self.addresses(from).into_iter().find(fits),
        };
        let inside = source.or(local).unwrap_or(destination);
        let mut datagram = Datagram { source: inside, destination, payload, ecn, cargo, from };
        let (Some(source), Some(host)) = (source, self.hosts.get(&from)) else {
            return Fate::Stopped(datagram, "no such source address");
        };
        if !host.up {
            return Fate::Stopped(datagram, "line is down");
        }
        if self.is_walled(from, now) {
            return Fate::Stopped(datagram, "meets a wall");
        }
        let line = host.line;
        if let Some(router) = host.routers[usize::from(source.is_ipv6())] {
            datagram.source = self.routers[router].outbound(source, destination, now);
        }
        self.travel(line, datagram, now)
    }

    /// A datagram has come to the backbone.
    pub(crate) fn forward(&mut self, mut datagram: Datagram, now: Instant) -> Fate {
        let Some((node, router)) = self.owners.get(&datagram.destination.ip()).copied() else {
            return Fate::Stopped(datagram, "nobody has this address");
        };
        if let Some(router) = router {
            let Some(inside) =
                self.routers[router].inbound(datagram.destination, datagram.source, now)
            else {
                return Fate::Stopped(datagram, "filtered");
            };
            datagram.destination = inside;
        }
        match self.hosts.get(&node) {
            Some(_) if self.is_walled(node, now) => Fate::Stopped(datagram, "meets a wall"),
            Some(host) if host.up => {
                let line = host.line;
                datagram.from = node;
                self.travel(line, datagram, now)
            }
            _ => Fate::Stopped(datagram, "line is down"),
        }
    }

    /// Whom a datagram that [`forward`](Self::forward) let travel arrives at.
    pub(crate) fn receiver(&self, datagram: &Datagram) -> Option<Node> {
        let host = self.hosts.get(&datagram.from)?;
        (host.up && host.has(datagram.destination)).then_some(datagram.from)
    }

    fn travel(&mut self, line: Line, datagram: Datagram, now: Instant) -> Fate {
        let random = &mut self.random;
        let is_lost = random.chance(line.loss);
        let is_doubled = random.chance(line.duplication);
        let arrival = now + line.latency + random.duration(Duration::ZERO, line.jitter);
        let copy = now + line.latency + random.duration(Duration::ZERO, line.jitter);
        if is_lost {
            return Fate::Lost(datagram);
        }
        Fate::Travels(arrival, datagram, is_doubled.then_some(copy))
    }

    fn add_router(&mut self, mapping: Mapping, public: IpAddr, lifetime: Duration) -> usize {
        self.routers.push(Nat::new(mapping, public, lifetime));
        self.routers.len() - 1
    }
}
