//! WireGuard for one peer: boringtun with timers that suit a library which sleeps.
//!
//! boringtun reads the clock by itself and wants a tick a few times a second. Here it gets one only when one of its
//! timers can have run out, so that an idle link wakes nobody; and handshakes that are not answered are retried within
//! fractions of a second instead of the protocol's five, as a lost first message is what a person waits for.

use std::collections::VecDeque;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use boringtun::noise::errors::WireGuardError;
use boringtun::noise::rate_limiter::RateLimiter;
use boringtun::noise::{Tunn, TunnResult};
use boringtun::x25519::{PublicKey, StaticSecret};

use crate::index::LinkIndex;

/// Largest message that isn't data: a handshake initiation.
pub(crate) const MAX_HANDSHAKE: usize = 148;

/// boringtun's timers have a granularity of seconds.
const TICK: Duration = Duration::from_secs(1);

/// boringtun takes the time of its last tick for the present. Older than this, a new session would seem to have expired
/// already, and a new handshake to have been tried for too long.
const STALE_AFTER: Duration = Duration::from_secs(2);

/// All of boringtun's timers that depend on traffic run out within this time after the last packet
/// (keep-alive 10 s, new handshake 15 s).
const QUIET_AFTER: Duration = Duration::from_secs(20);

/// After this a session may not be used (REJECT_AFTER_TIME).
const SESSION_LIFETIME: Duration = Duration::from_secs(180);

/// The peer's clock of a session began at another time, and its last packets have a way to go: so close to its end, a
/// session might be over for the peer already, and what is sent in it lost. Traffic renews sessions long before.
const SESSION_END: Duration = Duration::from_secs(5);

/// Packets that wait because a session is about to end; the oldest goes first.
const MAX_HELD: usize = 128;

/// Handshakes unanswered for so long on a path that works: the peer does not know us.
const GIVE_UP_HANDSHAKE: Duration = Duration::from_secs(20);

const FIRST_RETRY: Duration = Duration::from_millis(300);
const MAX_RETRY: Duration = Duration::from_secs(5);

pub(crate) struct WireGuard {
    tunn: Tunn,
    last_tick: Instant,
    /// What a tick out of turn brought; to be sent with the next one.
    unsent: Option<Vec<u8>>,
    /// Last packet in either direction.
    last_activity: Instant,
    session_since: Option<Instant>,
    /// A packet came in a session: both ends have it.
    confirmed: bool,
    /// Packets that boringtun keeps until there is a session, or that are held here.
    waiting: bool,
    /// Packets for the session that follows one that is about to end.
    held: VecDeque<Vec<u8>>,
    handshake: Option<Handshake>,
}

/// A handshake that we started and that is not answered yet.
#[derive(Debug, Clone, Copy)]
struct Handshake {
    started: Instant,
    retry_at: Instant,
    backoff: Duration,
}

/// What became of a datagram.
#[derive(Debug)]
pub(crate) enum Opened {
    /// The first so many bytes of the slot are a packet.
    Packet(usize),
    /// The first so many bytes of the slot are to be sent back.
    Reply { len: usize, new_session: bool },
    /// It is authentic and needs nothing: a keep-alive or a cookie.
    Nothing { keepalive: bool },
    /// It is not what it should be.
    Rejected(WireGuardError),
}

/// What a tick brought.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Tick {
    /// Nothing to be done.
    Nothing,
    /// The first so many bytes of the slot are to be sent.
    Send(usize),
    /// Our handshakes have not been answered for too long.
    HandshakeTimeout,
}

impl WireGuard {
    pub(crate) fn new(
        private_key: StaticSecret,
        remote: PublicKey,
        preshared_key: [u8; 32],
        index: LinkIndex,
        rate_limiter: Arc<RateLimiter>,
        now: Instant,
    ) -> Self {
        let tunn = clock::birth(now, || {
            Tunn::new(private_key, remote, Some(preshared_key), None, index.0, Some(rate_limiter))
        });
        Self {
            tunn,
            last_tick: now,
            unsent: None,
            last_activity: now,
            session_since: None,
            confirmed: false,
            waiting: false,
            held: VecDeque::new(),
            handshake: None,
        }
    }

    /// Whether there was a handshake within the life of a session.
    pub(crate) fn has_session(&self, now: Instant) -> bool {
        self.session_since.is_some_and(|since| now < since + SESSION_LIFETIME)
    }

    /// Whether both ends are known to have had a session.
    pub(crate) fn is_confirmed(&self) -> bool {
        self.confirmed
    }

    /// Whether packets wait for a session.
    pub(crate) fn has_waiting(&self) -> bool {
        self.waiting
    }

    /// Whether [`Self::next_timeout`] may have moved nearer because of the packet that is about to be handled.
    pub(crate) fn is_quiet(&self, now: Instant) -> bool {
        now >= self.last_activity + QUIET_AFTER
    }

    /// Encrypts `packet` (empty: a keep-alive) into `slot`, which has room for 32 bytes more and for a handshake
    /// message, and returns the length of what is to be sent: without a session that is a handshake initiation, and
    /// the packet waits.
    pub(crate) fn seal(&mut self, packet: &[u8], slot: &mut [u8], now: Instant) -> Option<usize> {
        self.refresh(now);
        self.last_activity = now;
        if self.is_ending(now) {
            self.hold(packet);
            return self.initiate(slot, now);
        }
        match self.tunn.encapsulate(packet, slot) {
            TunnResult::WriteToNetwork(datagram) => {
                let len = datagram.len();
                if is_initiation(datagram) {
                    self.waiting = true;
                    self.note_initiation(now);
                }
                Some(len)
            }
            _ => {
                self.waiting = true;
                None
            }
        }
    }

    /// Authenticates and decrypts a datagram into `slot`, which is as long as the datagram and a handshake message.
    pub(crate) fn open(
        &mut self,
        from: IpAddr,
        datagram: &[u8],
        slot: &mut [u8],
        now: Instant,
    ) -> Opened {
        self.refresh(now);
        let kind = datagram.first().copied();
        let opened = match self.tunn.decapsulate(Some(from), datagram, slot) {
            TunnResult::WriteToTunnelV4(packet, _) => Opened::Packet(packet.len()),
            TunnResult::WriteToTunnelV6(packet, _) => Opened::Packet(packet.len()),
            TunnResult::WriteToNetwork(reply) => {
                Opened::Reply { len: reply.len(), new_session: kind == Some(HANDSHAKE_RESPONSE) }
            }
            TunnResult::Done => Opened::Nothing { keepalive: kind == Some(DATA) },
            TunnResult::Err(e) => return Opened::Rejected(e),
        };
        match kind {
            Some(HANDSHAKE_RESPONSE) => {
                self.handshake = None;
                self.session_since = Some(now);
                self.confirmed = true;
            }
            Some(DATA) => {
                self.confirmed = true;
                // The peer answers in a session that lasts: no handshake of ours is missing.
                if self.session_since.is_some() && !self.is_ending(now) {
                    self.handshake = None;
                }
            }
            // The initiator confirms the new session by the first packet in it; until then we may not send in it, but
            // as it is on its way, nothing older is better.
            Some(HANDSHAKE_INITIATION) => self.session_since = Some(now),
            _ => {}
        }
        self.last_activity = now;
        opened
    }

    /// The next packet that waited for a session, encrypted into `slot`.
    pub(crate) fn seal_waiting(&mut self, slot: &mut [u8], now: Instant) -> Option<usize> {
        self.refresh(now);
        if self.is_ending(now) || !self.has_session(now) {
            return None;
        }
        if let Some(packet) = self.held.pop_front() {
            return self.seal(&packet, slot, now);
        }
        match self.tunn.decapsulate(None, &[], slot) {
            TunnResult::WriteToNetwork(datagram) if !is_initiation(datagram) => {
                Some(datagram.len())
            }
            // With a handshake under way, nothing may mean that there is no session yet that packets can leave in.
            _ => {
                self.waiting = self.handshake.is_some();
                None
            }
        }
    }

    /// Whether there is a session that should not be used any more.
    fn is_ending(&self, now: Instant) -> bool {
        self.session_since.is_some_and(|since| {
            let end = since + SESSION_LIFETIME;
            (end - SESSION_END..end).contains(&now)
        })
    }

    fn hold(&mut self, packet: &[u8]) {
        if packet.is_empty() {
            // It was to say that the session lives.
            return;
        }
        if self.held.len() == MAX_HELD {
            self.held.pop_front();
        }
        self.held.push_back(packet.to_vec());
        self.waiting = true;
    }

    /// Starts a handshake unless one is under way; returns its length in `slot`.
    pub(crate) fn initiate(&mut self, slot: &mut [u8], now: Instant) -> Option<usize> {
        if self.handshake.is_some() {
            return None;
        }
        self.send_initiation(slot, now)
    }

    pub(crate) fn next_timeout(&self) -> Option<Instant> {
        let tick =
            (self.last_tick < self.last_activity + QUIET_AFTER).then(|| self.last_tick + TICK);
        let expiry = self.session_since.map(|since| since + SESSION_LIFETIME + TICK);
        let retry = self.handshake.map(|handshake| handshake.retry_at);
        let unsent = self.unsent.as_ref().map(|_| self.last_tick);
        [unsent, tick, expiry.filter(|at| *at > self.last_tick), retry].into_iter().flatten().min()
    }

    pub(crate) fn handle_timeout(&mut self, slot: &mut [u8], now: Instant) -> Tick {
        clock::follow(now);
        if let Some(handshake) = self.handshake {
            if now >= handshake.started + GIVE_UP_HANDSHAKE {
                self.handshake = None;
                return Tick::HandshakeTimeout;
            }
            if now >= handshake.retry_at {
                return match self.send_initiation(slot, now) {
                    Some(len) => Tick::Send(len),
                    None => Tick::Nothing,
                };
            }
        }
        if let Some(unsent) = self.unsent.take() {
            slot[..unsent.len()].copy_from_slice(&unsent);
            return Tick::Send(unsent.len());
        }
        if self.next_timeout().is_none_or(|at| now < at) {
            return Tick::Nothing;
        }
        match self.tick(slot, now) {
            Some(len) => Tick::Send(len),
            None => Tick::Nothing,
        }
    }

    /// Tells boringtun the time, if nobody has done so for long because there was nothing to do.
    fn refresh(&mut self, now: Instant) {
        clock::follow(now);
        if now < self.last_tick + STALE_AFTER {
            return;
        }
        let mut slot = [0; MAX_HANDSHAKE];
        if let Some(len) = self.tick(&mut slot, now) {
            self.unsent = slot.get(..len).map(<[u8]>::to_vec);
        }
    }

    fn tick(&mut self, slot: &mut [u8], now: Instant) -> Option<usize> {
        self.last_tick = now;
        if !self.has_session(now) {
            self.session_since = None;
        }
        match self.tunn.update_timers(slot) {
            TunnResult::WriteToNetwork(datagram) => {
                let len = datagram.len();
                if is_initiation(datagram) {
                    self.note_initiation(now);
                }
                Some(len)
            }
            // An expired connection forgets its keys and starts anew with the next packet. Whether the peer is still
            // there is for ICE to find out.
            _ => None,
        }
    }

    fn send_initiation(&mut self, slot: &mut [u8], now: Instant) -> Option<usize> {
        self.refresh(now);
        match self.tunn.format_handshake_initiation(slot, true) {
            TunnResult::WriteToNetwork(datagram) => {
                let len = datagram.len();
                self.note_initiation(now);
                Some(len)
            }
            _ => None,
        }
    }

    fn note_initiation(&mut self, now: Instant) {
        let (started, backoff) = match self.handshake {
            Some(previous) => (previous.started, (previous.backoff * 2).min(MAX_RETRY)),
            None => (now, FIRST_RETRY),
        };
        self.handshake = Some(Handshake { started, retry_at: now + backoff, backoff });
    }
}

const HANDSHAKE_INITIATION: u8 = 1;
const HANDSHAKE_RESPONSE: u8 = 2;
const DATA: u8 = 4;

fn is_initiation(datagram: &[u8]) -> bool {
    datagram.first() == Some(&HANDSHAKE_INITIATION)
}

/// The clock that boringtun reads.
#[cfg(feature = "simulation")]
pub(crate) mod clock {
    use std::cell::OnceCell;
    use std::time::{Duration, Instant};

    use boringtun::noise::Tunn;
    use mock_instant::MockClock;

    use super::MAX_HANDSHAKE;

    /// The virtual clock is never less than boringtun's longest timer (540 s) away from its zero: see [`birth`].
    const START: Duration = Duration::from_secs(1000);

    thread_local! {
        static FIRST: OnceCell<Instant> = const { OnceCell::new() };
    }

    /// Sets the virtual clock of this thread.
    pub(crate) fn follow(now: Instant) {
        let first = FIRST.with(|first| *first.get_or_init(|| now));
        MockClock::set_time(START + now.saturating_duration_since(first));
    }

    /// Makes a tunnel. The timestamps of its handshakes are the real time at this moment and the virtual time since,
    /// so that a second tunnel to the same peer would be behind the first one by the virtual time in between, and
    /// refused. So all are made at the zero of the virtual clock, and then have their timers started.
    pub(super) fn birth(now: Instant, make: impl FnOnce() -> Tunn) -> Tunn {
        MockClock::set_time(Duration::ZERO);
        let mut tunn = make();
        follow(now);
        tunn.update_timers(&mut [0; MAX_HANDSHAKE]);
        tunn
    }
}

#[cfg(not(feature = "simulation"))]
pub(crate) mod clock {
    use std::time::Instant;

    use boringtun::noise::Tunn;

    /// The real clock needs no help.
    pub(crate) fn follow(_: Instant) {}

    pub(super) fn birth(_: Instant, make: impl FnOnce() -> Tunn) -> Tunn {
        make()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FROM: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

    fn end(own: u8, other: u8, now: Instant) -> WireGuard {
        let key = |seed| StaticSecret::from([seed; 32]);
        let remote = PublicKey::from(&key(other));
        let limiter = Arc::new(RateLimiter::new(&PublicKey::from(&key(own)), 100));
        WireGuard::new(key(own), remote, [9; 32], LinkIndex(own.into()), limiter, now)
    }

    #[test]
    fn packets_wait_for_a_session_however_often_they_are_asked_for() {
        let now = Instant::now();
        let (mut client, mut gateway) = (end(1, 2, now), end(2, 1, now));
        let (mut initiation, mut response, mut slot) = ([0; 256], [0; 256], [0; 256]);
        let len = client.seal(&[0x45; 40], &mut initiation, now).unwrap();
        assert!(is_initiation(&initiation[..len]));
        for _ in 0..3 {
            assert_eq!(client.seal_waiting(&mut slot, now), None);
            assert!(client.has_waiting());
        }
        let opened = gateway.open(FROM, &initiation[..len], &mut response, now);
        let Opened::Reply { len, .. } = opened else { panic!("{opened:?}") };
        let opened = client.open(FROM, &response[..len], &mut slot, now);
        assert!(matches!(opened, Opened::Reply { new_session: true, .. }), "{opened:?}");
        assert!(client.seal_waiting(&mut slot, now).is_some());
        assert_eq!(client.seal_waiting(&mut slot, now), None);
        assert!(!client.has_waiting());
    }
}
