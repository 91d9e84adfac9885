//! WireGuard for one peer: boringtun with timers that suit a library which sleeps.
//!
//! boringtun reads the clock by itself and wants a tick a few times a second. Here it gets one only when one of its
//! timers can have run out, so that an idle link wakes nobody; and handshakes that are not answered are retried within
//! fractions of a second instead of the protocol's five, as a lost first message is what a person waits for.

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

/// All of boringtun's timers that depend on traffic run out within this time after the last packet
/// (keep-alive 10 s, new handshake 15 s).
const QUIET_AFTER: Duration = Duration::from_secs(20);

/// After this a session may not be used (REJECT_AFTER_TIME).
const SESSION_LIFETIME: Duration = Duration::from_secs(180);

/// Handshakes unanswered for so long on a path that works: the peer does not know us.
const GIVE_UP_HANDSHAKE: Duration = Duration::from_secs(20);

const FIRST_RETRY: Duration = Duration::from_millis(300);
const MAX_RETRY: Duration = Duration::from_secs(5);

pub(crate) struct WireGuard {
    tunn: Tunn,
    last_tick: Instant,
    /// Last packet in either direction.
    last_activity: Instant,
    session_since: Option<Instant>,
    /// A packet came in a session: both ends have it.
    confirmed: bool,
    /// Packets that boringtun keeps until there is a session.
    waiting: bool,
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
        clock::follow(now);
        Self {
            tunn: Tunn::new(
                private_key,
                remote,
                Some(preshared_key),
                None,
                index.0,
                Some(rate_limiter),
            ),
            last_tick: now,
            last_activity: now,
            session_since: None,
            confirmed: false,
            waiting: false,
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
        clock::follow(now);
        self.last_activity = now;
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
        clock::follow(now);
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
                // The peer answers in a session that we know: no handshake of ours is missing.
                if self.session_since.is_some() {
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
        clock::follow(now);
        match self.tunn.decapsulate(None, &[], slot) {
            TunnResult::WriteToNetwork(datagram) if !is_initiation(datagram) => {
                Some(datagram.len())
            }
            _ => {
                self.waiting = false;
                None
            }
        }
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
        [tick, expiry.filter(|at| *at > self.last_tick), retry].into_iter().flatten().min()
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
        if self.next_timeout().is_none_or(|at| now < at) {
            return Tick::Nothing;
        }
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
                Tick::Send(len)
            }
            // An expired connection forgets its keys and starts anew with the next packet. Whether the peer is still
            // there is for ICE to find out.
            _ => Tick::Nothing,
        }
    }

    fn send_initiation(&mut self, slot: &mut [u8], now: Instant) -> Option<usize> {
        clock::follow(now);
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
mod clock {
    use std::cell::OnceCell;
    use std::time::Instant;

    use mock_instant::MockClock;

    thread_local! {
        static START: OnceCell<Instant> = const { OnceCell::new() };
    }

    /// Sets the virtual clock of this thread.
    pub(super) fn follow(now: Instant) {
        let start = START.with(|start| *start.get_or_init(|| now));
        MockClock::set_time(now.saturating_duration_since(start));
    }
}

#[cfg(not(feature = "simulation"))]
mod clock {
    /// The real clock needs no help.
    pub(super) fn follow(_: std::time::Instant) {}
}
