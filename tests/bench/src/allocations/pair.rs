//! A client's and a gateway's tunnel on a network in memory, and a portal that answers at once.

use std::{
    collections::VecDeque,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use connlib_link::{SendQueue, Transmit};
use connlib_packet::{
    Coalesce, Ecn, Headers, Offload, PacketBatch, Scratch, TunPacket, build, plan,
};
use connlib_tunnel::{
    Authorization, AuthorizedClient, AuthorizedResource, ClientId, Datagrams, Filter, Filters,
    GatewayConfig, GatewayEvent, GatewayId, GatewayTunnel, IceCredentials, LinkKeys, Output,
    ResourceId, SiteId, Target,
    client::{self, ClientConfig, ClientEvent, ClientTunnel},
};
use serde::Serialize;

use super::templates::{PORT, Template};

const CLIENT: ClientId = ClientId::from_u128(1);
const GATEWAY: GatewayId = GatewayId::from_u128(2);
const NETWORK: ResourceId = ResourceId::from_u128(3);
const NAMES: ResourceId = ResourceId::from_u128(4);

const CLIENT_V4: Ipv4Addr = Ipv4Addr::new(100, 64, 0, 1);
const CLIENT_V6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x2021, 0x1111, 0, 0, 0, 0, 1);
const GATEWAY_V4: Ipv4Addr = Ipv4Addr::new(100, 64, 0, 2);
const GATEWAY_V6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x2021, 0x1111, 0, 0, 0, 0, 2);
const CLIENT_OUTSIDE: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)), 52625);
const GATEWAY_OUTSIDE: SocketAddr =
    SocketAddr::new(IpAddr::V4(Ipv4Addr::new(198, 51, 100, 1)), 52625);
const IN_NETWORK: Ipv4Addr = Ipv4Addr::new(10, 20, 0, 10);
const BEHIND_NAME: Ipv4Addr = Ipv4Addr::new(10, 30, 0, 10);
const RESOLVER: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(192, 0, 2, 53)), 53);

/// Time between two reads from a TUN device: about what a busy tunnel sees.
const STEP: Duration = Duration::from_micros(100);
const ALL_OFFLOADS: Coalesce = Coalesce { tcp: true, udp: true };
/// A query for the A records of `web.office.example`.
const QUERY: &[u8] = b"\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\
    \x03web\x06office\x07example\x00\x00\x01\x00\x01";

/// As the client sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Direction {
    Up,
    Down,
}

impl Direction {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Up => "up",
            Self::Down => "down",
        }
    }
}

/// What came out of the other TUN device.
#[derive(Debug, Clone, Copy)]
pub(super) struct Delivery {
    pub(super) packets: u32,
    /// Where its packets come from.
    pub(super) source: SocketAddr,
    /// Where they go to.
    pub(super) destination: SocketAddr,
}

/// The two tunnels, and what their hosts would have.
pub(super) struct Pair {
    now: Instant,
    client: ClientTunnel,
    gateway: GatewayTunnel,
    client_timeout: Instant,
    gateway_timeout: Instant,
    /// Buffers that a host has: they serve both directions in turn.
    tun: Vec<u8>,
    queue: SendQueue,
    batch: PacketBatch,
    scratch: Scratch,
    /// Datagrams under way that are not part of the traffic.
    wire: VecDeque<(Direction, Transmit)>,
    /// Packets that the client's tunnel itself had for applications: answers of DNS.
    answers: Vec<Vec<u8>>,
    /// The address of our DNS server.
    sentinel: Option<IpAddr>,
}

impl Pair {
    /// Two tunnels that have found each other.
    pub(super) fn connect() -> Result<Self> {
        let now = Instant::now();
        let client = ClientConfig { seed: [1; 32], ..ClientConfig::default() };
        let gateway = GatewayConfig { seed: [2; 32], ..GatewayConfig::default() };
        let mut pair = Self {
            now,
            client: ClientTunnel::new(client, now),
            gateway: GatewayTunnel::new(&gateway, now),
            client_timeout: now,
            gateway_timeout: now,
            tun: vec![0; 1 << 16],
            queue: SendQueue::new(192 * 1024),
            batch: PacketBatch::new(160 * 1024, 512),
            scratch: Scratch::default(),
            wire: VecDeque::new(),
            answers: Vec::new(),
            sentinel: None,
        };
        pair.gateway.set_interface(GATEWAY_V4, GATEWAY_V6);
        pair.gateway.set_local_addresses(&[GATEWAY_OUTSIDE], now);
        pair.client.set_local_addresses(&[CLIENT_OUTSIDE], now);
        pair.client.set_system_resolvers(vec![RESOLVER], now);
        pair.client.set_interface(interface(), now);
        pair.client.set_resources(vec![network()?, names()?], now);

        for address in [pair.network(), pair.name()?] {
            let mut packet = [0; 100];
            let server = SocketAddr::new(address, PORT);
            let len = build::udp(&mut packet, pair.client_socket(), server, b"hello")?;
            pair.inject(&mut packet[..len])?;
            pair.wait(Duration::from_secs(5))?;
        }
        Ok(pair)
    }

    /// An address of the network.
    pub(super) fn network(&self) -> IpAddr {
        IN_NETWORK.into()
    }

    /// The address that applications see of a name.
    pub(super) fn name(&mut self) -> Result<IpAddr> {
        self.wait(Duration::ZERO)?;
        let sentinel = self.sentinel.context("the client has no DNS server")?;
        let mut packet = [0; 100];
        let server = SocketAddr::new(sentinel, 53);
        let len = build::udp(&mut packet, self.client_socket(), server, QUERY)?;
        self.inject(&mut packet[..len])?;
        self.wait(Duration::ZERO)?;
        let answer = self.answers.pop().context("the client does not answer queries")?;
        let addresses = answer.windows(4).map(|bytes| {
            let octets: [u8; 4] = bytes.try_into().unwrap_or_default();
            IpAddr::from(octets)
        });
        // Behind the header, which has the DNS server's own address.
        let mut addresses = addresses.skip(28);
        addresses.find(|ip| plan::is_proxy(*ip)).context("the client does not know the name")
    }

    /// Where the client's applications send from.
    pub(super) fn client_socket(&self) -> SocketAddr {
        (CLIENT_V4, 40000).into()
    }

    /// Carries what `template` stands for from one TUN device to the other, as the hosts do it.
    pub(super) fn deliver(
        &mut self,
        direction: Direction,
        template: &Template,
    ) -> Result<Delivery> {
        self.now += STEP;
        let now = self.now;
        let Self { client, gateway, tun, queue, batch, scratch, .. } = self;
        let bytes = tun.get_mut(..template.bytes.len()).context("too long for a TUN device")?;
        bytes.copy_from_slice(&template.bytes);
        let packet = TunPacket::parse(bytes, template.offload)?;
        match direction {
            Direction::Up => client.handle_tun(packet, queue, now),
            Direction::Down => gateway.handle_tun(packet, queue, now),
        }
        let (local, remote) = outside(direction);
        for (run, bytes) in queue.runs() {
            let ecn = Ecn::from_bits(run.ecn);
            let datagrams = Datagrams { local, remote, ecn, stride: run.segment_size, bytes };
            match direction {
                Direction::Up => gateway.handle_datagrams(datagrams, batch, now),
                Direction::Down => client.handle_datagrams(datagrams, batch, now),
            }
        }
        queue.clear();

        let headers = batch.packet(0).context("nothing arrived")?;
        let headers = Headers::parse(headers)?;
        let packets = batch.len() as u32;
        ensure!(packets == template.packets, "{packets} of {} arrived", template.packets);
        let written = batch.coalesce(ALL_OFFLOADS, scratch);
        ensure!(written.len() == 1, "packets of one flow are not joined");
        batch.clear();
        let source = headers.source_socket().context("no ports")?;
        let destination = headers.destination_socket().context("no ports")?;
        self.settle()?;
        Ok(Delivery { packets, source, destination })
    }

    /// An application of the client's sends a packet that may have to wait.
    fn inject(&mut self, packet: &mut [u8]) -> Result<()> {
        let packet = TunPacket::parse(packet, Offload::NONE)?;
        self.client.handle_tun(packet, &mut self.queue, self.now);
        for (run, bytes) in self.queue.runs() {
            let transmit = Transmit { path: run.path, payload: bytes.to_vec() };
            self.wire.push_back((Direction::Up, transmit));
        }
        self.queue.clear();
        Ok(())
    }

    /// Lets time pass.
    fn wait(&mut self, duration: Duration) -> Result<()> {
        let end = self.now + duration;
        for _ in 0..10_000 {
            self.settle()?;
            let next = self.client_timeout.min(self.gateway_timeout);
            if next > end {
                self.now = end;
                self.batch.clear();
                return Ok(());
            }
            self.now = self.now.max(next);
        }
        bail!("a tunnel wants to be woken without end");
    }

    /// Does what is due and delivers until nothing is under way.
    fn settle(&mut self) -> Result<()> {
        if self.client_timeout <= self.now {
            self.client.handle_timeout(self.now);
        }
        if self.gateway_timeout <= self.now {
            self.gateway.handle_timeout(self.now);
        }
        loop {
            self.drain_client()?;
            self.drain_gateway()?;
            let Some((direction, transmit)) = self.wire.pop_front() else { return Ok(()) };
            let (local, remote) = outside(direction);
            if transmit.path.remote != local {
                continue; // To the resolver, or somebody else that is not there.
            }
            let datagrams = Datagrams::one(local, remote, &transmit.payload);
            match direction {
                Direction::Up => {
                    self.gateway.handle_datagrams(datagrams, &mut self.batch, self.now)
                }
                Direction::Down => {
                    self.client.handle_datagrams(datagrams, &mut self.batch, self.now)
                }
            }
            self.batch.clear();
        }
    }

    fn drain_client(&mut self) -> Result<()> {
        loop {
            match self.client.poll_output(self.now) {
                Output::Transmit(transmit) => self.wire.push_back((Direction::Up, transmit)),
                // There are no relays.
                Output::Stream(_) => {}
                Output::TunPacket(packet) => self.answers.push(packet),
                Output::Event(event) => self.handle_client_event(event)?,
                Output::Timeout(at) => {
                    self.client_timeout = at;
                    return Ok(());
                }
            }
        }
    }

    fn drain_gateway(&mut self) -> Result<()> {
        loop {
            match self.gateway.poll_output() {
                Output::Transmit(transmit) => self.wire.push_back((Direction::Down, transmit)),
                Output::Stream(_) => {}
                Output::TunPacket(_) => bail!("the gateway refuses a packet"),
                Output::Event(event) => self.handle_gateway_event(event),
                Output::Timeout(at) => {
                    self.gateway_timeout = at;
                    return Ok(());
                }
            }
        }
    }

    /// What the client's host and the portal do.
    fn handle_client_event(&mut self, event: ClientEvent) -> Result<()> {
        match event {
            ClientEvent::RequestAuthorization { resource, .. } => self.authorize(resource)?,
            ClientEvent::NewCandidates { candidates, .. } => {
                for candidate in candidates {
                    self.gateway.add_remote_candidate(CLIENT, &candidate, self.now);
                }
            }
            ClientEvent::TunConfig(config) => self.sentinel = config.dns_servers.first().copied(),
            ClientEvent::GatewayDisconnected { failure, .. } => bail!("disconnected: {failure:?}"),
            _ => {}
        }
        Ok(())
    }

    /// What the gateway's host and the portal do.
    fn handle_gateway_event(&mut self, event: GatewayEvent) {
        match event {
            GatewayEvent::NewCandidates { candidates, .. } => {
                for candidate in candidates {
                    self.client.add_remote_candidate(GATEWAY, &candidate, self.now);
                }
            }
            GatewayEvent::ResolveName { id, .. } => {
                self.gateway.handle_resolved(id, Ok(vec![BEHIND_NAME.into()]), self.now);
            }
            _ => {}
        }
    }

    fn authorize(&mut self, resource: ResourceId) -> Result<()> {
        let target = match resource {
            NETWORK => Target::Cidr("10.20.0.0/24".parse()?),
            _ => Target::Dns("*.office.example".parse()?),
        };
        let client = AuthorizedClient {
            id: CLIENT,
            public_key: self.client.public_key(),
            ipv4: CLIENT_V4,
            ipv6: CLIENT_V6,
        };
        let authorization = Authorization {
            client,
            keys: keys(),
            resource: AuthorizedResource { id: resource, target, filters: filters() },
            expires_at: None,
        };
        self.gateway.create_authorization(authorization, self.now)?;
        let gateway = client::Gateway {
            id: GATEWAY,
            public_key: self.gateway.public_key(),
            ipv4: GATEWAY_V4,
            ipv6: GATEWAY_V6,
            site: SiteId::from_u128(5),
        };
        self.client.handle_authorization_created(resource, gateway, keys(), self.now);
        Ok(())
    }
}

/// The receiver's address and the sender's.
fn outside(direction: Direction) -> (SocketAddr, SocketAddr) {
    match direction {
        Direction::Up => (GATEWAY_OUTSIDE, CLIENT_OUTSIDE),
        Direction::Down => (CLIENT_OUTSIDE, GATEWAY_OUTSIDE),
    }
}

fn interface() -> client::Interface {
    client::Interface {
        ipv4: CLIENT_V4,
        ipv6: CLIENT_V6,
        do53: Vec::new(),
        doh: Vec::new(),
        search_domain: None,
    }
}

fn network() -> Result<client::Resource> {
    Ok(resource(NETWORK, "network", client::Target::Cidr("10.20.0.0/24".parse()?)))
}

fn names() -> Result<client::Resource> {
    let pattern = "*.office.example".parse()?;
    Ok(resource(NAMES, "names", client::Target::Dns { pattern, ip_stack: Default::default() }))
}

fn resource(id: ResourceId, name: &str, target: client::Target) -> client::Resource {
    client::Resource {
        id,
        name: name.to_owned(),
        address_description: None,
        sites: Vec::new(),
        target,
        filters: filters(),
    }
}

fn filters() -> Filters {
    let (first, last) = (PORT, PORT);
    [Filter::Tcp { first, last }, Filter::Udp { first, last }].into_iter().collect()
}

fn keys() -> LinkKeys {
    let ice = |end: &str| IceCredentials {
        username: end.to_owned(),
        password: format!("{end}-password-0123456789"),
    };
    LinkKeys { preshared_key: [9; 32], client_ice: ice("clnt"), gateway_ice: ice("gtwy") }
}
