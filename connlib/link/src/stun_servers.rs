//! Server-reflexive addresses by STUN Binding (RFC 8489 §3, RFC 8445 §5.1.1.2), and how far away servers are.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use connlib_stun::{Builder, Class, Message, Method, Transaction};
use rand::Rng;

use crate::output::{Path, Transmit};

/// Keeps the NAT's mapping alive; routers forget after 30 s at the earliest (RFC 4787 REQ-5 demands 2 minutes).
const REFRESH: Duration = Duration::from_secs(25);
/// A refresh is done when something else wakes us, from so long before it is due until so long after it: hardly ever
/// is there a need to wake for it alone.
const EARLY: Duration = Duration::from_secs(20);
const LATE: Duration = Duration::from_secs(4);
const FIRST_RETRY: Duration = Duration::from_millis(250);
/// A server that does not answer is asked again so often, for as long as it is configured.
const MAX_RETRY: Duration = Duration::from_secs(60);
/// The same when somebody waits for it.
const EAGER_RETRY: Duration = Duration::from_secs(15);
/// How often it may be asked whether datagrams get through.
const VERIFY_PAUSE: Duration = Duration::from_secs(10);
/// A server that is asked so rarely has not answered twice.
const UNANSWERING: Duration = Duration::from_secs(2);
/// A server that is asked so rarely has not answered some times.
const SILENT: Duration = Duration::from_secs(8);

/// Servers beyond this many are ignored.
const MAX_SERVERS: usize = 16;

/// A mapping that a server told us: `mapped` is how the world sees `local`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Mapping {
    pub(crate) local: SocketAddr,
    pub(crate) mapped: SocketAddr,
}

/// Asks servers for our address as they see it, and keeps asking.
#[derive(Debug, Default)]
pub(crate) struct StunServers {
    servers: Vec<Server>,
    families: Families,
    is_eager: bool,
    verified_at: Option<Instant>,
}

/// The address families that this machine has.
#[derive(Debug, Clone, Copy)]
struct Families {
    ipv4: bool,
    ipv6: bool,
}

impl Default for Families {
    fn default() -> Self {
        Self { ipv4: true, ipv6: true }
    }
}

#[derive(Debug)]
struct Server {
    address: SocketAddr,
    request: Option<Request>,
    ask_at: Instant,
    backoff: Duration,
    mapping: Option<Mapping>,
    round_trip: Option<RoundTrip>,
    heard: Option<Instant>,
    /// Nobody is to count on it before it has answered once more.
    doubted: bool,
}

/// A request that waits for its answer.
#[derive(Debug)]
struct Request {
    transaction: Transaction,
    sent: Instant,
    repeated: bool,
}

/// How long a server takes to answer.
#[derive(Debug, Clone, Copy)]
enum RoundTrip {
    /// At most so long: it was asked several times, and may have begun to answer at the last.
    AtMost(Duration),
    /// Smoothed.
    Measured(Duration),
}

/// What is known of a server that answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Reached {
    /// The address of ours that its answer came to.
    pub(crate) local: SocketAddr,
    pub(crate) mapped: SocketAddr,
    pub(crate) round_trip: Duration,
}

impl StunServers {
    /// Replaces the list. Servers that stay keep their state.
    pub(crate) fn set(&mut self, addresses: &[SocketAddr], now: Instant) {
        self.servers.retain(|server| addresses.contains(&server.address));
        for address in addresses {
            if self.servers.len() >= MAX_SERVERS {
                tracing::debug!(max = MAX_SERVERS, "more STUN servers than we ask");
                break;
            }
            if !self.servers.iter().any(|server| server.address == *address) {
                self.servers.push(Server {
                    address: *address,
                    request: None,
                    ask_at: now,
                    backoff: FIRST_RETRY,
                    mapping: None,
                    round_trip: None,
                    heard: None,
                    doubted: false,
                });
            }
        }
    }

    /// Asks all servers anew, as this machine has other addresses. Those of a family that it hasn't are left alone.
    pub(crate) fn restart(&mut self, hosts: &[SocketAddr], now: Instant) {
        let has = |is_ipv4| hosts.is_empty() || hosts.iter().any(|host| host.is_ipv4() == is_ipv4);
        self.families = Families { ipv4: has(true), ipv6: has(false) };
        for server in &mut self.servers {
            (server.ask_at, server.backoff, server.mapping) = (now, FIRST_RETRY, None);
            (server.request, server.round_trip) = (None, None);
        }
    }

    /// Asks all servers at once: something does not work.
    pub(crate) fn ask(&mut self, now: Instant) {
        for server in &mut self.servers {
            server.ask_at = now;
        }
    }

    /// Asks all servers, unless that was done a moment ago: datagrams may not get through any more. Those that are asked
    /// again soon are left alone, as each time makes the next pause longer.
    pub(crate) fn verify(&mut self, now: Instant) {
        if self.verified_at.is_some_and(|at| now < at + VERIFY_PAUSE) {
            return;
        }
        self.verified_at = Some(now);
        let is_rare = |server: &&mut Server| server.is_refresh() || server.backoff > SILENT;
        for server in self.servers.iter_mut().filter(is_rare) {
            server.ask_at = now;
        }
    }

    /// Something that a server should have answered was not: it counts as unreachable until it answers again.
    pub(crate) fn doubt(&mut self, address: SocketAddr, now: Instant) {
        for server in self.servers.iter_mut().filter(|server| server.address == address) {
            server.doubted = true;
            (server.ask_at, server.backoff, server.request) = (now, FIRST_RETRY, None);
        }
    }

    /// What is known of a server, if it answers.
    pub(crate) fn reached(&self, address: SocketAddr) -> Option<Reached> {
        let server = self.servers.iter().find(|server| server.address == address)?;
        let is_fine = !server.doubted && server.backoff < SILENT;
        let Mapping { local, mapped } = server.mapping.filter(|_| is_fine)?;
        Some(Reached { local, mapped, round_trip: server.round_trip?.duration() })
    }

    /// Since when a server has not answered, though it was asked several times.
    pub(crate) fn unanswering_since(&self, address: SocketAddr) -> Option<Instant> {
        let server = self.servers.iter().find(|server| server.address == address)?;
        let request = server.request.as_ref().filter(|_| server.backoff >= UNANSWERING)?;
        Some(request.sent)
    }

    /// Whether a server that is none of these has answered since.
    pub(crate) fn has_heard_other_since(&self, not: &[SocketAddr], since: Instant) -> bool {
        let mut others = self.servers.iter().filter(|server| !not.contains(&server.address));
        others.any(|server| server.heard.is_some_and(|heard| heard > since))
    }

    /// Whether somebody waits for a server that is silent to answer again.
    pub(crate) fn set_eager(&mut self, is_eager: bool, now: Instant) {
        if is_eager && !self.is_eager {
            for server in &mut self.servers {
                server.ask_at = server.ask_at.min(now + EAGER_RETRY);
                server.backoff = server.backoff.min(EAGER_RETRY);
            }
        }
        self.is_eager = is_eager;
    }

    /// Asks servers at once that did not answer of late: somebody is about to be told our addresses.
    pub(crate) fn hurry(&mut self, now: Instant) {
        for server in self.servers.iter_mut().filter(|server| !server.is_refresh()) {
            (server.ask_at, server.backoff) = (now, FIRST_RETRY);
        }
    }

    /// The mappings known at present: at most one a family, as more would say the same. What a server said that is
    /// silent now may be out of date, and counts only if no other says anything.
    pub(crate) fn mappings(&self) -> impl Iterator<Item = Mapping> {
        let of_family = |v4: bool| {
            let known = self.servers.iter().filter_map(|server| Some((server, server.mapping?)));
            let of_family = known.filter(|(_, mapping)| mapping.mapped.is_ipv4() == v4);
            let best = of_family.min_by_key(|(server, _)| server.backoff >= SILENT);
            best.map(|(_, mapping)| mapping)
        };
        [of_family(true), of_family(false)].into_iter().flatten()
    }

    /// Takes a response; says whether it tells us something new. `None`: it answers none of our requests.
    pub(crate) fn handle_response(
        &mut self,
        local: SocketAddr,
        from: SocketAddr,
        message: &Message<'_>,
        now: Instant,
    ) -> Option<bool> {
        let transaction = message.transaction();
        let server = self
            .servers
            .iter_mut()
            .find(|server| server.address == from && server.awaits(transaction))?;
        if !message.is(Method::BINDING, Class::Success) {
            return None;
        }
        let mapping = Mapping { local, mapped: message.mapped_address()? };
        let was_unknown = server.round_trip.is_none();
        server.measure(now);
        (server.heard, server.doubted) = (Some(now), false);
        let is_new = server.mapping.replace(mapping) != Some(mapping);
        // Asked once more, it shows how fast it is, if it has just started.
        let is_unmeasured = matches!(server.round_trip, Some(RoundTrip::AtMost(_)));
        server.ask_at = if was_unknown && is_unmeasured { now } else { now + REFRESH };
        server.backoff = FIRST_RETRY;
        Some(is_new)
    }

    pub(crate) fn next_timeout(&self) -> Option<Instant> {
        let reachable = self.servers.iter().filter(|server| self.families.has(server.address));
        reachable.map(Server::deadline).min()
    }

    pub(crate) fn handle_timeout(
        &mut self,
        now: Instant,
        rng: &mut impl Rng,
        mut transmit: impl FnMut(Transmit),
    ) {
        let families = self.families;
        let max_retry = if self.is_eager { EAGER_RETRY } else { MAX_RETRY };
        let due = |server: &&mut Server| families.has(server.address) && server.is_due(now);
        for server in self.servers.iter_mut().filter(due) {
            let payload = binding_request(server.transaction(rng, now));
            server.ask_at = now + server.backoff;
            server.backoff = (server.backoff * 2).min(max_retry);
            transmit(Transmit { path: Path { local: None, remote: server.address }, payload });
        }
    }
}

impl RoundTrip {
    fn duration(self) -> Duration {
        match self {
            Self::AtMost(duration) | Self::Measured(duration) => duration,
        }
    }
}

impl Families {
    fn has(self, address: SocketAddr) -> bool {
        if address.is_ipv4() { self.ipv4 } else { self.ipv6 }
    }
}

impl Server {
    fn awaits(&self, transaction: Transaction) -> bool {
        self.request.as_ref().is_some_and(|request| request.transaction == transaction)
    }

    /// The transaction to ask with: a request that is repeated keeps its own, so that a slow answer counts.
    fn transaction(&mut self, rng: &mut impl Rng, now: Instant) -> Transaction {
        if let Some(request) = self.request.as_mut().filter(|_| self.backoff < SILENT) {
            request.repeated = true;
            return request.transaction;
        }
        let mut transaction = [0; 12];
        rng.fill_bytes(&mut transaction);
        self.request = Some(Request { transaction, sent: now, repeated: false });
        transaction
    }

    /// An answer to a request that was repeated does not say which one it answers (RFC 6298 §3): it counts only as
    /// long as nothing better is known.
    fn measure(&mut self, now: Instant) {
        let Some(Request { sent, repeated, .. }) = self.request.take() else { return };
        let sample = now.saturating_duration_since(sent);
        self.round_trip = Some(match self.round_trip {
            None if repeated => RoundTrip::AtMost(sample),
            Some(RoundTrip::AtMost(known)) if repeated => RoundTrip::AtMost(known.min(sample)),
            Some(known @ RoundTrip::Measured(_)) if repeated => known,
            Some(RoundTrip::Measured(known)) => RoundTrip::Measured((known * 7 + sample) / 8),
            None | Some(RoundTrip::AtMost(_)) => RoundTrip::Measured(sample),
        });
    }

    fn is_due(&self, now: Instant) -> bool {
        self.ask_at <= if self.is_refresh() { now + EARLY } else { now }
    }

    /// When it is asked if nothing else wakes us.
    fn deadline(&self) -> Instant {
        if self.is_refresh() { self.ask_at + LATE } else { self.ask_at }
    }

    /// While it does not answer, it is asked at its own pace.
    fn is_refresh(&self) -> bool {
        self.mapping.is_some() && self.backoff == FIRST_RETRY
    }
}

fn binding_request(transaction: Transaction) -> Vec<u8> {
    Builder::new(Method::BINDING, Class::Request, transaction).finish()
}

#[cfg(test)]
mod tests {
    use super::*;
    use connlib_stun::Header;
    use rand::SeedableRng;
    use rand_chacha::ChaCha8Rng;

    // RFC 5769 §2.2: a sample response, cut after the mapped address.
    const SAMPLE_V4: &[u8] =
        b"\x01\x01\x00\x0c\x21\x12\xa4\x42\xb7\xe7\xa7\x01\xbc\x34\xd6\x86\xfa\x87\xdf\xae\
        \x00\x20\x00\x08\x00\x01\xa1\x47\xe1\x12\xa6\x43";

    #[test]
    fn only_the_server_that_was_asked_may_answer() {
        let now = Instant::now();
        let (server, stranger) = (addr("198.51.100.1:3478"), addr("198.51.100.2:3478"));
        let mut servers = StunServers::default();
        servers.set(&[server], now);
        let mut sent = Vec::new();
        servers.handle_timeout(now, &mut ChaCha8Rng::seed_from_u64(1), |t| sent.push(t));
        assert_eq!(Header::parse(&sent[0].payload).unwrap().class, Class::Request);

        let mut response = SAMPLE_V4.to_vec();
        response[8..20].copy_from_slice(&sent[0].payload[8..20]);
        let local = addr("10.0.0.1:52625");
        let response = Message::parse(&response).unwrap();
        assert_eq!(servers.handle_response(local, stranger, &response, now), None);
        assert!(servers.handle_response(local, server, &response, now).is_some());
        assert_eq!(servers.mappings().count(), 1);
        assert_eq!(servers.next_timeout(), Some(now + REFRESH + LATE));
    }

    #[test]
    fn a_server_that_has_fallen_silent_does_not_hide_what_another_says() {
        let start = Instant::now();
        let (silent, alive) = (addr("198.51.100.1:3478"), addr("198.51.100.2:3478"));
        let mut servers = StunServers::default();
        servers.set(&[silent, alive], start);
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        let mut ask = |servers: &mut StunServers, now, answering: &[SocketAddr], port: u8| {
            let mut sent = Vec::new();
            servers.handle_timeout(now, &mut rng, |t| sent.push(t));
            for request in sent.iter().filter(|t| answering.contains(&t.path.remote)) {
                let mut response = SAMPLE_V4.to_vec();
                response[8..20].copy_from_slice(&request.payload[8..20]);
                response[27] = port;
                let from = request.path.remote;
                let (local, response) =
                    (addr("10.0.0.1:52625"), Message::parse(&response).unwrap());
                servers.handle_response(local, from, &response, now).unwrap();
            }
            servers.mappings().map(|m| m.mapped.port() as u8).collect::<Vec<_>>()
        };
        let before = ask(&mut servers, start, &[silent, alive], 1);
        let mut after = Vec::new();
        for seconds in 1..120 {
            after = ask(&mut servers, start + Duration::from_secs(seconds), &[alive], 2);
        }
        assert_ne!(before, after);
    }

    #[test]
    fn how_long_a_server_was_away_is_not_taken_for_its_distance() {
        let mut now = Instant::now();
        let server = addr("198.51.100.1:3478");
        let mut servers = StunServers::default();
        servers.set(&[server], now);
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        let mut ask = |servers: &mut StunServers, now| {
            let mut sent = None;
            servers.handle_timeout(now, &mut rng, |transmit| sent = Some(transmit.payload));
            sent
        };
        let answer = |servers: &mut StunServers, request: &[u8], now| {
            let mut response = SAMPLE_V4.to_vec();
            response[8..20].copy_from_slice(&request[8..20]);
            let response = Message::parse(&response).unwrap();
            servers.handle_response(addr("10.0.0.1:52625"), server, &response, now).unwrap();
        };
        // It starts while it is asked for the fifth time.
        for _ in 0..4 {
            ask(&mut servers, now).unwrap();
            now = servers.next_timeout().unwrap();
        }
        let distance = Duration::from_millis(30);
        let request = ask(&mut servers, now).unwrap();
        now += distance;
        answer(&mut servers, &request, now);
        assert!(servers.reached(server).unwrap().round_trip > Duration::from_secs(3));
        let request = ask(&mut servers, now).unwrap();
        now += distance;
        answer(&mut servers, &request, now);
        assert_eq!(servers.reached(server).unwrap().round_trip, distance);
        assert_eq!(servers.next_timeout(), Some(now + REFRESH + LATE));
    }

    #[test]
    fn a_distant_server_is_not_asked_without_end_how_far_it_is() {
        let start = Instant::now();
        let server = addr("198.51.100.1:3478");
        let mut servers = StunServers::default();
        servers.set(&[server], start);
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        let (mut asked, mut answers) = (0, std::collections::VecDeque::new());
        for step in 0..20_000u32 {
            let now = start + Duration::from_millis(1) * step;
            if servers.next_timeout().is_some_and(|at| at <= now) {
                servers.handle_timeout(now, &mut rng, |transmit| {
                    asked += 1;
                    let mut response = SAMPLE_V4.to_vec();
                    response[8..20].copy_from_slice(&transmit.payload[8..20]);
                    answers.push_back((now + Duration::from_millis(900), response));
                });
            }
            while answers.front().is_some_and(|(at, _)| *at <= now) {
                let (_, response) = answers.pop_front().unwrap();
                let response = Message::parse(&response).unwrap();
                servers.handle_response(addr("10.0.0.1:52625"), server, &response, now);
            }
        }
        assert_eq!(servers.reached(server).unwrap().round_trip, Duration::from_millis(900));
        assert!(asked <= 6, "{asked}");
    }

    #[test]
    fn a_silent_server_is_asked_again_with_growing_patience() {
        let mut now = Instant::now();
        let mut servers = StunServers::default();
        servers.set(&[addr("198.51.100.1:3478")], now);
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        let mut sent = 0;
        let end = now + Duration::from_secs(600);
        while now < end {
            servers.handle_timeout(now, &mut rng, |_| sent += 1);
            now = servers.next_timeout().unwrap();
        }
        assert!((10..20).contains(&sent), "{sent}");
    }

    #[test]
    fn a_family_that_is_not_there_is_left_alone() {
        let now = Instant::now();
        let mut servers = StunServers::default();
        servers.set(&[addr("198.51.100.1:3478"), addr("[2001:db8::1]:3478")], now);
        let mut asked = |hosts: &[SocketAddr]| {
            let mut asked = Vec::new();
            servers.restart(hosts, now);
            servers.handle_timeout(now, &mut ChaCha8Rng::seed_from_u64(1), |t| {
                asked.push(t.path.remote.is_ipv4());
            });
            asked
        };
        let (v4, v6) = (addr("192.0.2.1:1"), addr("[2001:db8::2]:1"));
        assert_eq!(asked(&[v4]), [true]);
        assert_eq!(asked(&[v6]), [false]);
        assert_eq!(asked(&[v4, v6]), [true, false]);
    }

    fn addr(s: &str) -> SocketAddr {
        s.parse().unwrap()
    }
}
