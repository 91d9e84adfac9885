//! The link to one peer: an ICE agent that finds the path and WireGuard that protects what travels on it.
//!
//! A link is one value without references to others, so that links can be spread over threads.

mod config;
mod direct;
mod ice;
mod newest;
mod peer_candidates;
mod renewal;
mod silence;

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use boringtun::noise::rate_limiter::RateLimiter;
use boringtun::x25519::{PublicKey, StaticSecret};
use connlib_packet::plan::MTU;
use connlib_stun::CHANNEL_HEADER;
use is::stun::StunMessage;

use crate::OVERHEAD;
use crate::candidates::LocalCandidates;
use crate::index::LinkIndex;
use crate::output::{Event, Failure, Output, Path, Transmit};
use crate::relays::Channel;
use crate::send_queue::SendQueue;
use crate::wireguard::{self, MAX_HANDSHAKE, Tick, WireGuard};
pub use config::{IceCredentials, LinkConfig, Role};
use direct::DirectTries;
use ice::{Ice, IceEvent, Signals};
use newest::Newest;
use silence::Silence;

/// Packets that wait for the path; the oldest goes first.
const MAX_PENDING: usize = 128;

/// How long a peer may take to signal its first candidate.
const FIRST_CANDIDATE: Duration = Duration::from_secs(10);

/// How long all pairs may have failed before the link is given up: candidates may still be under way.
const DISCONNECTED_GRACE: Duration = Duration::from_secs(2);

/// How long this machine may be without any address before its links are given up.
const OFFLINE_GRACE: Duration = Duration::from_secs(60);

/// Without packets for so long, the path is checked at leisure.
const IDLE_AFTER: Duration = Duration::from_secs(10);

/// A path that nothing was heard on for so long may not work any more.
const DOUBTFUL: Duration = Duration::from_secs(1);

pub(crate) struct Link {
    config: LinkConfig,
    ice: Ice,
    wireguard: WireGuard,
    created: Instant,
    path: Option<Path>,
    /// The newest packet of the peer: says which path it used last.
    last_authenticated: Option<Newest>,
    /// Packets have travelled: the path works and WireGuard has, or had, a session.
    connected: bool,
    disconnected_since: Option<Instant>,
    last_packet: Instant,
    /// The last packet or keep-alive of the peer.
    last_heard: Instant,
    silence: Silence,
    /// Since when the peer is to show that it has the session.
    unproven_since: Option<Instant>,
    /// All paths were checked a second time before there was one.
    is_rechecked: bool,
    direct_tries: DirectTries,
    pending: VecDeque<Vec<u8>>,
}

/// What the node must know beyond the queued outputs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    Alive,
    Failed(Failure),
}

/// What the link made of a datagram.
#[derive(Debug)]
pub(crate) enum Received {
    /// The first so many bytes of the slot are a packet. `rearm`: timers may have moved.
    Packet { len: usize, rearm: bool },
    /// It was for the link itself.
    Handled,
    /// It was not authentic, or came twice.
    Rejected,
}

impl Link {
    pub(crate) fn new(
        config: LinkConfig,
        index: LinkIndex,
        private_key: StaticSecret,
        rate_limiter: Arc<RateLimiter>,
        tie_breaker: u64,
        now: Instant,
    ) -> Self {
        let wireguard = WireGuard::new(
            private_key,
            PublicKey::from(config.remote_public_key),
            config.preshared_key,
            index,
            rate_limiter,
            now,
        );
        Self {
            ice: Ice::new(&config, tie_breaker, now),
            config,
            wireguard,
            created: now,
            path: None,
            last_authenticated: None,
            connected: false,
            disconnected_since: None,
            last_packet: now,
            last_heard: now,
            silence: Silence::default(),
            unproven_since: None,
            is_rechecked: false,
            direct_tries: DirectTries::default(),
            pending: VecDeque::new(),
        }
    }

    pub(crate) fn config(&self) -> &LinkConfig {
        &self.config
    }

    /// The path in use, once packets can travel.
    pub(crate) fn connected_path(&self) -> Option<Path> {
        self.path.filter(|_| self.connected)
    }

    /// Time that a check of the path took there and back, if known.
    pub(crate) fn round_trip(&self) -> Option<Duration> {
        self.ice.round_trip()
    }

    /// When the peer last sent a packet or answered a check, or the link was made.
    pub(crate) fn last_heard(&self) -> Instant {
        self.last_heard.max(self.ice.last_answered())
    }

    /// Takes over what this end can be reached by, and tells the peer what changed.
    pub(crate) fn set_local_candidates(
        &mut self,
        locals: &LocalCandidates,
        now: Instant,
        out: &mut VecDeque<Output>,
    ) {
        let Some(Signals { added, removed }) = self.ice.set_local_candidates(locals) else {
            return;
        };
        if self.is_path_lost() {
            // What the peer sent last does not say any more which path works.
            self.last_authenticated = None;
        }
        // Checks that were not answered are repeated more and more rarely, and datagrams may just have begun to get through.
        if !added.is_empty() && !self.connected && now >= self.last_heard() + DOUBTFUL {
            self.ice.check_all_again();
        }
        let peer = self.config.peer;
        // In this order, the peer is never without any.
        if !added.is_empty() {
            out.push_back(Output::Event(Event::NewCandidates { peer, candidates: added }));
        }
        if !removed.is_empty() {
            let candidates = removed;
            out.push_back(Output::Event(Event::InvalidatedCandidates { peer, candidates }));
        }
        self.wake(now);
        self.drive(now, out);
        self.leave_lost_address(now, out);
    }

    /// When the address that we send from is gone and ICE knows no other path that works, the operating system picks one
    /// until it does: the peer follows an authenticated packet at once.
    fn leave_lost_address(&mut self, now: Instant, out: &mut VecDeque<Output>) {
        if let Some(Path { remote, .. }) = self.path.filter(|_| self.is_path_lost()) {
            self.path = Some(Path { local: None, remote });
            self.announce_path(now, out);
        }
    }

    fn is_path_lost(&self) -> bool {
        let local = self.path.and_then(|path| path.local);
        local.is_some_and(|local| !self.ice.can_send_from(local))
    }

    /// Sends an empty packet, so that the peer learns which path we use from now on.
    fn announce_path(&mut self, now: Instant, out: &mut VecDeque<Output>) {
        if self.config.role == Role::Controlling && self.wireguard.has_session(now) {
            let mut slot = [0; MAX_HANDSHAKE];
            let sealed = self.wireguard.seal(&[], &mut slot, now);
            self.transmit(sealed, &slot, out);
        }
    }

    pub(crate) fn add_remote_candidate(
        &mut self,
        candidate: &str,
        now: Instant,
        out: &mut VecDeque<Output>,
    ) {
        let is_new_relayed = self.ice.add_remote_candidate(candidate);
        // Perhaps the peer has just found out that datagrams don't get through to it.
        if is_new_relayed && self.is_unanswered() {
            self.doubt_direct(now, out);
        }
        self.wake(now);
        self.drive(now, out);
    }

    pub(crate) fn remove_remote_candidate(
        &mut self,
        candidate: &str,
        now: Instant,
        out: &mut VecDeque<Output>,
    ) {
        self.ice.remove_remote_candidate(candidate);
        self.drive(now, out);
    }

    /// Takes a STUN message that names this link.
    pub(crate) fn handle_stun(
        &mut self,
        local: SocketAddr,
        remote: SocketAddr,
        message: StunMessage<'_>,
        now: Instant,
        out: &mut VecDeque<Output>,
    ) {
        self.ice.handle_stun(local, remote, message, now);
        self.drive(now, out);
    }

    /// Lets a path without a relay of ours prove itself once more, if nothing is heard on it, or take others: there is
    /// reason to think that datagrams don't get through any more.
    pub(crate) fn doubt_direct(&mut self, now: Instant, out: &mut VecDeque<Output>) {
        let is_silent = now >= self.last_heard() + DOUBTFUL;
        if is_silent && self.direct_tries.may_doubt(now) {
            self.check_direct_path(now, out);
        }
    }

    /// The same, whatever was heard: this machine has other addresses, and the one in use may now be in another network
    /// that only happens to have it as well.
    pub(crate) fn check_direct_path(&mut self, now: Instant, out: &mut VecDeque<Output>) {
        let local = self.connected_path().and_then(|path| path.local);
        let is_direct = local.is_some_and(|local| !self.ice.is_from_relay(local));
        if self.config.role == Role::Controlling && is_direct {
            self.ice.check_all_again();
            self.direct_tries.doubt(now);
            self.wake(now);
            self.drive(now, out);
        }
    }

    /// Whether packets go out on the path in use and nothing comes back.
    pub(crate) fn is_unanswered(&self) -> bool {
        self.last_packet > self.last_heard() + DOUBTFUL
    }

    /// Encrypts a packet into the queue, to leave by a relay's channel if that is what the path needs; or keeps it until
    /// there is a path.
    pub(crate) fn seal(
        &mut self,
        packet: &[u8],
        ecn: u8,
        channel: Option<Channel>,
        queue: &mut SendQueue,
        now: Instant,
    ) -> Result<(), QueueFull> {
        self.silence.note_packet(self.last_heard(), now);
        let Some(path) = self.connected_path() else {
            self.keep_pending(packet);
            return Ok(());
        };
        let (path, header) = match channel {
            Some(channel) => (channel.path, CHANNEL_HEADER),
            None => (path, 0),
        };
        let size = header + (packet.len() + OVERHEAD).max(MAX_HANDSHAKE);
        let slot = queue.reserve(size).ok_or(QueueFull)?;
        if let Some(len) = self.wireguard.seal(packet, &mut slot[header..], now) {
            if let Some(channel) = channel {
                slot[..CHANNEL_HEADER].copy_from_slice(&channel.header(len));
            }
            queue.commit(path, ecn, header + len);
        }
        self.last_packet = now;
        Ok(())
    }

    /// Encrypts a packet that isn't part of a batch, or keeps it until there is a path.
    pub(crate) fn send(&mut self, packet: &[u8], now: Instant, out: &mut VecDeque<Output>) {
        self.silence.note_packet(self.last_heard(), now);
        if self.connected_path().is_none() {
            self.keep_pending(packet);
            return;
        }
        let mut slot = vec![0; (packet.len() + OVERHEAD).max(MAX_HANDSHAKE)];
        let sealed = self.wireguard.seal(packet, &mut slot, now);
        self.transmit(sealed, &slot, out);
    }

    /// Whether sealing or opening a packet now moves this link's timers nearer.
    pub(crate) fn is_dormant(&self, now: Instant) -> bool {
        self.ice.is_idle() || !self.connected || self.wireguard.is_quiet(now)
    }

    fn keep_pending(&mut self, packet: &[u8]) {
        if self.pending.len() == MAX_PENDING {
            self.pending.pop_front();
        }
        self.pending.push_back(packet.to_vec());
    }

    /// Authenticates a WireGuard message and, if it holds a packet, decrypts that into `slot`.
    pub(crate) fn open(
        &mut self,
        local: SocketAddr,
        remote: SocketAddr,
        datagram: &[u8],
        slot: &mut [u8],
        now: Instant,
        out: &mut VecDeque<Output>,
    ) -> Received {
        let arrival = Path { local: Some(local), remote };
        match self.wireguard.open(remote.ip(), datagram, slot, now) {
            wireguard::Opened::Packet(len) => {
                let rearm = self.is_dormant(now);
                self.last_packet = now;
                self.last_heard = now;
                self.note_authentic(arrival, datagram, now, out);
                self.become_connected(now, out);
                Received::Packet { len, rearm }
            }
            wireguard::Opened::Reply { len, new_session } => {
                let payload = slot.get(..len).unwrap_or_default().to_vec();
                out.push_back(Output::Transmit(Transmit { path: arrival, payload }));
                if new_session {
                    self.last_heard = now;
                    self.become_connected(now, out);
                }
                Received::Handled
            }
            wireguard::Opened::Nothing { keepalive } => {
                if keepalive {
                    self.last_heard = now;
                    self.note_authentic(arrival, datagram, now, out);
                    self.become_connected(now, out);
                }
                Received::Handled
            }
            wireguard::Opened::Rejected(e) => {
                tracing::trace!(peer = %self.config.peer, error = ?e, "rejected WireGuard message");
                Received::Rejected
            }
        }
    }

    /// The controlled end answers on the path of the newest authentic packet.
    fn note_authentic(
        &mut self,
        arrival: Path,
        datagram: &[u8],
        now: Instant,
        out: &mut VecDeque<Output>,
    ) {
        if self.config.role == Role::Controlling {
            return;
        }
        if let Some(newest) = Newest::after(self.last_authenticated, datagram, now) {
            self.last_authenticated = Some(newest);
            self.take_path(arrival, now, out);
        }
    }

    fn take_path(&mut self, path: Path, now: Instant, out: &mut VecDeque<Output>) {
        if self.path == Some(path) {
            return;
        }
        self.path = Some(path);
        self.direct_tries.moved(self.ice.is_relayed(path), now);
        if self.connected {
            let peer = self.config.peer;
            out.push_back(Output::Event(Event::PathChanged { peer, path }));
            self.announce_path(now, out);
        }
    }

    fn become_connected(&mut self, now: Instant, out: &mut VecDeque<Output>) {
        let Some(path) = self.path else { return };
        if !self.connected {
            self.connected = true;
            let peer = self.config.peer;
            out.push_back(Output::Event(Event::Connected { peer, path }));
        }
        if self.pending.is_empty() && !self.wireguard.has_waiting() {
            return;
        }
        let mut slot = vec![0; usize::from(MTU) + OVERHEAD];
        while let Some(sealed) = self.wireguard.seal_waiting(&mut slot, now) {
            self.transmit(Some(sealed), &slot, out);
        }
        for packet in std::mem::take(&mut self.pending) {
            if packet.len() + OVERHEAD <= slot.len() {
                let sealed = self.wireguard.seal(&packet, &mut slot, now);
                self.transmit(sealed, &slot, out);
            }
        }
        self.last_packet = now;
    }

    fn transmit(&self, len: Option<usize>, slot: &[u8], out: &mut VecDeque<Output>) {
        if let (Some(path), Some(payload)) = (self.path, len.and_then(|len| slot.get(..len))) {
            out.push_back(Output::Transmit(Transmit { path, payload: payload.to_vec() }));
        }
    }

    pub(crate) fn next_timeout(&mut self) -> Option<Instant> {
        let first_candidate = (!self.ice.knows_peer()).then(|| self.created + FIRST_CANDIDATE);
        let grace = self.disconnected_since.map(|since| since + self.grace());
        let idle = (self.connected && !self.ice.is_idle()).then(|| self.last_packet + IDLE_AFTER);
        let checks = self.ice.next_timeout();
        // Without a path there is nothing that WireGuard could send.
        let wireguard = self.path.and_then(|_| self.wireguard.next_timeout());
        let direct = self.direct_tries.next_timeout(self.ice.is_idle());
        let silence = self.silence.next_timeout(self.last_heard());
        let silence = silence.filter(|_| self.must_be_answered());
        let proof = self.proof_due();
        [first_candidate, grace, idle, checks, wireguard, direct, silence, proof]
            .into_iter()
            .flatten()
            .min()
    }

    /// `by_stream`: a relay is reached by a stream, as none is by datagrams.
    pub(crate) fn handle_timeout(
        &mut self,
        by_stream: bool,
        now: Instant,
        out: &mut VecDeque<Output>,
    ) -> Fate {
        if !self.ice.knows_peer() && now >= self.created + FIRST_CANDIDATE {
            return Fate::Failed(Failure::NoCandidates);
        }
        if self.disconnected_since.is_some_and(|since| now >= since + self.grace()) {
            return Fate::Failed(Failure::NoPath);
        }
        if self.connected && !self.ice.is_idle() && now >= self.last_packet + IDLE_AFTER {
            self.ice.set_idle(true);
        }
        if !self.ice.is_idle() && self.direct_tries.is_due(now) {
            self.ice.check_direct_again();
        }
        if by_stream && self.is_unanswered() {
            self.doubt_direct(now, out);
        }
        if let Some(path) = self.direct_tries.take_settled(now) {
            self.handle_nomination(path, now, out);
        }
        if self.must_be_answered() && self.silence.is_due(self.last_heard(), now) {
            out.push_back(Output::Event(Event::Silent { peer: self.config.peer }));
        }
        self.handle_proof(now, out);
        let mut slot = [0; MAX_HANDSHAKE];
        if self.path.is_some() {
            match self.wireguard.handle_timeout(&mut slot, now) {
                Tick::Nothing => {}
                Tick::Send(len) => self.transmit(Some(len), &slot, out),
                Tick::HandshakeTimeout if self.must_be_answered() => {
                    return Fate::Failed(Failure::HandshakeTimeout);
                }
                Tick::HandshakeTimeout => {}
            }
        }
        self.drive(now, out);
        Fate::Alive
    }

    /// Whether a peer that answers nothing doesn't know us. It can't answer when we are offline, and a client that sleeps
    /// goes on where it was: how long to wait for that is up to the checks of the path.
    fn must_be_answered(&self) -> bool {
        self.config.role == Role::Controlling && !self.ice.is_offline()
    }

    fn grace(&self) -> Duration {
        if self.ice.is_offline() { OFFLINE_GRACE } else { DISCONNECTED_GRACE }
    }

    pub(crate) fn wake(&mut self, now: Instant) {
        self.last_packet = now;
        if self.ice.is_idle() {
            self.ice.set_idle(false);
        }
    }

    /// Lets the agent do what is due and acts on what it says.
    fn drive(&mut self, now: Instant, out: &mut VecDeque<Output>) {
        self.ice.drive(now, out);
        while let Some(event) = self.ice.poll_event() {
            match event {
                IceEvent::Nominated(path) => self.handle_nomination(path, now, out),
                IceEvent::Hope(true) => self.disconnected_since = None,
                IceEvent::Hope(false) => {
                    self.disconnected_since.get_or_insert(now);
                }
            }
        }
    }

    fn handle_nomination(&mut self, path: Path, now: Instant, out: &mut VecDeque<Output>) {
        if self.direct_tries.defers(path, self.ice.is_relayed(path) && !self.is_path_lost()) {
            return;
        }
        let heard_recently = self.last_authenticated.is_some_and(|newest| newest.is_recent(now));
        if self.config.role == Role::Controlled && heard_recently {
            return;
        }
        self.take_path(path, now, out);
        if self.config.role == Role::Controlling && !self.connected {
            self.initiate(now, out);
        }
        if self.wireguard.is_confirmed() {
            self.become_connected(now, out);
        }
    }
}

/// The caller's [`SendQueue`] has no room.
#[derive(Debug)]
pub(crate) struct QueueFull;
