//! The network in memory: one gateway, the clients' ends of its links, and a portal that signals at once.

use std::collections::VecDeque;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::{Duration, Instant};

use connlib_link::{
    Datagram, Event, LinkConfig, Node, NodeConfig, Opened, PeerId, Role, SendQueue, Transmit,
};
use connlib_packet::control::{self, AssignedIps, DomainStatus, NatStatus};
use connlib_packet::{Ecn, Offload, PacketBatch, TcpFlags, TunPacket, build};
use connlib_tunnel::{
    Authorization, AuthorizeError, AuthorizedClient, AuthorizedResource, ClientId, Datagrams,
    DropReason, Filter, Filters, GatewayConfig, GatewayEvent, GatewayId, GatewayTunnel, Gone,
    IceCredentials, LinkKeys, Output, ResolutionId, ResourceId, Target,
};

pub(crate) const GATEWAY: GatewayId = GatewayId::from_u128(100);
pub(crate) const GATEWAY_V4: Ipv4Addr = Ipv4Addr::new(100, 64, 0, 100);
const GATEWAY_V6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x2021, 0x1111, 0, 0, 0, 0, 100);
const GATEWAY_SOCKET: &str = "198.51.100.1:52625";

pub(crate) const NETWORK: ResourceId = ResourceId::from_u128(1);
pub(crate) const NAMES: ResourceId = ResourceId::from_u128(2);

pub(crate) struct Lab {
    pub(crate) now: Instant,
    pub(crate) gateway: GatewayTunnel,
    pub(crate) clients: Vec<Client>,
    /// What the gateway wrote to its TUN device.
    pub(crate) tun: Vec<Vec<u8>>,
    /// Signalling and requests to resolve are taken care of; this is the rest.
    pub(crate) events: Vec<GatewayEvent>,
    /// Requests to resolve that wait for an answer.
    pub(crate) requests: Vec<(ResolutionId, String)>,
    wire: VecDeque<Flight>,
    wake_up_at: Instant,
}

/// The far end of a link, without any routing of its own.
pub(crate) struct Client {
    pub(crate) id: ClientId,
    pub(crate) node: Node,
    pub(crate) ipv4: Ipv4Addr,
    pub(crate) ipv6: Ipv6Addr,
    /// What the gateway sent, control messages aside.
    pub(crate) packets: Vec<Vec<u8>>,
    pub(crate) messages: Vec<control::Event>,
    /// Its datagrams and those to it are lost.
    pub(crate) is_offline: bool,
    socket: SocketAddr,
    wake_up_at: Instant,
}

struct Flight {
    from: SocketAddr,
    to: SocketAddr,
    ecn: Ecn,
    stride: usize,
    bytes: Vec<u8>,
}

impl Lab {
    /// A gateway and `clients` clients that know nothing of each other.
    pub(crate) fn new(clients: u8) -> Self {
        Self::with_config(clients, GatewayConfig::default())
    }

    pub(crate) fn with_config(clients: u8, config: GatewayConfig) -> Self {
        let now = Instant::now();
        let config = GatewayConfig { seed: [200; 32], ..config };
        let mut gateway = GatewayTunnel::new(&config, now);
        gateway.set_interface(GATEWAY_V4, GATEWAY_V6);
        gateway.set_local_addresses(&[socket(GATEWAY_SOCKET)], now);
        Self {
            now,
            gateway,
            clients: (1..=clients).map(|number| Client::new(number, now)).collect(),
            tun: Vec::new(),
            events: Vec::new(),
            requests: Vec::new(),
            wire: VecDeque::new(),
            wake_up_at: now,
        }
    }

    /// A gateway with one connected client that may reach 10.1.0.0/16 and `*.test`.
    pub(crate) fn connected() -> Self {
        let mut lab = Self::new(1);
        lab.authorize(0, NETWORK, network());
        lab.authorize(0, NAMES, names());
        lab.connect(0);
        lab
    }

    pub(crate) fn authorize(&mut self, client: usize, id: ResourceId, target: Target) {
        self.try_authorize(client, id, target, None).unwrap();
    }

    pub(crate) fn try_authorize(
        &mut self,
        client: usize,
        id: ResourceId,
        target: Target,
        expires_at: Option<Instant>,
    ) -> Result<(), AuthorizeError> {
        let resource = AuthorizedResource { id, target, filters: Filters::ALL };
        let client = &self.clients[client];
        let authorization = Authorization {
            client: client.authorized(),
            keys: keys(client.id),
            resource,
            expires_at,
        };
        let result = self.gateway.create_authorization(authorization, self.now);
        self.settle();
        result
    }

    /// The client makes its end of the link; time passes until it stands.
    pub(crate) fn connect(&mut self, client: usize) {
        let remote_public_key = self.gateway.public_key();
        let Client { id, node, .. } = &mut self.clients[client];
        let LinkKeys { preshared_key, client_ice, gateway_ice } = keys(*id);
        let config = LinkConfig {
            peer: GATEWAY.into(),
            role: Role::Controlling,
            remote_public_key,
            preshared_key,
            local: client_ice,
            remote: gateway_ice,
        };
        node.upsert(config, self.now);
        self.wait(Duration::from_secs(3));
        assert!(self.clients[client].node.path(GATEWAY.into()).is_some());
    }

    /// The client sends packets.
    pub(crate) fn send(&mut self, client: usize, packets: &[Vec<u8>]) {
        self.send_marked(client, packets, Ecn::NotEct);
    }

    /// The client sends packets; a router marks the datagrams.
    pub(crate) fn send_marked(&mut self, client: usize, packets: &[Vec<u8>], ecn: Ecn) {
        let mut queue = SendQueue::new(1 << 20);
        for packet in packets {
            let mut packet = packet.clone();
            let packet = TunPacket::parse(&mut packet, Offload::NONE).unwrap();
            let node = &mut self.clients[client].node;
            node.seal(GATEWAY.into(), packet, &mut queue, self.now).unwrap();
        }
        let from = self.clients[client].socket;
        self.launch(from, &queue, Some(ecn));
        self.settle();
    }

    /// The client sends bytes that may be no packet.
    pub(crate) fn send_raw(&mut self, client: usize, bytes: &[u8]) {
        let node = &mut self.clients[client].node;
        node.send(GATEWAY.into(), bytes, self.now).unwrap();
        self.settle();
    }

    pub(crate) fn tell(&mut self, client: usize, event: &control::Event) {
        self.send_raw(client, &event.encode().unwrap());
    }

    /// The client announces four and four proxy addresses, beginning with number `first`.
    pub(crate) fn announce(&mut self, client: usize, resource: ResourceId, name: &str, first: u8) {
        let assigned = AssignedIps {
            resource: resource.0,
            domain: name.to_owned(),
            proxy_ips: (first..first + 4)
                .map(proxy_v4)
                .chain((first..first + 4).map(proxy_v6))
                .collect(),
        };
        self.tell(client, &control::Event::AssignedIps(assigned));
    }

    /// The host answers the oldest request to resolve, which must be for this name.
    pub(crate) fn resolve(&mut self, name: &str, addresses: &[&str]) {
        let (id, asked) = self.requests.remove(0);
        assert_eq!(asked, name);
        let addresses = addresses.iter().map(|address| address.parse().unwrap()).collect();
        self.gateway.handle_resolved(id, Ok(addresses), self.now);
        self.settle();
    }

    /// A packet comes from the gateway's TUN device.
    pub(crate) fn arrive(&mut self, packet: &[u8]) {
        self.arrive_with(packet, Offload::NONE);
    }

    pub(crate) fn arrive_with(&mut self, packet: &[u8], offload: Offload) {
        let mut queue = SendQueue::new(1 << 20);
        let mut packet = packet.to_vec();
        let packet = TunPacket::parse(&mut packet, offload).unwrap();
        self.gateway.handle_tun(packet, &mut queue, self.now);
        self.launch(socket(GATEWAY_SOCKET), &queue, None);
        self.settle();
    }

    pub(crate) fn take_tun(&mut self) -> Vec<Vec<u8>> {
        std::mem::take(&mut self.tun)
    }

    pub(crate) fn take_packets(&mut self, client: usize) -> Vec<Vec<u8>> {
        std::mem::take(&mut self.clients[client].packets)
    }

    pub(crate) fn take_messages(&mut self, client: usize) -> Vec<control::Event> {
        std::mem::take(&mut self.clients[client].messages)
    }

    pub(crate) fn dropped(&self, reason: DropReason) -> u64 {
        self.gateway.stats().dropped(reason)
    }

    /// Why clients have gone since this was asked last.
    pub(crate) fn take_gone(&mut self) -> Vec<(ClientId, Gone)> {
        let events = std::mem::take(&mut self.events).into_iter();
        events
            .filter_map(|event| match event {
                GatewayEvent::ClientGone { client, reason } => Some((client, reason)),
                _ => None,
            })
            .collect()
    }

    /// The client vanishes, and time passes until the gateway has noticed.
    pub(crate) fn lose(&mut self, client: usize) {
        self.take_gone();
        self.clients[client].is_offline = true;
        for _ in 0..60 {
            self.wait(Duration::from_secs(60));
            if let [(gone, Gone::LinkFailed(_))] = self.take_gone()[..] {
                assert_eq!(gone, self.clients[client].id);
                self.clients[client].node.remove(GATEWAY.into());
                return;
            }
        }
        panic!("the gateway has not noticed");
    }

    /// Lets time pass: delivers what is under way and wakes all when they asked for it.
    pub(crate) fn wait(&mut self, duration: Duration) {
        let end = self.now + duration;
        for _ in 0..100_000 {
            self.settle();
            let next =
                self.clients.iter().map(|c| c.wake_up_at).fold(self.wake_up_at, Instant::min);
            if next > end {
                self.now = end;
                return;
            }
            self.now = self.now.max(next);
            self.gateway.handle_timeout(self.now);
            for client in &mut self.clients {
                client.node.handle_timeout(self.now);
            }
        }
        panic!("a state machine wants to be woken without end");
    }

    /// Delivers until nothing is under way.
    pub(crate) fn settle(&mut self) {
        loop {
            self.drain();
            let Some(flight) = self.wire.pop_front() else { return };
            if flight.to == socket(GATEWAY_SOCKET) {
                self.deliver_to_gateway(&flight);
            } else if let Some(client) =
                self.clients.iter_mut().find(|c| c.socket == flight.to && !c.is_offline)
            {
                client.deliver(&flight, self.now);
            }
        }
    }

    fn deliver_to_gateway(&mut self, flight: &Flight) {
        let mut batch = PacketBatch::new(128 * 1024, 256);
        let datagrams = Datagrams {
            local: flight.to,
            remote: flight.from,
            ecn: flight.ecn,
            stride: flight.stride,
            bytes: &flight.bytes,
        };
        self.gateway.handle_datagrams(datagrams, &mut batch, self.now);
        self.tun.extend(batch.packets().map(<[u8]>::to_vec));
    }

    fn drain(&mut self) {
        loop {
            match self.gateway.poll_output() {
                Output::Transmit(transmit) => self.transmit(socket(GATEWAY_SOCKET), transmit),
                // There are no relays.
                Output::Stream(_) => {}
                Output::TunPacket(packet) => self.tun.push(packet),
                Output::Event(event) => self.handle_event(event),
                Output::Timeout(at) => {
                    self.wake_up_at = at;
                    break;
                }
            }
        }
        for index in 0..self.clients.len() {
            loop {
                let client = &mut self.clients[index];
                match client.node.poll_output() {
                    connlib_link::Output::Transmit(transmit) => {
                        let (from, is_offline) = (client.socket, client.is_offline);
                        if !is_offline {
                            self.transmit(from, transmit);
                        }
                    }
                    connlib_link::Output::Event(Event::NewCandidates { candidates, .. }) => {
                        for candidate in candidates {
                            self.gateway.add_remote_candidate(client.id, &candidate, self.now);
                        }
                    }
                    connlib_link::Output::Event(_) | connlib_link::Output::Stream(_) => {}
                    connlib_link::Output::Timeout(at) => {
                        client.wake_up_at = at;
                        break;
                    }
                }
            }
        }
    }

    fn handle_event(&mut self, event: GatewayEvent) {
        match event {
            GatewayEvent::NewCandidates { client, candidates } => {
                let client = self.clients.iter_mut().find(|other| other.id == client).unwrap();
                for candidate in candidates {
                    client.node.add_remote_candidate(GATEWAY.into(), &candidate, self.now);
                }
            }
            GatewayEvent::ResolveName { id, name } => {
                self.requests.push((id, name.as_str().to_owned()));
            }
            other => self.events.push(other),
        }
    }

    fn transmit(&mut self, from: SocketAddr, Transmit { path, payload }: Transmit) {
        let stride = payload.len();
        let flight = Flight { from, to: path.remote, ecn: Ecn::NotEct, stride, bytes: payload };
        self.wire.push_back(flight);
    }

    fn launch(&mut self, from: SocketAddr, queue: &SendQueue, ecn: Option<Ecn>) {
        for (run, bytes) in queue.runs() {
            self.wire.push_back(Flight {
                from,
                to: run.path.remote,
                ecn: ecn.unwrap_or(Ecn::from_bits(run.ecn)),
                stride: run.segment_size,
                bytes: bytes.to_vec(),
            });
        }
    }
}

impl Client {
    fn new(number: u8, now: Instant) -> Self {
        let socket = SocketAddr::from(([192, 0, 2, number], 52625));
        let mut node = Node::new(NodeConfig { seed: [number; 32], ..NodeConfig::default() }, now);
        node.set_local_addresses(&[socket], now);
        Self {
            id: ClientId::from_u128(number.into()),
            node,
            ipv4: Ipv4Addr::new(100, 64, 0, number),
            ipv6: Ipv6Addr::new(0xfd00, 0x2021, 0x1111, 0, 0, 0, 0, number.into()),
            packets: Vec::new(),
            messages: Vec::new(),
            is_offline: false,
            socket,
            wake_up_at: now,
        }
    }

    pub(crate) fn authorized(&self) -> AuthorizedClient {
        let Self { id, ipv4, ipv6, .. } = *self;
        AuthorizedClient { id, public_key: self.node.public_key(), ipv4, ipv6 }
    }

    fn deliver(&mut self, flight: &Flight, now: Instant) {
        for payload in flight.bytes.chunks(flight.stride) {
            let mut slot = vec![0; 2048];
            let datagram = Datagram { local: flight.to, remote: flight.from, payload };
            let Opened::Packet { peer, len } = self.node.open(datagram, &mut slot, now) else {
                continue;
            };
            assert_eq!(peer, PeerId::from(GATEWAY));
            let packet = slot[..len].to_vec();
            match control::Event::decode(&packet) {
                Some(event) => {
                    let event = event.unwrap();
                    if event == control::Event::Goodbye {
                        self.node.remove(GATEWAY.into());
                    }
                    self.messages.push(event);
                }
                None => self.packets.push(packet),
            }
        }
    }
}

fn keys(client: ClientId) -> LinkKeys {
    let ice = |end: &str| IceCredentials {
        username: format!("{end}{}", client.0.as_u128()),
        password: format!("{end}-password-0123456789"),
    };
    LinkKeys { preshared_key: [9; 32], client_ice: ice("client"), gateway_ice: ice("gateway") }
}

pub(crate) fn network() -> Target {
    Target::Cidr("10.1.0.0/16".parse().unwrap())
}

pub(crate) fn names() -> Target {
    Target::Dns("*.test".parse().unwrap())
}

pub(crate) fn port(port: u16) -> Filters {
    [Filter::Udp { first: port, last: port }].into_iter().collect()
}

pub(crate) fn status(name: &str, status: NatStatus) -> control::Event {
    let (resource, domain) = (NAMES.0, name.to_owned());
    control::Event::DomainStatus(DomainStatus { resource, domain, status })
}

pub(crate) fn proxy_v4(number: u8) -> IpAddr {
    IpAddr::from([100, 96, 0, number])
}

pub(crate) fn proxy_v6(number: u8) -> IpAddr {
    IpAddr::from([0xfd00, 0x2021, 0x1111, 0x8000, 0, 0, 0, number.into()])
}

pub(crate) fn socket(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

pub(crate) fn udp(source: &str, destination: &str) -> Vec<u8> {
    udp_with(source, destination, b"payload")
}

pub(crate) fn udp_with(source: &str, destination: &str, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0; 2000];
    let len = build::udp(&mut bytes, socket(source), socket(destination), payload).unwrap();
    bytes.truncate(len);
    bytes
}

pub(crate) fn tcp(source: &str, destination: &str, payload: &[u8]) -> Vec<u8> {
    tcp_with(source, destination, TcpFlags::ACK, payload)
}

pub(crate) fn tcp_with(
    source: &str,
    destination: &str,
    flags: TcpFlags,
    payload: &[u8],
) -> Vec<u8> {
    let mut bytes = vec![0; 65_535];
    let header = build::Tcp { sequence: 1, acknowledgement: 2, flags, window: 3, options: &[] };
    let len = build::tcp(&mut bytes, socket(source), socket(destination), header, payload).unwrap();
    bytes.truncate(len);
    bytes
}
