//! Two nodes on a network in memory.
#![allow(clippy::unwrap_used, dead_code, missing_docs, unreachable_pub)]

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use connlib_link::{
    Datagram, Event, IceCredentials, LinkConfig, Node, NodeConfig, Opened, Output, Path, PeerId,
    Role, SendQueue,
};
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
    /// Datagrams under way: to the gateway or not, from, to, payload.
    wire: VecDeque<(SocketAddr, SocketAddr, Vec<u8>)>,
    /// Says which datagrams get lost.
    pub lose: fn(&[u8]) -> bool,
    pub sent: usize,
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
            wire: VecDeque::new(),
            lose: |_| false,
            sent: 0,
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
            let next = self.client.next_timeout.min(self.gateway.next_timeout);
            if next > end {
                self.now = end;
                return;
            }
            self.now = self.now.max(next);
            self.client.node.handle_timeout(self.now);
            self.gateway.node.handle_timeout(self.now);
        }
    }

    fn settle(&mut self) {
        loop {
            self.drain(true);
            self.drain(false);
            let Some((from, to, payload)) = self.wire.pop_front() else { return };
            if (self.lose)(&payload) {
                continue;
            }
            let now = self.now;
            let Some(end) = [&mut self.client, &mut self.gateway]
                .into_iter()
                .find(|e| e.addresses.contains(&to))
            else {
                continue;
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
                Output::Event(event) => self.signal(of_client, event),
            }
        }
    }

    fn send(&mut self, of_client: bool, path: Path, payload: Vec<u8>) {
        let end = if of_client { &self.client } else { &self.gateway };
        self.sent += 1;
        let Some(from) = path.local.or(end.addresses.first().copied()) else { return };
        if end.addresses.contains(&from) {
            self.wire.push_back((from, path.remote, payload));
        }
    }

    /// Candidates travel through the portal to the other end.
    fn signal(&mut self, of_client: bool, event: Event) {
        let (mine, other, me) = if of_client {
            (&mut self.client, &mut self.gateway, CLIENT)
        } else {
            (&mut self.gateway, &mut self.client, GATEWAY)
        };
        match &event {
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
        mine.events.push(event);
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
