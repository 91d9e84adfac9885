//! Two nodes on a network in memory.
#![allow(clippy::unwrap_used, dead_code, missing_docs, unreachable_pub)]

mod relay;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use connlib_link::{
    Datagram, Event, IceCredentials, LinkConfig, Node, NodeConfig, Opened, Output, Path, PeerId,
    Role, SendQueue, StreamRequest, StreamServer,
};
pub use relay::RelayHost;
use uuid::Uuid;

pub const CLIENT: PeerId = PeerId(Uuid::from_u128(1));
pub const GATEWAY: PeerId = PeerId(Uuid::from_u128(2));

/// One end with its node and what came out of it.
pub struct End {
    pub node: Node,
    pub addresses: Vec<SocketAddr>,
    pub events: Vec<Event>,
    pub packets: Vec<Vec<u8>>,
    pub next_timeout: Instant,
}

pub struct Pair {
    pub now: Instant,
    pub client: End,
    pub gateway: End,
    pub relays: Vec<RelayHost>,
    /// Datagrams under way, by arrival and number: from, to, payload.
    wire: BTreeMap<(Instant, usize), (SocketAddr, SocketAddr, Vec<u8>)>,
    /// Says which datagrams get lost.
    pub lose: fn(&[u8]) -> bool,
    /// Says which addresses can't talk to each other: from, to.
    pub blocked: fn(SocketAddr, SocketAddr) -> bool,
    /// How long candidates take to the other end.
    pub portal_latency: Duration,
    /// Says which streams can be had.
    pub connects: fn(StreamServer) -> bool,
    /// Says which streams carry nothing.
    pub is_mute: fn(StreamServer) -> bool,
    /// Those that there are: our address, whether it is the client's, and where to.
    pub streams: Vec<(SocketAddr, bool, StreamServer)>,
    /// What is to be said about streams.
    stream_news: Vec<(Instant, bool, StreamServer)>,
    /// Those that carry nothing any more: our address.
    pub stuck: Vec<SocketAddr>,
    connected: u16,
    /// Streams that could not be had.
    pub refused: usize,
    signals: Vec<(Instant, bool, Event)>,
    posted: usize,
    pub sent: usize,
    /// WireGuard handshakes that were begun, attempts counted.
    pub initiations: usize,
}

pub fn addr(s: &str) -> SocketAddr {
    s.parse().unwrap()
}

fn credentials(name: &str) -> IceCredentials {
    IceCredentials { username: name.into(), password: format!("{name}-password-0123456789") }
}

impl Pair {
    pub fn new() -> Self {
        let now = Instant::now();
        let end = |seed, address| End {
            node: {
                let config = NodeConfig { seed: [seed; 32], ..NodeConfig::default() };
                let mut node = Node::new(config, now);
                node.set_local_addresses(&[addr(address)], now);
                node
            },
            addresses: vec![addr(address)],
            events: Vec::new(),
            packets: Vec::new(),
            next_timeout: now,
        };
        Self {
            now,
            client: end(1, "192.0.2.1:52625"),
            gateway: end(2, "198.51.100.1:52625"),
            relays: Vec::new(),
            wire: BTreeMap::new(),
            lose: |_| false,
            blocked: |_, _| false,
            portal_latency: Duration::ZERO,
            connects: |_| false,
            is_mute: |_| false,
            streams: Vec::new(),
            stream_news: Vec::new(),
            stuck: Vec::new(),
            connected: 0,
            refused: 0,
            signals: Vec::new(),
            posted: 0,
            sent: 0,
            initiations: 0,
        }
    }

    pub fn client_config(&self) -> LinkConfig {
        LinkConfig {
            peer: GATEWAY,
            role: Role::Controlling,
            remote_public_key: self.gateway.node.public_key(),
            preshared_key: [9; 32],
            local: credentials("clnt"),
            remote: credentials("gtwy"),
        }
    }

    pub fn gateway_config(&self) -> LinkConfig {
        LinkConfig {
            peer: CLIENT,
            role: Role::Controlled,
            remote_public_key: self.client.node.public_key(),
            preshared_key: [9; 32],
            local: credentials("gtwy"),
            remote: credentials("clnt"),
        }
    }

    pub fn connect(&mut self) {
        let config = self.gateway_config();
        self.gateway.node.upsert(config, self.now);
        let config = self.client_config();
        self.client.node.upsert(config, self.now);
        self.run(Duration::from_secs(3));
    }

    /// Lets time pass: delivers what is under way and wakes both ends when they asked for it.
    pub fn run(&mut self, duration: Duration) {
        let end = self.now + duration;
        let mut wakes = 0;
        loop {
            self.settle();
            wakes += 1;
            assert!(wakes < 10_000, "a state machine wants to be woken without end");
            let arrival = self.wire.keys().next().map(|(arrival, _)| *arrival);
            let signal = self.signals.iter().map(|(at, ..)| *at).min();
            let relays = self.relays.iter().filter_map(|relay| relay.next_timeout);
            let stream = self.stream_news.iter().map(|(at, ..)| *at).min();
            let next = [self.client.next_timeout, self.gateway.next_timeout]
                .into_iter()
                .chain(arrival)
                .chain(signal)
                .chain(stream)
                .chain(relays)
                .min()
                .unwrap();
            if next > end {
                self.now = end;
                return;
            }
            self.now = self.now.max(next);
            for relay in &mut self.relays {
                relay.handle_timeout(self.now);
            }
            self.client.node.handle_timeout(self.now);
            self.gateway.node.handle_timeout(self.now);
        }
    }

    fn settle(&mut self) {
        loop {
            self.drain(true);
            self.drain(false);
            self.deliver_signals();
            self.deliver_streams();
            self.drain(true);
            self.drain(false);
            let Some(entry) = self.wire.first_entry().filter(|e| e.key().0 <= self.now) else {
                return;
            };
            let (from, to, payload) = entry.remove();
            let is_stream = self.streams.iter().any(|(local, ..)| [from, to].contains(local));
            if self.stuck.iter().any(|local| [from, to].contains(local)) {
                continue;
            }
            if !is_stream && ((self.lose)(&payload) || (self.blocked)(from, to)) {
                continue;
            }
            if let Some(relay) = self.relays.iter_mut().find(|relay| relay.has(to)) {
                for (from, to, payload) in relay.handle(from, to, &payload, self.now) {
                    self.post(from, to, payload);
                }
                continue;
            }
            let now = self.now;
            let of_client =
                |(local, of_client, _): &(_, bool, _)| (*local == to).then_some(*of_client);
            let end = match self.streams.iter().find_map(of_client) {
                Some(true) => &mut self.client,
                Some(false) => &mut self.gateway,
                None if self.client.addresses.contains(&to) => &mut self.client,
                None if self.gateway.addresses.contains(&to) => &mut self.gateway,
                None => continue,
            };
            let mut slot = vec![0; 2048];
            let datagram = Datagram { local: to, remote: from, payload: &payload };
            if let Opened::Packet { len, .. } = end.node.open(datagram, &mut slot, now) {
                end.packets.push(slot[..len].to_vec());
            }
        }
    }

    fn drain(&mut self, of_client: bool) {
        loop {
            let end = if of_client { &mut self.client } else { &mut self.gateway };
            match end.node.poll_output() {
                Output::Timeout(at) => {
                    end.next_timeout = at;
                    return;
                }
                Output::Transmit(transmit) => self.send(of_client, transmit.path, transmit.payload),
                Output::Stream(request) => self.handle_stream(of_client, request),
                Output::Event(event) => self.signal(of_client, event),
            }
        }
    }

    fn handle_stream(&mut self, of_client: bool, request: StreamRequest) {
        match request {
            StreamRequest::Open(server) => {
                let relay = self.relays.iter().find(|relay| relay.has(server.address()));
                let latency = relay.map_or(Duration::ZERO, |relay| relay.latency);
                self.stream_news.push((self.now + 2 * latency, of_client, server));
            }
            StreamRequest::Close(server) => {
                self.stream_news.retain(|(_, of, other)| (*of, *other) != (of_client, server));
                self.close_streams(|(_, of, other)| (of, other) == (of_client, server));
            }
        }
    }

    /// Streams that break, at both ends.
    pub fn break_streams(&mut self) {
        for (_, of_client, server) in self.close_streams(|_| true) {
            let end = if of_client { &mut self.client } else { &mut self.gateway };
            end.node.handle_stream_closed(server, self.now);
        }
    }

    fn close_streams(
        &mut self,
        which: impl Fn((SocketAddr, bool, StreamServer)) -> bool,
    ) -> Vec<(SocketAddr, bool, StreamServer)> {
        let closed: Vec<_> = self.streams.extract_if(.., |stream| which(*stream)).collect();
        for (local, _, server) in &closed {
            for relay in &mut self.relays {
                relay.close_stream(*local, server.address(), self.now);
            }
        }
        closed
    }

    fn deliver_streams(&mut self) {
        while let Some(at) = self.stream_news.iter().position(|(at, ..)| *at <= self.now) {
            let (_, of_client, server) = self.stream_news.remove(at);
            let end = if of_client { &mut self.client } else { &mut self.gateway };
            let relay = self.relays.iter_mut().find(|relay| relay.has(server.address()));
            let relay = relay.filter(|relay| !relay.dead && (self.connects)(server));
            let is_like = |address: &&SocketAddr| address.is_ipv4() == server.address().is_ipv4();
            let address = end.addresses.iter().find(is_like);
            let Some((relay, address)) = relay.zip(address) else {
                self.refused += 1;
                end.node.handle_stream_closed(server, self.now);
                continue;
            };
            self.connected += 1;
            let local = SocketAddr::new(address.ip(), 30_000 + self.connected);
            relay.open_stream(local, self.connected.into());
            self.streams.push((local, of_client, server));
            if (self.is_mute)(server) {
                self.stuck.push(local);
            }
            end.node.handle_stream_opened(server, local, self.now);
        }
    }

    fn send(&mut self, of_client: bool, path: Path, payload: Vec<u8>) {
        let end = if of_client { &self.client } else { &self.gateway };
        self.sent += 1;
        self.initiations += usize::from(payload.starts_with(&[1, 0, 0, 0]));
        let Some(from) = path.local.or(end.addresses.first().copied()) else { return };
        let is_stream = self.streams.iter().any(|(local, ..)| *local == from);
        if is_stream || end.addresses.contains(&from) {
            self.post(from, path.remote, payload);
        }
    }

    fn post(&mut self, from: SocketAddr, to: SocketAddr, payload: Vec<u8>) {
        let of_relay = |relay: &&RelayHost| relay.has(from) || relay.has(to);
        let latency: Duration =
            self.relays.iter().filter(of_relay).map(|relay| relay.latency).sum();
        self.posted += 1;
        self.wire.insert((self.now + latency, self.posted), (from, to, payload));
    }

    fn deliver_signals(&mut self) {
        while let Some(at) = self.signals.iter().position(|(at, ..)| *at <= self.now) {
            let (_, of_client, event) = self.signals.remove(at);
            self.deliver_signal(of_client, &event);
        }
    }

    /// Candidates travel through the portal to the other end.
    fn signal(&mut self, of_client: bool, event: Event) {
        let mine = if of_client { &mut self.client } else { &mut self.gateway };
        mine.events.push(event.clone());
        self.signals.push((self.now + self.portal_latency, of_client, event));
    }

    fn deliver_signal(&mut self, of_client: bool, event: &Event) {
        let (other, me) =
            if of_client { (&mut self.gateway, CLIENT) } else { (&mut self.client, GATEWAY) };
        match event {
            Event::NewCandidates { candidates, .. } => {
                for candidate in candidates {
                    other.node.add_remote_candidate(me, candidate, self.now);
                }
            }
            Event::InvalidatedCandidates { candidates, .. } => {
                for candidate in candidates {
                    other.node.remove_remote_candidate(me, candidate, self.now);
                }
            }
            _ => {}
        }
    }

    /// Tells both ends what relays there are, each with credentials of its own.
    pub fn announce_relays(&mut self) {
        let now = self.now;
        for (end, name) in [(&mut self.client, "client"), (&mut self.gateway, "gateway")] {
            let relays: Vec<_> =
                self.relays.iter().filter(|r| r.listed).map(|r| r.announce(name)).collect();
            end.node.set_relays(&relays, now);
        }
    }

    /// Sends a packet from the client through the batch way.
    pub fn upload(&mut self, packet: &[u8]) {
        let mut queue = SendQueue::new(0);
        let mut packet = packet.to_vec();
        seal(&mut self.client.node, GATEWAY, &mut packet, &mut queue, self.now);
        self.flush(true, &queue);
    }

    /// Sends a packet from the gateway through the batch way.
    pub fn download(&mut self, packet: &[u8]) {
        let mut queue = SendQueue::new(0);
        let mut packet = packet.to_vec();
        seal(&mut self.gateway.node, CLIENT, &mut packet, &mut queue, self.now);
        self.flush(false, &queue);
    }

    fn flush(&mut self, of_client: bool, queue: &SendQueue) {
        for (run, bytes) in queue.runs() {
            for datagram in bytes.chunks(run.segment_size) {
                self.send(of_client, run.path, datagram.to_vec());
            }
        }
    }
}

fn seal(node: &mut Node, peer: PeerId, packet: &mut [u8], queue: &mut SendQueue, now: Instant) {
    let packet = connlib_packet::TunPacket::parse(packet, Default::default()).unwrap();
    node.seal(peer, packet, queue, now).unwrap();
}

/// An IPv4 UDP packet that carries `payload`.
pub fn packet(payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0; 1280];
    let (from, to) = (addr("100.64.0.1:1000"), addr("10.0.0.1:2000"));
    let len = connlib_packet::build::udp(&mut bytes, from, to, payload).unwrap();
    bytes.truncate(len);
    bytes
}
