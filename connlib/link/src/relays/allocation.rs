//! One allocation on a relay (RFC 8656).

mod answers;

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use connlib_stun::{Attribute, Builder, Class, FAMILY_IP6, Method, Transaction};
use rand::Rng;
use rand_chacha::ChaCha20Rng;
use uuid::Uuid;

use super::channels::{Channels, Outbound};
use super::requests::{Due, Purpose, Request, Requests};
use super::session::{RelayCredentials, Session};
use super::watch::Watch;
use crate::output::{Path, Transmit};

/// UDP, in REQUESTED-TRANSPORT (RFC 8656 §18.7).
const UDP: [u8; 4] = [17, 0, 0, 0];

/// IPv6, in ADDITIONAL-ADDRESS-FAMILY (RFC 8656 §18.6): in addition to IPv4.
const IPV6: [u8; 4] = [FAMILY_IP6, 0, 0, 0];

/// Where relays' requests go, and where they take randomness from.
pub(super) struct Outbox {
    pub(super) transmits: VecDeque<Transmit>,
    pub(super) rng: ChaCha20Rng,
}

/// How messages travel between us and the relay: between these addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Carrier {
    pub(super) local: SocketAddr,
    pub(super) server: SocketAddr,
    /// In a stream, which loses nothing; or as datagrams.
    pub(super) is_stream: bool,
}

impl Carrier {
    pub(super) fn path(self) -> Path {
        Path { local: Some(self.local), remote: self.server }
    }
}

/// How far an allocation has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    /// The relay has been asked. `resets`: how often it said that it knows another one of ours.
    Asked { resets: u8 },
    /// Packets can travel.
    Granted { since: Instant },
    /// There is none.
    Failed(Refusal),
}

/// Why there is no allocation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refusal {
    Silence,
    Credentials,
    /// The relay knows an allocation of our address that is another user's: of the process that ran here before, which
    /// did not give it back.
    Occupied,
    /// The code of RFC 8656 §19.
    Error(u16),
    /// It is given back.
    Released,
}

pub(super) struct Allocation {
    relay: Uuid,
    carrier: Carrier,
    watch: Watch,
    session: Session,
    /// The credentials that the relay is known to accept, while newer ones are tried.
    proven: Option<Session>,
    /// Newer credentials were refused: this allocation can't go on with them.
    is_outdated: bool,
    state: State,
    /// By family: IPv4, IPv6.
    relayed: [Option<SocketAddr>; 2],
    requests: Requests,
    /// Channels to be bound once there is room for more requests.
    waiting: VecDeque<u16>,
    channels: Channels,
    /// When to ask again: to refresh the allocation or, where another is in its way, for it.
    ask_at: Option<Instant>,
    expires_at: Instant,
    /// It has carried nothing of late, and was asked for that reason.
    is_suspect: bool,
}

impl Allocation {
    /// Asks a relay for an allocation.
    pub(super) fn new(
        relay: Uuid,
        carrier: Carrier,
        round_trip: Duration,
        credentials: RelayCredentials,
        now: Instant,
        out: &mut Outbox,
    ) -> Self {
        let mut allocation = Self {
            relay,
            carrier,
            watch: Watch::new(round_trip, carrier.is_stream),
            session: Session::new(credentials),
            proven: None,
            is_outdated: false,
            state: State::Asked { resets: 0 },
            relayed: [None; 2],
            requests: Requests::default(),
            waiting: VecDeque::new(),
            channels: Channels::default(),
            ask_at: None,
            expires_at: now,
            is_suspect: false,
        };
        allocation.ask(Purpose::Allocate, 0, now, out);
        allocation
    }

    pub(super) fn relay(&self) -> Uuid {
        self.relay
    }

    pub(super) fn carrier(&self) -> Carrier {
        self.carrier
    }

    pub(super) fn state(&self) -> State {
        self.state
    }

    pub(super) fn round_trip(&self) -> Duration {
        self.watch.round_trip()
    }

    pub(super) fn set_round_trip(&mut self, round_trip: Duration) {
        self.watch.set_round_trip(round_trip);
    }

    /// Our addresses at the relay.
    pub(super) fn relayed(&self) -> impl Iterator<Item = SocketAddr> {
        self.relayed.into_iter().flatten()
    }

    /// Whether this is one of our addresses at the relay.
    pub(super) fn has(&self, relayed: SocketAddr) -> bool {
        self.relayed[usize::from(relayed.is_ipv6())] == Some(relayed)
    }

    /// Whether it ends sooner or later, as the relay does not accept the credentials that are valid now.
    pub(super) fn is_outdated(&self) -> bool {
        self.is_outdated
    }

    pub(super) fn credentials(&self) -> &RelayCredentials {
        self.session.credentials()
    }

    /// Since when the relay has been silent, if that is too long.
    pub(super) fn silent_since(&self, now: Instant) -> Option<Instant> {
        let is_granted = matches!(self.state, State::Granted { .. });
        self.watch.silent_since(now).filter(|_| is_granted)
    }

    /// Whether anything came from the relay after this.
    pub(super) fn has_answered_since(&self, since: Instant) -> bool {
        self.watch.has_heard_since(since)
    }

    /// Goes on with other credentials for the same user: a refresh shows whether the relay lets us.
    pub(super) fn set_credentials(
        &mut self,
        credentials: RelayCredentials,
        now: Instant,
        out: &mut Outbox,
    ) {
        let session = self.session.with(credentials);
        self.is_outdated = false;
        match self.state {
            State::Granted { .. } => {
                let old = std::mem::replace(&mut self.session, session);
                self.proven.get_or_insert(old);
                self.ask(Purpose::Refresh, 0, now, out);
            }
            State::Asked { .. } | State::Failed(_) => {
                self.session = session;
                self.begin(0, now, out);
            }
        }
    }

    /// Asks whether the relay still knows the allocation.
    pub(super) fn probe(&mut self, now: Instant, out: &mut Outbox) {
        let is_granted = matches!(self.state, State::Granted { .. });
        if is_granted && !self.requests.has(Purpose::Refresh) {
            self.ask(Purpose::Refresh, 0, now, out);
        }
    }

    /// Gives the allocation back.
    pub(super) fn release(&mut self, now: Instant, out: &mut Outbox) {
        // Should this get lost, the allocation ends by itself.
        self.ask(Purpose::Release, 0, now, out);
        self.withdraw();
        self.state = State::Failed(Refusal::Released);
    }

    /// The number of the channel to a peer. `None`: there is no way to it.
    pub(super) fn outbound(
        &mut self,
        peer: SocketAddr,
        now: Instant,
        out: &mut Outbox,
    ) -> Option<u16> {
        match self.channels.outbound(peer) {
            Outbound::Ready(number) => Some(number),
            Outbound::Bind(number) => {
                self.bind(number, now, out);
                Some(number)
            }
            Outbound::Nowhere => None,
        }
    }

    /// Who sent a datagram that came by a channel, and to which address of ours.
    pub(super) fn inbound(
        &mut self,
        number: u16,
        now: Instant,
    ) -> Option<(SocketAddr, SocketAddr)> {
        self.watch.note_received(now);
        self.is_suspect = false;
        let peer = self.channels.inbound(number)?;
        Some((self.relayed_like(peer)?, peer))
    }

    /// Our address at the relay that a peer sees.
    pub(super) fn relayed_like(&self, peer: SocketAddr) -> Option<SocketAddr> {
        self.relayed[usize::from(peer.is_ipv6())]
    }

    pub(super) fn next_timeout(&self) -> Option<Instant> {
        let expiry = matches!(self.state, State::Granted { .. }).then_some(self.expires_at);
        let channels = self.channels.next_timeout();
        let requests = self.requests.next_timeout();
        let watch = self.watch.next_timeout();
        [expiry, channels, requests, self.ask_at, watch].into_iter().flatten().min()
    }

    pub(super) fn handle_timeout(&mut self, now: Instant, out: &mut Outbox) {
        while let Some(due) = self.requests.due(now) {
            match due {
                Due::Repeat(payload) => self.transmit(payload, now, out),
                Due::GiveUp(Purpose::Bind(number)) => self.channels.refused(number, now),
                Due::GiveUp(_) => self.fail(Refusal::Silence),
            }
        }
        if let State::Granted { .. } = self.state
            && now >= self.expires_at
        {
            match self.is_outdated {
                true => self.fail(Refusal::Credentials),
                false => self.begin(0, now, out),
            }
        }
        if self.ask_at.is_some_and(|at| now >= at) {
            self.ask_at = None;
            match self.state {
                State::Asked { .. } => self.ask(Purpose::Allocate, 0, now, out),
                State::Granted { .. } | State::Failed(_) => self.probe(now, out),
            }
        }
        while let Some(number) = self.channels.due(now) {
            self.bind(number, now, out);
        }
        if self.watch.handle_timeout(now) {
            self.is_suspect = true;
            self.probe(now, out);
        }
        self.bind_waiting(now, out);
    }

    /// Something was sent that the relay or a peer is to answer.
    pub(super) fn note_sent(&mut self, now: Instant) {
        self.watch.note_sent(now);
    }

    /// Begins anew: whatever the relay knew is gone.
    fn begin(&mut self, resets: u8, now: Instant, out: &mut Outbox) {
        self.withdraw();
        self.state = State::Asked { resets };
        self.ask(Purpose::Allocate, 0, now, out);
    }

    fn fail(&mut self, refusal: Refusal) {
        tracing::debug!(relay = %self.relay, ?refusal, "no allocation");
        self.withdraw();
        self.state = State::Failed(refusal);
    }

    fn withdraw(&mut self) {
        self.requests.clear();
        self.waiting.clear();
        self.channels = Channels::default();
        self.relayed = [None; 2];
        self.ask_at = None;
    }

    fn bind(&mut self, number: u16, now: Instant, out: &mut Outbox) {
        if self.requests.has_room() {
            self.ask(Purpose::Bind(number), 0, now, out);
        } else {
            self.waiting.push_back(number);
        }
    }

    fn bind_waiting(&mut self, now: Instant, out: &mut Outbox) {
        while self.requests.has_room()
            && let Some(number) = self.waiting.pop_front()
        {
            self.ask(Purpose::Bind(number), 0, now, out);
        }
    }

    fn ask(&mut self, purpose: Purpose, tries: u8, now: Instant, out: &mut Outbox) {
        let mut transaction: Transaction = [0; 12];
        out.rng.fill_bytes(&mut transaction);
        let message = |method| Builder::new(method, Class::Request, transaction);
        let message = match purpose {
            Purpose::Allocate => message(Method::ALLOCATE)
                .attribute(Attribute::REQUESTED_TRANSPORT, &UDP)
                .attribute(Attribute::ADDITIONAL_ADDRESS_FAMILY, &IPV6),
            Purpose::Refresh => message(Method::REFRESH),
            Purpose::Release => message(Method::REFRESH).number(Attribute::LIFETIME, 0),
            Purpose::Bind(number) => {
                let Some(peer) = self.channels.peer(number) else { return };
                let [high, low] = number.to_be_bytes();
                message(Method::CHANNEL_BIND)
                    .attribute(Attribute::CHANNEL_NUMBER, &[high, low, 0, 0])
                    .xor_address(Attribute::XOR_PEER_ADDRESS, peer)
            }
        };
        let payload = self.session.sign(message);
        // RFC 8489 §6.2.2: what is lost on the way the stream repeats.
        let repeats = if self.carrier.is_stream { None } else { Some(self.watch.round_trip()) };
        let request = Request::new(purpose, transaction, tries, payload.clone(), repeats, now);
        self.requests.add(request);
        self.transmit(payload, now, out);
    }

    fn transmit(&mut self, payload: Vec<u8>, now: Instant, out: &mut Outbox) {
        self.note_sent(now);
        out.transmits.push_back(Transmit { path: self.carrier.path(), payload });
    }
}
