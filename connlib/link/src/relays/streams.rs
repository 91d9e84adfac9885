//! When to reach relays by streams (RFC 8656 §2.1), and which of those there are.
//!
//! Streams are the last resort: packets that wait for others that were lost are slow. They are tried when no relay answers
//! datagrams: all ways to a few relays at once. The first that connects is asked for an allocation; if it does not answer
//! soon, others get their turn.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use uuid::Uuid;

use super::Relay;
use crate::output::{StreamRequest, StreamServer};

/// No relay answers datagrams for so long: then streams are tried.
const DEAF: Duration = Duration::from_secs(3);

/// How long it may take to connect.
const CONNECTING: Duration = Duration::from_secs(10);

/// After it failed, a stream is tried again after this, and after twice as long each time that it fails again.
const FIRST_BACKOFF: Duration = Duration::from_millis(500);
const MAX_BACKOFF: Duration = Duration::from_secs(600);

/// One that was proven for so long may be tried anew at once.
const LASTING: Duration = Duration::from_secs(30);

/// A stream whose relay says nothing for so long, or for four times as long as it took to connect, lets others have their
/// turn: firewalls may accept connections that lead nowhere.
const FIRST_ANSWER: Duration = Duration::from_secs(1);

/// Relays that are tried. Each has two addresses at most, and each of those two ways.
const MAX_RELAYS: usize = 4;

/// The port of HTTPS, which hardly any network blocks. TLS for relays is there, or nowhere.
const HTTPS: u16 = 443;

/// All streams that there are, or could be.
#[derive(Debug, Default)]
pub(super) struct Streams {
    /// Since when no relay has answered datagrams.
    deaf_since: Option<Instant>,
    /// Since when one has, without a break.
    fine_since: Option<Instant>,
    are_wanted: bool,
    ways: Vec<Way>,
    requests: VecDeque<StreamRequest>,
}

/// One way to a relay.
#[derive(Debug)]
struct Way {
    relay: Uuid,
    server: StreamServer,
    state: State,
    /// It is open, and since then we have an allocation there.
    proven_since: Option<Instant>,
    backoff: Duration,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// It may be tried, from then on.
    Idle {
        from: Instant,
    },
    Connecting {
        since: Instant,
    },
    Open {
        local: SocketAddr,
        /// Until then no other is used.
        waits_until: Option<Instant>,
    },
}

/// A stream that is connected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Opened {
    pub(super) relay: Uuid,
    /// How long that took.
    pub(super) took: Duration,
}

impl Streams {
    /// This machine is elsewhere: what failed before may work now.
    pub(super) fn restart(&mut self, now: Instant) {
        for way in &mut self.ways {
            way.backoff = FIRST_BACKOFF;
            if let State::Idle { from } = &mut way.state {
                *from = now;
            }
        }
    }

    /// Whether no relay has answered datagrams for long enough.
    pub(super) fn are_wanted(&self) -> bool {
        self.are_wanted
    }

    /// Notes since when relays have not answered datagrams; `None`: one does.
    pub(super) fn note(&mut self, deaf_since: Option<Instant>, now: Instant) {
        self.deaf_since = match (self.deaf_since, deaf_since) {
            (Some(before), Some(since)) => Some(before.min(since)),
            (_, since) => since,
        };
        self.are_wanted = self.deaf_since.is_some_and(|since| now >= since + DEAF);
        let is_fine = self.deaf_since.is_none();
        self.fine_since = is_fine.then(|| self.fine_since.unwrap_or(now));
    }

    /// Since when relays answer datagrams.
    pub(super) fn fine_since(&self) -> Option<Instant> {
        self.fine_since
    }

    /// Whether relays answer datagrams is in doubt: as if they had not before this.
    pub(super) fn doubt_fine(&mut self, since: Instant) {
        self.fine_since = self.fine_since.max(Some(since));
    }

    /// Whether a stream has just been connected, and others had better wait.
    pub(super) fn is_waiting(&self, now: Instant) -> bool {
        self.ways.iter().any(|way| way.waits_until().is_some_and(|until| now < until))
    }

    /// Connects in all ways that may be tried now.
    pub(super) fn connect<'a>(
        &mut self,
        relays: impl Iterator<Item = &'a Relay>,
        hosts: &[SocketAddr],
        now: Instant,
    ) {
        let is_ours = |address: &SocketAddr| {
            hosts.is_empty() || hosts.iter().any(|host| host.is_ipv4() == address.is_ipv4())
        };
        let mut servers = Vec::new();
        for relay in relays.take(MAX_RELAYS) {
            for address in relay.addresses.iter().copied().filter(is_ours).take(2) {
                servers.push((relay.id, StreamServer::Tcp(address)));
                servers.push((relay.id, StreamServer::Tls(SocketAddr::new(address.ip(), HTTPS))));
            }
        }
        self.ways.retain(|way| {
            let is_idle = matches!(way.state, State::Idle { .. });
            !is_idle || servers.contains(&(way.relay, way.server))
        });
        for (relay, server) in servers {
            if !self.ways.iter().any(|way| way.server == server) {
                let state = State::Idle { from: now };
                let (proven_since, backoff) = (None, FIRST_BACKOFF);
                self.ways.push(Way { relay, server, state, proven_since, backoff });
            }
        }
        for way in &mut self.ways {
            match &mut way.state {
                State::Idle { from } if now >= *from => {
                    way.state = State::Connecting { since: now };
                    self.requests.push_back(StreamRequest::Open(way.server));
                }
                State::Open { waits_until, .. } => *waits_until = None,
                State::Idle { .. } | State::Connecting { .. } => {}
            }
        }
    }

    /// A stream is connected. `None`: it is not wanted any more.
    pub(super) fn opened(
        &mut self,
        server: StreamServer,
        local: SocketAddr,
        is_wanted: bool,
        now: Instant,
    ) -> Option<Opened> {
        let connecting = self.ways.iter_mut().find_map(|way| match way.state {
            State::Connecting { since } if way.server == server => Some((way, since)),
            _ => None,
        });
        match connecting {
            Some((way, since)) if is_wanted => {
                let took = now.saturating_duration_since(since);
                let waits_until = Some(now + FIRST_ANSWER.max(took * 4));
                way.state = State::Open { local, waits_until };
                Some(Opened { relay: way.relay, took })
            }
            connecting => {
                if let Some((way, _)) = connecting {
                    way.state = State::Idle { from: now + FIRST_ANSWER };
                }
                self.requests.push_back(StreamRequest::Close(server));
                None
            }
        }
    }

    /// A stream is gone, or could not be had. The address of ours that it had, if any.
    pub(super) fn closed(&mut self, server: StreamServer, now: Instant) -> Option<SocketAddr> {
        let way = self.ways.iter_mut().find(|way| way.server == server)?;
        let local = way.local();
        way.fail(now);
        local
    }

    /// A stream does what it is for. Whether that is new.
    pub(super) fn prove(&mut self, local: SocketAddr, server: SocketAddr, now: Instant) -> bool {
        let Some(way) = self.ways.iter_mut().find(|way| way.is_on(local, server)) else {
            return false;
        };
        way.proven_since.replace(way.proven_since.unwrap_or(now)).is_none()
    }

    /// Leaves the streams that nobody uses, by our address and the server's.
    pub(super) fn close_unused(
        &mut self,
        is_used: impl Fn(SocketAddr, SocketAddr) -> bool,
        now: Instant,
    ) {
        for way in &mut self.ways {
            if way.local().is_some_and(|local| !is_used(local, way.server.address())) {
                self.requests.push_back(StreamRequest::Close(way.server));
                way.fail(now);
            }
        }
    }

    /// Leaves what is not connected yet.
    pub(super) fn stop_connecting(&mut self, now: Instant) {
        for way in &mut self.ways {
            if let State::Connecting { .. } = way.state {
                self.requests.push_back(StreamRequest::Close(way.server));
                way.state = State::Idle { from: now + FIRST_ANSWER };
            }
        }
    }

    pub(super) fn poll_request(&mut self) -> Option<StreamRequest> {
        self.requests.pop_front()
    }

    /// `is_missing`: ways are to be tried again when their time has come.
    pub(super) fn next_timeout(&self, is_missing: bool) -> Option<Instant> {
        let deaf = self.deaf_since.map(|since| since + DEAF).filter(|_| !self.are_wanted);
        // As long as one is waited for, none is tried.
        let waits_until = self.ways.iter().filter_map(Way::waits_until).max();
        let ways = self.ways.iter().filter_map(|way| match way.state {
            State::Idle { from } => Some(from).max(waits_until).filter(|_| is_missing),
            State::Connecting { since } => Some(since + CONNECTING),
            State::Open { .. } => waits_until.filter(|_| is_missing),
        });
        ways.chain(deaf).min()
    }

    pub(super) fn handle_timeout(&mut self, now: Instant) {
        for way in &mut self.ways {
            if let State::Connecting { since } = way.state
                && now >= since + CONNECTING
            {
                self.requests.push_back(StreamRequest::Close(way.server));
                way.fail(now);
            }
        }
    }
}

impl Way {
    fn local(&self) -> Option<SocketAddr> {
        match self.state {
            State::Open { local, .. } => Some(local),
            State::Idle { .. } | State::Connecting { .. } => None,
        }
    }

    fn is_on(&self, local: SocketAddr, server: SocketAddr) -> bool {
        self.local() == Some(local) && self.server.address() == server
    }

    fn waits_until(&self) -> Option<Instant> {
        match self.state {
            State::Open { waits_until, .. } => waits_until,
            State::Idle { .. } | State::Connecting { .. } => None,
        }
    }

    fn fail(&mut self, now: Instant) {
        if self.proven_since.take().is_some_and(|since| now >= since + LASTING) {
            self.backoff = FIRST_BACKOFF;
        }
        self.state = State::Idle { from: now + self.backoff };
        self.backoff = (self.backoff * 2).min(MAX_BACKOFF);
    }
}
