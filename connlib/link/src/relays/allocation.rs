//! One allocation on a relay (RFC 8656).

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use connlib_stun::{Attribute, Builder, Class, FAMILY_IP6, Message, Method, Transaction};
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

/// What a relay grants that does not say for how long (RFC 8656 §3.2).
const DEFAULT_LIFETIME: Duration = Duration::from_secs(600);

/// What a relay may grant: less would be a flood of refreshes, more would be believed in after a restart.
const LIFETIMES: std::ops::RangeInclusive<Duration> =
    Duration::from_secs(30)..=Duration::from_secs(3600);

/// The same is asked so often with another nonce or other credentials.
const MAX_TRIES: u8 = 4;

/// RFC 8489 §14.8.
const BAD_REQUEST: u16 = 400;

/// A refresh that the relay refused for no reason that we know is tried again after this.
const REFRESH_AGAIN: Duration = Duration::from_secs(30);

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
    refresh_at: Option<Instant>,
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
            refresh_at: None,
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

    /// Takes a message from the relay. False: it answers none of our requests.
    pub(super) fn handle_response(
        &mut self,
        message: &Message<'_>,
        now: Instant,
        out: &mut Outbox,
    ) -> bool {
        let transaction = message.transaction();
        if !self.requests.awaits(transaction) {
            return false;
        }
        let is_success = message.class() == Class::Success;
        if is_success && !self.session.is_authentic(message) {
            tracing::debug!(relay = %self.relay, "ignored an answer without proof of who sent it");
            return true;
        }
        let code = message.error_code();
        if !is_success && code.is_none() {
            return true;
        }
        let Some(request) = self.requests.take(transaction) else { return false };
        self.watch.note_received(now);
        match code {
            None => self.handle_success(request.purpose, message, now, out),
            // An error proves nothing about its sender (most can't be signed); whoever knows the transaction's id can
            // as well keep all datagrams from us.
            Some(code) => self.handle_error(&request, code, message, now, out),
        }
        self.bind_waiting(now, out);
        true
    }

    pub(super) fn next_timeout(&self) -> Option<Instant> {
        let expiry = matches!(self.state, State::Granted { .. }).then_some(self.expires_at);
        let channels = self.channels.next_timeout();
        let requests = self.requests.next_timeout();
        let watch = self.watch.next_timeout();
        [expiry, channels, requests, self.refresh_at, watch].into_iter().flatten().min()
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
        if self.refresh_at.is_some_and(|at| now >= at) {
            self.refresh_at = None;
            self.probe(now, out);
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
        self.refresh_at = None;
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

    fn handle_success(
        &mut self,
        purpose: Purpose,
        message: &Message<'_>,
        now: Instant,
        out: &mut Outbox,
    ) {
        // Whatever was signed with, the relay takes it.
        self.proven = None;
        match purpose {
            Purpose::Allocate => {
                for address in message.xor_addresses(Attribute::XOR_RELAYED_ADDRESS).flatten() {
                    self.relayed[usize::from(address.is_ipv6())].get_or_insert(address);
                }
                if self.relayed == [None; 2] {
                    return self.fail(Refusal::Error(0));
                }
                self.state = State::Granted { since: now };
                self.live_on(message, now);
                tracing::debug!(relay = %self.relay, relayed = ?self.relayed, "allocated");
            }
            Purpose::Refresh => {
                self.is_suspect = false;
                self.live_on(message, now);
            }
            Purpose::Release => self.begin_after_release(now, out),
            Purpose::Bind(number) => self.channels.bound(number, now),
        }
    }

    fn live_on(&mut self, message: &Message<'_>, now: Instant) {
        let lifetime = message.number(Attribute::LIFETIME).map(u64::from);
        let lifetime = lifetime.map_or(DEFAULT_LIFETIME, Duration::from_secs);
        let lifetime = lifetime.clamp(*LIFETIMES.start(), *LIFETIMES.end());
        self.expires_at = now + lifetime;
        self.refresh_at = Some(now + lifetime / 2);
    }

    /// What was there before is gone: now there is room for ours.
    fn begin_after_release(&mut self, now: Instant, out: &mut Outbox) {
        if let State::Asked { .. } = self.state {
            self.ask(Purpose::Allocate, 0, now, out);
        }
    }

    fn handle_error(
        &mut self,
        request: &Request,
        code: u16,
        message: &Message<'_>,
        now: Instant,
        out: &mut Outbox,
    ) {
        let purpose = request.purpose;
        // RFC 8489 §9.2.5: 401 says that there was no nonce, 438 that it was too old.
        let is_challenge = matches!(code, 401 | 438);
        if is_challenge && request.tries < MAX_TRIES {
            // Another request may have learned the same already.
            let is_new = self.session.adopt(message);
            if is_new || code == 438 {
                return self.ask(purpose, request.tries + 1, now, out);
            }
        }
        tracing::debug!(relay = %self.relay, ?purpose, code, "refused");
        match (purpose, code) {
            (_, 401 | 438 | 441) => self.handle_bad_credentials(purpose, request.tries, now, out),
            (Purpose::Release, _) => self.begin_after_release(now, out),
            (Purpose::Allocate, 437) => match self.state {
                // The relay knows an allocation of this address: an answer was lost, or we were restarted.
                State::Asked { resets } if resets < 2 => {
                    self.state = State::Asked { resets: resets + 1 };
                    self.ask(Purpose::Release, 0, now, out);
                }
                _ => self.fail(Refusal::Error(code)),
            },
            (Purpose::Allocate, _) => self.fail(Refusal::Error(code)),
            (_, 437) => self.begin(0, now, out),
            (Purpose::Refresh, _) => self.refresh_at = Some(now + REFRESH_AGAIN),
            (Purpose::Bind(number), _) => {
                self.channels.refused(number, now);
                if code == BAD_REQUEST {
                    // So says coturn when it has been started anew. Of a refresh it says what is the matter.
                    self.probe(now, out);
                }
            }
        }
    }

    fn handle_bad_credentials(
        &mut self,
        purpose: Purpose,
        tries: u8,
        now: Instant,
        out: &mut Outbox,
    ) {
        if let Some(proven) = self.proven.take() {
            // RFC 8656 §5: whoever made the allocation goes on with it, by nothing but the credentials of that time.
            self.session = proven;
            self.is_outdated = true;
            return self.ask(purpose, tries.saturating_sub(1), now, out);
        }
        match purpose {
            Purpose::Allocate => self.fail(Refusal::Credentials),
            Purpose::Release => self.fail(Refusal::Occupied),
            // It was started anew with other secrets, and knows nothing of what it granted before.
            Purpose::Refresh if self.is_suspect => self.fail(Refusal::Credentials),
            Purpose::Refresh => self.is_outdated = true,
            Purpose::Bind(number) => {
                self.is_outdated = true;
                self.channels.refused(number, now);
            }
        }
    }
}
