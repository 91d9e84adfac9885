//! All links of this end.

mod types;

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use connlib_packet::TunPacket;
use connlib_packet::plan::MTU;
use connlib_stun::{Class, Header, Message};
use is::stun::StunMessage;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha20Rng;

use crate::candidates::LocalCandidates;
use crate::gate::{Admitted, Gate};
use crate::index::LinkIndex;
use crate::link::{Fate, Link, LinkConfig, Received};
use crate::links::Links;
use crate::output::{Event, Output, Path, PeerId, StreamServer, Transmit};
use crate::relays::{Relay, Relays};
use crate::send_queue::SendQueue;
use crate::stun_servers::StunServers;

pub use types::{Datagram, NodeConfig, Opened, SealError, Upsert};

/// Nothing ever is due later than this.
const FAR_AWAY: Duration = Duration::from_secs(24 * 60 * 60);

/// All links of this end: the state machine between the sockets and the tunnel.
pub struct Node {
    gate: Gate,
    rng: ChaCha20Rng,
    max_links: usize,
    links: Links,
    hosts: Vec<SocketAddr>,
    locals: LocalCandidates,
    stun_servers: StunServers,
    relays: Relays,
    outputs: VecDeque<Output>,
    now: Instant,
}

impl Node {
    /// A node with a key of its own, without links and addresses.
    pub fn new(config: NodeConfig, now: Instant) -> Self {
        let mut rng = ChaCha20Rng::from_seed(config.seed);
        let mut key = [0; 32];
        rng.fill_bytes(&mut key);
        Self {
            gate: Gate::new(key, now),
            links: Links::new(rng.next_u32()),
            relays: Relays::new(ChaCha20Rng::from_rng(&mut rng)),
            rng,
            max_links: config.max_links,
            hosts: Vec::new(),
            locals: LocalCandidates::default(),
            stun_servers: StunServers::default(),
            outputs: VecDeque::new(),
            now,
        }
    }

    /// The WireGuard key that peers know this end by.
    pub fn public_key(&self) -> [u8; 32] {
        self.gate.public_key()
    }

    /// Makes sure that there is a link with these keys and credentials. Does nothing to one that is there already but
    /// signal its candidates once more, as the peer may have lost them.
    pub fn upsert(&mut self, config: LinkConfig, now: Instant) -> Upsert {
        self.now = now;
        let existing = self.links.slot_of(config.peer);
        if let Some(slot) = existing {
            if let Some(link) = self.links.at(slot).filter(|link| *link.config() == config) {
                link.renew(now, &mut self.outputs);
                if link.connected_path().is_none() {
                    self.stun_servers.hurry(now);
                }
                self.settle(slot);
                return Upsert::Reused;
            }
            self.links.discard(slot);
        } else if self.links.len() >= self.max_links {
            tracing::warn!(max = self.max_links, "refused a link: there are too many");
            return Upsert::Refused;
        }
        self.stun_servers.hurry(now);
        let (gate, tie_breaker) = (&self.gate, self.rng.next_u64());
        let slot = self.links.insert(|index| {
            Link::new(config, index, gate.private_key(), gate.rate_limiter(), tie_breaker, now)
        });
        if let Some(link) = self.links.at(slot) {
            link.set_local_candidates(&self.locals, now, &mut self.outputs);
        }
        self.settle(slot);
        if existing.is_some() { Upsert::Replaced } else { Upsert::Created }
    }

    /// Drops the link to a peer, if there is one, with what waits in it.
    pub fn remove(&mut self, peer: PeerId) {
        if let Some(slot) = self.links.slot_of(peer) {
            self.links.discard(slot);
        }
    }

    /// Drops all links.
    pub fn clear(&mut self) {
        for slot in self.links.slots() {
            self.links.discard(slot);
        }
    }

    /// Whether there is a link to this peer, connected or not.
    pub fn has_link(&self, peer: PeerId) -> bool {
        self.links.slot_of(peer).is_some()
    }

    /// The path of a connected link.
    pub fn path(&self, peer: PeerId) -> Option<Path> {
        self.links.of(peer)?.connected_path()
    }

    /// Round-trip time of a link's path, as its checks measure it.
    pub fn round_trip(&self, peer: PeerId) -> Option<Duration> {
        self.links.of(peer)?.round_trip()
    }

    /// When this peer last sent a packet or answered a check of a path, or its link was made.
    pub fn last_heard(&self, peer: PeerId) -> Option<Instant> {
        Some(self.links.of(peer)?.last_heard())
    }

    /// Takes a candidate of the peer's, an SDP attribute. Unknown peers and malformed candidates are ignored.
    pub fn add_remote_candidate(&mut self, peer: PeerId, candidate: &str, now: Instant) {
        self.with_link(peer, now, |link, out| link.add_remote_candidate(candidate, now, out));
    }

    /// Forgets a candidate of the peer's, an SDP attribute.
    pub fn remove_remote_candidate(&mut self, peer: PeerId, candidate: &str, now: Instant) {
        self.with_link(peer, now, |link, out| link.remove_remote_candidate(candidate, now, out));
    }

    /// Replaces the addresses that this machine's interfaces have, each with the port of our socket. Links keep their
    /// sessions: they tell their peers what changed and go on by another path.
    pub fn set_local_addresses(&mut self, hosts: &[SocketAddr], now: Instant) {
        if self.hosts == hosts {
            return;
        }
        self.now = now;
        self.hosts = hosts.to_vec();
        self.stun_servers.restart(hosts, now);
        self.relays.set_hosts(hosts, now);
        self.review_relays(now);
        self.update_candidates(now);
        self.with_each(|link, out| link.check_direct_path(now, out));
    }

    /// Replaces the servers that are asked for our server-reflexive addresses, and that relay for us if they do that.
    /// What works is kept until something else does.
    pub fn set_relays(&mut self, relays: &[Relay], now: Instant) {
        self.now = now;
        let servers: Vec<_> = relays.iter().flat_map(|relay| &relay.addresses).copied().collect();
        self.stun_servers.set(&servers, now);
        self.relays.set(relays, now);
        self.review_relays(now);
        self.update_candidates(now);
    }

    /// A stream that was asked for ([`Output::Stream`]) is connected. What comes by it goes to [`Node::open`], message by
    /// message, as datagrams between `local`, which is our end's address, and the server's.
    pub fn handle_stream_opened(&mut self, server: StreamServer, local: SocketAddr, now: Instant) {
        self.now = now;
        self.relays.handle_stream_opened(server, local, now);
        self.review_relays(now);
    }

    /// A stream that was asked for is gone, or could not be had. It is asked for again if there is need.
    pub fn handle_stream_closed(&mut self, server: StreamServer, now: Instant) {
        self.now = now;
        self.relays.handle_stream_closed(server, now);
        self.review_relays(now);
    }

    /// Gives all allocations back, after what waits to be sent: for the end of this process, whose addresses the next one
    /// may have.
    pub fn release_relays(&mut self, now: Instant) {
        self.now = now;
        for output in &mut self.outputs {
            if let Output::Transmit(transmit) = output
                && let Some(wrapped) = self.relays.wrap(transmit, now)
            {
                *transmit = wrapped;
            }
        }
        self.relays.release(now);
        while let Some(transmit) = self.relays.poll_transmit() {
            self.outputs.push_back(Output::Transmit(transmit));
        }
        self.update_candidates(now);
    }

    /// Encrypts a packet, cut to the MTU, into `queue`. Until the link is connected, packets wait: 128 of them, the
    /// oldest going first.
    pub fn seal(
        &mut self,
        peer: PeerId,
        packet: TunPacket<'_>,
        queue: &mut SendQueue,
        now: Instant,
    ) -> Result<(), SealError> {
        let slot = self.links.slot_of(peer).ok_or(SealError::UnknownPeer)?;
        let link = self.links.at(slot).ok_or(SealError::UnknownPeer)?;
        let was_dormant = link.is_dormant(now);
        let channel = match link.connected_path() {
            Some(Path { local: Some(local), remote }) if self.relays.has(local) => {
                let channel = self.relays.channel(local, remote, true, now);
                Some(channel.ok_or(SealError::NoPath)?)
            }
            _ => None,
        };
        // What is inside decides how the network may mark what is outside (RFC 6040 §4.1).
        let ecn = packet.headers().ecn().bits();
        let mut segments = packet.segments(MTU)?;
        let mut result = Ok(());
        while let Some(segment) = segments.next_segment() {
            if link.seal(segment, ecn, channel, queue, now).is_err() {
                result = Err(SealError::QueueFull);
                break;
            }
        }
        if was_dormant {
            link.wake(now);
            self.now = now;
            self.settle(slot);
        }
        result
    }

    /// Encrypts one packet that isn't part of a batch; it leaves by [`Node::poll_output`].
    pub fn send(&mut self, peer: PeerId, packet: &[u8], now: Instant) -> Result<(), SealError> {
        let slot = self.links.slot_of(peer).ok_or(SealError::UnknownPeer)?;
        let link = self.links.at(slot).ok_or(SealError::UnknownPeer)?;
        link.send(packet, now, &mut self.outputs);
        link.wake(now);
        self.now = now;
        self.settle(slot);
        Ok(())
    }

    /// Authenticates and decrypts a datagram. `slot` is at least as long as the datagram and 148 bytes.
    pub fn open(&mut self, datagram: Datagram<'_>, slot: &mut [u8], now: Instant) -> Opened {
        if slot.len() < datagram.payload.len().max(crate::wireguard::MAX_HANDSHAKE) {
            return Opened::Dropped;
        }
        if !is_channel_data(datagram.payload) {
            return self.open_direct(datagram, slot, now);
        }
        match self.relays.unwrap(datagram, now) {
            Some(inner) => self.open_direct(inner, slot, now),
            None => Opened::Dropped,
        }
    }

    /// Does what is due at `now`.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.now = now;
        self.relays.handle_timeout(now);
        self.review_relays(now);
        let outputs = &mut self.outputs;
        self.stun_servers.handle_timeout(now, &mut self.rng, |transmit| {
            outputs.push_back(Output::Transmit(transmit));
        });
        while let Some(slot) = self.links.pop_due(now) {
            let Some(link) = self.links.at(slot) else { continue };
            match link.handle_timeout(self.relays.has_stream(), now, &mut self.outputs) {
                Fate::Alive => {
                    if link.is_unanswered() {
                        self.stun_servers.verify(now);
                    }
                    self.settle(slot);
                    self.links.postpone(slot, now);
                }
                Fate::Failed(failure) => {
                    let peer = link.config().peer;
                    self.links.discard(slot);
                    self.outputs.push_back(Output::Event(Event::Failed { peer, failure }));
                }
            }
        }
    }

    /// What is to be done next; call it until it returns [`Output::Timeout`].
    pub fn poll_output(&mut self) -> Output {
        loop {
            if let Some(transmit) = self.relays.poll_transmit() {
                return Output::Transmit(transmit);
            }
            if let Some(request) = self.relays.poll_stream_request() {
                return Output::Stream(request);
            }
            let Some(output) = self.outputs.pop_front() else {
                return Output::Timeout(self.next_timeout());
            };
            let Output::Transmit(transmit) = &output else { return output };
            if !transmit.path.local.is_some_and(|local| self.relays.has(local)) {
                return output;
            }
            // What asks for the channel goes first.
            if let Some(wrapped) = self.relays.wrap(transmit, self.now) {
                self.outputs.push_front(Output::Transmit(wrapped));
            }
        }
    }

    fn next_timeout(&self) -> Instant {
        let stun_servers = self.stun_servers.next_timeout();
        [self.links.next_timeout(), stun_servers, self.relays.next_timeout()]
            .into_iter()
            .flatten()
            .min()
            .unwrap_or(self.now + FAR_AWAY)
    }

    fn with_link(
        &mut self,
        peer: PeerId,
        now: Instant,
        f: impl FnOnce(&mut Link, &mut VecDeque<Output>),
    ) {
        self.now = now;
        let Some(slot) = self.links.slot_of(peer) else {
            tracing::debug!(%peer, "no link to this peer");
            return;
        };
        if let Some(link) = self.links.at(slot) {
            f(link, &mut self.outputs);
        }
        self.settle(slot);
    }

    fn open_direct(&mut self, datagram: Datagram<'_>, slot: &mut [u8], now: Instant) -> Opened {
        if let Some(receiver) = data_receiver(datagram.payload) {
            let index = LinkIndex::of_receiver(receiver);
            let Some(link) = self.links.demux.by_index(index) else { return Opened::Dropped };
            return self.open_for(link, datagram, slot, now);
        }
        self.now = now;
        if let Some(header) = Header::parse(datagram.payload) {
            return self.handle_stun(header, datagram, slot, now);
        }
        let Datagram { local, remote, payload } = datagram;
        match self.gate.admit(remote.ip(), payload, &mut self.links.demux, now) {
            Admitted::Link(link) => self.open_for(link, datagram, slot, now),
            Admitted::Cookie(payload) => {
                let path = Path { local: Some(local), remote };
                self.outputs.push_back(Output::Transmit(Transmit { path, payload }));
                Opened::Dropped
            }
            Admitted::Nobody => Opened::Dropped,
        }
    }

    fn open_for(
        &mut self,
        slot_of_link: usize,
        datagram: Datagram<'_>,
        slot: &mut [u8],
        now: Instant,
    ) -> Opened {
        let Some(link) = self.links.at(slot_of_link) else { return Opened::Dropped };
        let Datagram { local, remote, payload } = datagram;
        match link.open(local, remote, payload, slot, now, &mut self.outputs) {
            Received::Packet { len, rearm } => {
                let peer = link.config().peer;
                if rearm {
                    link.wake(now);
                    self.now = now;
                    self.settle(slot_of_link);
                }
                Opened::Packet { peer, len }
            }
            Received::Handled => {
                self.now = now;
                self.settle(slot_of_link);
                Opened::Handled
            }
            Received::Rejected => Opened::Dropped,
        }
    }

    fn handle_stun(
        &mut self,
        header: Header,
        datagram: Datagram<'_>,
        slot: &mut [u8],
        now: Instant,
    ) -> Opened {
        let Datagram { local, remote, payload } = datagram;
        if header.class == Class::Request {
            return self.handle_ice(None, datagram, now);
        }
        let Some(message) = Message::parse(payload) else { return Opened::Dropped };
        if let Some(is_new) = self.stun_servers.handle_response(local, remote, &message, now) {
            self.relays.handle_mapping(remote, is_new, now);
            self.review_relays(now);
            self.update_candidates(now);
            return Opened::Handled;
        }
        if self.relays.handle_response(datagram, &message, now) {
            self.review_relays(now);
            return Opened::Handled;
        }
        if let Some(inner) = self.relays.unwrap_indication(datagram, &message) {
            // Once only: no relay sends to an address that a relay gave us.
            return self.open_direct(inner, slot, now);
        }
        match self.links.demux.take_transaction(&header.transaction) {
            Some(slot) => self.handle_ice(Some(slot), datagram, now),
            None => Opened::Dropped,
        }
    }

    fn handle_ice(&mut self, slot: Option<usize>, datagram: Datagram<'_>, now: Instant) -> Opened {
        let Ok(message) = StunMessage::parse(datagram.payload) else { return Opened::Dropped };
        let slot = slot.or_else(|| {
            let (ours, _) = message.split_username()?;
            self.links.demux.by_ufrag(ours)
        });
        let Some((slot, link)) = slot.and_then(|slot| Some((slot, self.links.at(slot)?))) else {
            return Opened::Dropped;
        };
        link.handle_stun(datagram.local, datagram.remote, message, now, &mut self.outputs);
        self.settle(slot);
        Opened::Handled
    }

    /// Relays may have to be let go or asked, and what they give us may have changed.
    fn review_relays(&mut self, now: Instant) {
        let links = &self.links;
        self.relays.review(&mut self.stun_servers, |address| links.leave_from(address), now);
        if self.relays.take_change().is_some() {
            self.update_candidates(now);
        }
        if self.relays.take_turn() {
            self.with_each(|link, out| link.doubt_direct(now, out));
        }
        if self.relays.take_question() {
            self.outputs.push_back(Output::Event(Event::NoRelays));
        }
    }

    fn update_candidates(&mut self, now: Instant) {
        let mappings = self.stun_servers.mappings();
        let locals = LocalCandidates::new(&self.hosts, mappings, &self.relays.relayed());
        self.with_each(|link, out| link.set_local_candidates(&locals, now, out));
        self.locals = locals;
    }

    fn with_each(&mut self, mut f: impl FnMut(&mut Link, &mut VecDeque<Output>)) {
        for slot in self.links.slots() {
            if let Some(link) = self.links.at(slot) {
                f(link, &mut self.outputs);
                self.settle(slot);
            }
        }
    }

    fn settle(&mut self, slot: usize) {
        self.links.settle(slot, &self.outputs, self.now);
    }
}

/// Whether a datagram is what a relay sends by a channel (RFC 8656 §12).
fn is_channel_data(datagram: &[u8]) -> bool {
    datagram.first().is_some_and(|first| (0x40..0x50).contains(first))
}

/// The receiver index of a WireGuard data message.
fn data_receiver(datagram: &[u8]) -> Option<u32> {
    let (kind, rest) = datagram.split_first_chunk::<4>()?;
    if *kind != [4, 0, 0, 0] || datagram.len() < crate::OVERHEAD {
        return None;
    }
    Some(u32::from_le_bytes(*rest.first_chunk()?))
}
