//! All links of this end.

use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use boringtun::noise::handshake::parse_handshake_anon;
use boringtun::noise::rate_limiter::RateLimiter;
use boringtun::noise::{Packet, TunnResult};
use boringtun::x25519::{PublicKey, StaticSecret};
use connlib_packet::plan::MTU;
use connlib_packet::{ExceedsMtu, TunPacket};
use is::stun::StunMessage;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha20Rng;

use crate::candidates::LocalCandidates;
use crate::deadlines::Deadlines;
use crate::demux::Demux;
use crate::index::{IndexSequence, LinkIndex};
use crate::link::{Fate, Link, LinkConfig, Received};
use crate::output::{Event, Output, Path, PeerId, Transmit};
use crate::send_queue::SendQueue;
use crate::stun::{self, StunServers};
use crate::wireguard::clock;

/// Handshake messages a second beyond which a sender has to prove its address by a cookie.
const HANDSHAKES_PER_SECOND: u64 = 100;

/// Nothing ever is due later than this.
const FAR_AWAY: Duration = Duration::from_secs(24 * 60 * 60);

/// A link that is due is due again no sooner than this, whatever it says: others get their turn.
const TURN: Duration = Duration::from_millis(1);

/// Settings of a [`Node`].
#[derive(Debug, Clone)]
pub struct NodeConfig {
    /// Seed of everything random, the WireGuard key included: 32 bytes from the operating system.
    pub seed: [u8; 32],
    /// Links beyond this many are refused.
    pub max_links: usize,
}

impl Default for NodeConfig {
    fn default() -> Self {
        Self { seed: [0; 32], max_links: 4096 }
    }
}

/// All links of this end: the state machine between the sockets and the tunnel.
pub struct Node {
    private_key: StaticSecret,
    public_key: PublicKey,
    rate_limiter: Arc<RateLimiter>,
    rng: ChaCha20Rng,
    indices: IndexSequence,
    max_links: usize,
    links: Vec<Option<Link>>,
    by_peer: HashMap<PeerId, usize>,
    demux: Demux,
    timers: Deadlines,
    hosts: Vec<SocketAddr>,
    locals: LocalCandidates,
    stun_servers: StunServers,
    outputs: VecDeque<Output>,
    now: Instant,
}

/// What [`Node::upsert`] did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Upsert {
    /// There was no link to this peer.
    Created,
    /// The link was the same already; its candidates are signalled once more.
    Reused,
    /// The peer or its keys are new: the old link is gone with what waited in it.
    Replaced,
    /// There are too many links.
    Refused,
}

/// A datagram from a socket.
#[derive(Debug, Clone, Copy)]
pub struct Datagram<'a> {
    /// The address it was sent to: one of ours.
    pub local: SocketAddr,
    /// The address it came from.
    pub remote: SocketAddr,
    /// The UDP payload.
    pub payload: &'a [u8],
}

/// What [`Node::open`] made of a datagram.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Opened {
    /// The first `len` bytes of the slot are a packet from this peer: well-formed only as far as its length goes.
    Packet {
        /// Who sent it.
        peer: PeerId,
        /// Its length in bytes.
        len: usize,
    },
    /// It was for the link itself; the node's outputs may have grown.
    Handled,
    /// It belongs to no link, or isn't authentic. To be counted, not to be logged.
    Dropped,
}

/// Why a packet could not be sealed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SealError {
    /// There is no link to this peer.
    #[error("no link to this peer")]
    UnknownPeer,
    /// The send queue has no room; see [`SendQueue::is_full`].
    #[error("the send queue is full")]
    QueueFull,
    /// The packet is longer than the MTU and may not be cut.
    #[error(transparent)]
    ExceedsMtu(#[from] ExceedsMtu),
}

impl Node {
    /// A node with a key of its own, without links and addresses.
    pub fn new(config: NodeConfig, now: Instant) -> Self {
        let mut rng = ChaCha20Rng::from_seed(config.seed);
        let mut key = [0; 32];
        rng.fill_bytes(&mut key);
        let private_key = StaticSecret::from(key);
        let public_key = PublicKey::from(&private_key);
        Self {
            rate_limiter: rate_limiter(&public_key, now),
            private_key,
            public_key,
            indices: IndexSequence::new(rng.next_u32()),
            rng,
            max_links: config.max_links,
            links: Vec::new(),
            by_peer: HashMap::new(),
            demux: Demux::default(),
            timers: Deadlines::default(),
            hosts: Vec::new(),
            locals: LocalCandidates::default(),
            stun_servers: StunServers::default(),
            outputs: VecDeque::new(),
            now,
        }
    }

    /// The WireGuard key that peers know this end by.
    pub fn public_key(&self) -> [u8; 32] {
        self.public_key.to_bytes()
    }

    /// Makes sure that there is a link with these keys and credentials. Does nothing to one that is there already but
    /// signal its candidates once more, as the peer may have lost them.
    pub fn upsert(&mut self, config: LinkConfig, now: Instant) -> Upsert {
        self.now = now;
        let existing = self.by_peer.get(&config.peer).copied();
        if let Some(slot) = existing {
            if let Some(link) = self.links[slot].as_mut().filter(|link| *link.config() == config) {
                link.renew(now, &mut self.outputs);
                self.settle(slot);
                return Upsert::Reused;
            }
            self.discard(slot);
        } else if self.by_peer.len() >= self.max_links {
            tracing::warn!(max = self.max_links, "refused a link: there are too many");
            return Upsert::Refused;
        }
        self.stun_servers.hurry(now);
        let slot = self.free_slot();
        let index = self.free_index();
        self.demux.insert(slot, index, config.remote_public_key, config.local.username.clone());
        self.by_peer.insert(config.peer, slot);
        let mut link = Link::new(
            config,
            index,
            self.private_key.clone(),
            Arc::clone(&self.rate_limiter),
            self.rng.next_u64(),
            now,
        );
        link.set_local_candidates(&self.locals, now, &mut self.outputs);
        self.links[slot] = Some(link);
        self.settle(slot);
        if existing.is_some() { Upsert::Replaced } else { Upsert::Created }
    }

    /// Drops the link to a peer, if there is one, with what waits in it.
    pub fn remove(&mut self, peer: PeerId) {
        if let Some(slot) = self.by_peer.get(&peer).copied() {
            self.discard(slot);
        }
    }

    /// Drops all links.
    pub fn clear(&mut self) {
        for slot in 0..self.links.len() {
            self.discard(slot);
        }
    }

    /// Whether there is a link to this peer, connected or not.
    pub fn has_link(&self, peer: PeerId) -> bool {
        self.by_peer.contains_key(&peer)
    }

    /// The path of a connected link.
    pub fn path(&self, peer: PeerId) -> Option<Path> {
        self.link(peer)?.connected_path()
    }

    /// Round-trip time of a link's path, as its checks measure it.
    pub fn round_trip(&self, peer: PeerId) -> Option<Duration> {
        self.link(peer)?.round_trip()
    }

    /// When this peer last sent a packet or answered a check of a path, or its link was made.
    pub fn last_heard(&self, peer: PeerId) -> Option<Instant> {
        Some(self.link(peer)?.last_heard())
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
        self.update_candidates(now);
    }

    /// Replaces the servers that are asked for our server-reflexive addresses.
    pub fn set_stun_servers(&mut self, servers: &[SocketAddr], now: Instant) {
        self.now = now;
        self.stun_servers.set(servers, now);
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
        let slot = *self.by_peer.get(&peer).ok_or(SealError::UnknownPeer)?;
        let link = self.links[slot].as_mut().ok_or(SealError::UnknownPeer)?;
        let was_dormant = link.is_dormant(now);
        // What is inside decides how the network may mark what is outside (RFC 6040 §4.1).
        let ecn = packet.headers().ecn().bits();
        let mut segments = packet.segments(MTU)?;
        let mut result = Ok(());
        while let Some(segment) = segments.next_segment() {
            if link.seal(segment, ecn, queue, now).is_err() {
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
        let slot = *self.by_peer.get(&peer).ok_or(SealError::UnknownPeer)?;
        let link = self.links[slot].as_mut().ok_or(SealError::UnknownPeer)?;
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
        if let Some(receiver) = data_receiver(datagram.payload) {
            let Some(link) = self.demux.by_index(LinkIndex::of_receiver(receiver)) else {
                return Opened::Dropped;
            };
            return self.open_for(link, datagram, slot, now);
        }
        self.now = now;
        if stun::is_stun(datagram.payload) {
            return self.handle_stun(datagram, now);
        }
        match self.link_of_handshake(datagram, now) {
            Some(link) => self.open_for(link, datagram, slot, now),
            None => Opened::Dropped,
        }
    }

    /// Does what is due at `now`.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.now = now;
        let outputs = &mut self.outputs;
        self.stun_servers.handle_timeout(now, &mut self.rng, |transmit| {
            outputs.push_back(Output::Transmit(transmit));
        });
        while let Some(slot) = self.timers.pop_due(now) {
            let Some(link) = self.links[slot].as_mut() else { continue };
            match link.handle_timeout(now, &mut self.outputs) {
                Fate::Alive => {
                    self.settle(slot);
                    self.timers.postpone(slot, now + TURN);
                }
                Fate::Failed(failure) => {
                    let peer = link.config().peer;
                    self.discard(slot);
                    self.outputs.push_back(Output::Event(Event::Failed { peer, failure }));
                }
            }
        }
    }

    /// What is to be done next; call it until it returns [`Output::Timeout`].
    pub fn poll_output(&mut self) -> Output {
        match self.outputs.pop_front() {
            Some(output) => output,
            None => Output::Timeout(self.next_timeout()),
        }
    }

    fn next_timeout(&self) -> Instant {
        [self.timers.next(), self.stun_servers.next_timeout()]
            .into_iter()
            .flatten()
            .min()
            .unwrap_or(self.now + FAR_AWAY)
    }

    fn link(&self, peer: PeerId) -> Option<&Link> {
        self.links.get(*self.by_peer.get(&peer)?)?.as_ref()
    }

    fn with_link(
        &mut self,
        peer: PeerId,
        now: Instant,
        f: impl FnOnce(&mut Link, &mut VecDeque<Output>),
    ) {
        self.now = now;
        let Some(slot) = self.by_peer.get(&peer).copied() else {
            tracing::debug!(%peer, "no link to this peer");
            return;
        };
        if let Some(link) = self.links[slot].as_mut() {
            f(link, &mut self.outputs);
        }
        self.settle(slot);
    }

    fn open_for(
        &mut self,
        slot_of_link: usize,
        datagram: Datagram<'_>,
        slot: &mut [u8],
        now: Instant,
    ) -> Opened {
        let Some(link) = self.links[slot_of_link].as_mut() else { return Opened::Dropped };
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

    fn handle_stun(&mut self, datagram: Datagram<'_>, now: Instant) -> Opened {
        let Datagram { local, remote, payload } = datagram;
        if stun::is_request(payload) {
            return self.handle_ice(None, datagram, now);
        }
        if self.stun_servers.handle_response(local, remote, payload, now).is_some() {
            self.update_candidates(now);
            return Opened::Handled;
        }
        let slot = stun::transaction_id(payload).and_then(|id| self.demux.take_transaction(&id));
        match slot {
            Some(slot) => self.handle_ice(Some(slot), datagram, now),
            None => Opened::Dropped,
        }
    }

    fn handle_ice(&mut self, slot: Option<usize>, datagram: Datagram<'_>, now: Instant) -> Opened {
        let Ok(message) = StunMessage::parse(datagram.payload) else { return Opened::Dropped };
        let slot = slot.or_else(|| {
            let (ours, _) = message.split_username()?;
            self.demux.by_ufrag(ours)
        });
        let Some((slot, link)) =
            slot.and_then(|slot| Some((slot, self.links.get_mut(slot)?.as_mut()?)))
        else {
            return Opened::Dropped;
        };
        link.handle_stun(datagram.local, datagram.remote, message, now, &mut self.outputs);
        self.settle(slot);
        Opened::Handled
    }

    /// Which link a handshake or cookie message is for. An initiation names its sender only in encrypted form, which
    /// costs a Diffie-Hellman computation: so the cheap checks, and the proof of its address under load, come first.
    fn link_of_handshake(&mut self, datagram: Datagram<'_>, now: Instant) -> Option<usize> {
        clock::follow(now);
        self.rate_limiter.reset_count();
        let from = Some(datagram.remote.ip());
        let mut cookie = [0; 64];
        let verified = self.rate_limiter.verify_packet(from, datagram.payload, &mut cookie);
        match verified {
            Ok(Packet::HandshakeInit(initiation)) => {
                let half =
                    parse_handshake_anon(&self.private_key, &self.public_key, &initiation).ok()?;
                self.demux.by_public_key(&half.peer_static_public)
            }
            Ok(Packet::HandshakeResponse(response)) => {
                self.demux.by_index(LinkIndex::of_receiver(response.receiver_idx))
            }
            Ok(Packet::PacketCookieReply(reply)) => {
                self.demux.by_index(LinkIndex::of_receiver(reply.receiver_idx))
            }
            Ok(Packet::PacketData(_)) => None,
            Err(TunnResult::WriteToNetwork(reply)) => {
                let path = Path { local: Some(datagram.local), remote: datagram.remote };
                let payload = reply.to_vec();
                self.outputs.push_back(Output::Transmit(Transmit { path, payload }));
                self.now = now;
                None
            }
            Err(_) => None,
        }
    }

    fn update_candidates(&mut self, now: Instant) {
        self.locals = LocalCandidates::new(&self.hosts, self.stun_servers.mappings());
        for slot in 0..self.links.len() {
            if let Some(link) = self.links[slot].as_mut() {
                link.set_local_candidates(&self.locals, now, &mut self.outputs);
                self.settle(slot);
            }
        }
    }

    /// After each change of a link: its requests are expected to be answered, and its deadline is known.
    fn settle(&mut self, slot: usize) {
        let Some(link) = self.links[slot].as_mut() else { return };
        self.timers.set(slot, link.next_timeout());
        for output in self.outputs.iter().rev() {
            let Output::Transmit(transmit) = output else { continue };
            if stun::is_stun(&transmit.payload)
                && stun::is_request(&transmit.payload)
                && let Some(id) = stun::transaction_id(&transmit.payload)
            {
                if self.demux.has_transaction(&id) {
                    break;
                }
                self.demux.note_transaction(id, slot, self.now);
            }
        }
    }

    fn free_slot(&mut self) -> usize {
        self.links.iter().position(Option::is_none).unwrap_or_else(|| {
            self.links.push(None);
            self.links.len() - 1
        })
    }

    fn free_index(&mut self) -> LinkIndex {
        // INVARIANT: there are fewer links than indices by orders of magnitude.
        loop {
            let index = self.indices.next();
            if !self.demux.has_index(index) {
                return index;
            }
        }
    }

    fn discard(&mut self, slot: usize) {
        if let Some(link) = self.links[slot].take() {
            self.by_peer.remove(&link.config().peer);
            self.demux.remove(slot);
            self.timers.set(slot, None);
        }
    }
}

fn rate_limiter(public_key: &PublicKey, now: Instant) -> Arc<RateLimiter> {
    clock::follow(now);
    // Each handshake message is verified twice: before its link is known, and by the link.
    Arc::new(RateLimiter::new(public_key, 2 * HANDSHAKES_PER_SECOND))
}

/// The receiver index of a WireGuard data message.
fn data_receiver(datagram: &[u8]) -> Option<u32> {
    let (kind, rest) = datagram.split_first_chunk::<4>()?;
    if *kind != [4, 0, 0, 0] || datagram.len() < crate::OVERHEAD {
        return None;
    }
    Some(u32::from_le_bytes(*rest.first_chunk()?))
}
