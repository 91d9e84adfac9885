//! Queries on their way to a server and back.

mod exchange;
#[cfg(test)]
mod tests;

pub use exchange::{Answered, Client, Output, QueryId, Rejected, Transmit};

use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
use std::time::{Duration, Instant};

use hickory_proto::op::ResponseCode;
use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::{Rng as _, SeedableRng as _};

use crate::query::Query;
use crate::response::{accept, fit};
use crate::upstream::{Transport, Upstream};
use crate::wire::put_u16;

/// How long a server may take that is reached outside of the tunnel.
pub const DIRECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a server may take that is, or may be, reached through the tunnel, whose path may have
/// to be set up first.
pub const TUNNEL_TIMEOUT: Duration = Duration::from_secs(10);

/// Askers that wait for an answer at the same time.
const MAX_WAITING: usize = 1024;

/// When a datagram is sent again for the first time; the wait doubles from there.
const FIRST_RETRANSMIT: Duration = Duration::from_secs(1);

/// Forwards queries and brings the answers back to who asked.
///
/// - A query goes out under a random id that is unique among those in flight. A response counts
///   only if it comes from the server that was asked, and repeats that id and the question.
/// - Queries that are equal but for their ids, to one server over one transport, go out once. An
///   app that repeats a query that is still under way is answered once.
/// - Over UDP the query is sent again after one second, and after two and four more, since a
///   datagram is easily lost. It always goes to the same server: the system that asks has a
///   sentinel for each server and a memory of which of them work; second-guessing it would hide
///   the failures that it learns from.
/// - When the time is up, the asker gets SERVFAIL and turns to its next server at once, instead of
///   waiting for nothing.
/// - At most 1024 askers wait at a time. Further ones get SERVFAIL at once: those who wait already
///   are closer to an answer.
#[derive(Debug)]
pub struct Forwarder {
    rng: ChaCha20Rng,
    last_query: u64,
    in_flight: HashMap<QueryId, InFlight>,
    by_content: HashMap<Content, QueryId>,
    sent_ids: HashSet<u16>,
    /// INVARIANT: one entry for each query in flight, at its `timer`.
    timers: BTreeSet<(Instant, QueryId)>,
    waiting: usize,
    outputs: VecDeque<Output>,
}

/// What two queries must have in common to be sent as one.
type Content = (Upstream, Transport, Vec<u8>);

#[derive(Debug)]
struct InFlight {
    query: Query,
    server: Upstream,
    transport: Transport,
    sent_id: u16,
    /// Who asked, and under which id.
    waiting: Vec<(Client, u16)>,
    deadline: Instant,
    timer: Instant,
    next_wait: Duration,
}

impl Forwarder {
    /// `seed` must be random: it is where the ids come from.
    pub fn new(seed: [u8; 32]) -> Self {
        Self {
            rng: ChaCha20Rng::from_seed(seed),
            last_query: 0,
            in_flight: HashMap::new(),
            by_content: HashMap::new(),
            sent_ids: HashSet::new(),
            timers: BTreeSet::new(),
            waiting: 0,
            outputs: VecDeque::new(),
        }
    }

    /// Sends the query of `client` to `server`, which has until `timeout` to answer.
    pub fn forward(
        &mut self,
        client: Client,
        query: Query,
        server: &Upstream,
        timeout: Duration,
        now: Instant,
    ) {
        let transport = match server {
            Upstream::Do53(_) => client.transport,
            Upstream::Doh(_) => Transport::Https,
        };
        let asker = (client, query.id());
        let content = (server.clone(), transport, query.content().to_vec());
        let existing = self.by_content.get(&content).and_then(|id| self.in_flight.get_mut(id));
        if existing.as_ref().is_some_and(|in_flight| in_flight.waiting.contains(&asker)) {
            return;
        }
        if self.waiting >= MAX_WAITING {
            tracing::debug!(waiting = self.waiting, "Too many DNS queries under way");
            return self.answer(client, query.answer_empty(ResponseCode::ServFail));
        }
        self.waiting += 1;
        if let Some(in_flight) = existing {
            return in_flight.waiting.push(asker);
        }

        self.last_query += 1;
        let id = QueryId(self.last_query);
        let deadline = now + timeout;
        let in_flight = InFlight {
            query,
            server: server.clone(),
            transport,
            sent_id: self.choose_id(transport),
            waiting: vec![asker],
            deadline,
            timer: match transport {
                Transport::Udp => deadline.min(now + FIRST_RETRANSMIT),
                Transport::Tcp | Transport::Https => deadline,
            },
            next_wait: 2 * FIRST_RETRANSMIT,
        };
        self.timers.insert((in_flight.timer, id));
        self.outputs.push_back(in_flight.transmit(id));
        self.in_flight.insert(id, in_flight);
        self.by_content.insert(content, id);
    }

    /// The id of the latest query that went out. Ids grow.
    pub(crate) fn latest(&self) -> QueryId {
        QueryId(self.last_query)
    }

    /// Sends an answer that needs no server.
    pub fn answer(&mut self, to: Client, message: Vec<u8>) {
        self.outputs.push_back(Output::Answer { to, message });
    }

    /// Takes what came back for a query, `from` this server.
    ///
    /// # Errors
    ///
    /// If it is not the response to the query; then it is ignored and the query waits on.
    pub fn handle_response(
        &mut self,
        id: QueryId,
        from: &Upstream,
        message: &[u8],
    ) -> Result<Answered, Rejected> {
        let in_flight = self.in_flight.get(&id).ok_or(Rejected::UnknownQuery)?;
        if !in_flight.server.is_same_server(from) {
            return Err(Rejected::WrongServer);
        }
        let answer = accept(message, in_flight.sent_id, &in_flight.query)?;
        let query = self.finish(id, &answer).ok_or(Rejected::UnknownQuery)?;
        Ok(Answered { query, answer })
    }

    /// Takes the news that nothing can come back for a query any more: its server is unreachable,
    /// the connection broke, the request failed. Who asked gets SERVFAIL.
    pub fn handle_failure(&mut self, id: QueryId) {
        if let Some(in_flight) = self.in_flight.get(&id) {
            let answer = in_flight.query.answer_empty(ResponseCode::ServFail);
            self.finish(id, &answer);
        }
    }

    /// Gives up all queries, as after a change of network. Who asked gets SERVFAIL.
    pub fn fail_all(&mut self) {
        let mut all: Vec<_> = self.in_flight.keys().copied().collect();
        all.sort();
        all.into_iter().for_each(|id| self.handle_failure(id));
    }

    /// Sends again what got no response, and gives up what got none for too long.
    pub fn handle_timeout(&mut self, now: Instant) {
        while let Some(&(timer, id)) = self.timers.first().filter(|(timer, _)| *timer <= now) {
            self.timers.remove(&(timer, id));
            let Some(in_flight) = self.in_flight.get_mut(&id) else { continue };
            if in_flight.deadline <= now {
                tracing::debug!(server = ?in_flight.server, "DNS server doesn't answer");
                self.handle_failure(id);
                continue;
            }
            in_flight.timer = in_flight.deadline.min(now + in_flight.next_wait);
            in_flight.next_wait *= 2;
            self.timers.insert((in_flight.timer, id));
            self.outputs.push_back(in_flight.transmit(id));
        }
    }

    /// What is next to do. Call it until it returns [`Output::Timeout`].
    pub fn poll_output(&mut self) -> Output {
        match self.outputs.pop_front() {
            Some(output) => output,
            None => Output::Timeout(self.timers.first().map(|(timer, _)| *timer)),
        }
    }

    /// Ends a query with this answer to all who asked.
    fn finish(&mut self, id: QueryId, answer: &[u8]) -> Option<Query> {
        let in_flight = self.in_flight.remove(&id)?;
        self.timers.remove(&(in_flight.timer, id));
        self.sent_ids.remove(&in_flight.sent_id);
        self.waiting -= in_flight.waiting.len();
        let content = in_flight.query.content().to_vec();
        self.by_content.remove(&(in_flight.server, in_flight.transport, content));
        for (client, client_id) in in_flight.waiting {
            let mut message = answer.to_vec();
            put_u16(&mut message, 0, client_id);
            if client.transport == Transport::Udp {
                message = fit(message, in_flight.query.udp_limit());
            }
            self.answer(client, message);
        }
        self.outputs.push_back(Output::Finished(id));
        Some(in_flight.query)
    }

    /// Unique, so that queries can share a connection; but always zero over HTTPS, as RFC 8484
    /// §4.1 recommends.
    fn choose_id(&mut self, transport: Transport) -> u16 {
        if transport == Transport::Https {
            return 0;
        }
        loop {
            let id = (self.rng.next_u32() >> 16) as u16;
            if id != 0 && self.sent_ids.insert(id) {
                return id;
            }
        }
    }
}

impl InFlight {
    fn transmit(&self, query: QueryId) -> Output {
        Output::Transmit(Transmit {
            query,
            server: self.server.clone(),
            transport: self.transport,
            message: self.query.to_upstream(self.sent_id, self.transport == Transport::Udp),
        })
    }
}
