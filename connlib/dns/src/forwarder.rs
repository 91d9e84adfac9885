//! Queries on their way to a server and back.

use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use hickory_proto::op::ResponseCode;
use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::{Rng as _, SeedableRng as _};

use crate::query::Query;
use crate::response::{ResponseError, accept, fit};
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

/// A query in flight, never used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct QueryId(u64);

/// An asker: who sent a query, where to and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Client {
    /// The address that the query was sent to, from which the answer must come.
    pub server: SocketAddr,
    /// The address that the query came from, to which the answer goes.
    pub source: SocketAddr,
    /// UDP or TCP. A TCP connection is known by its two addresses.
    pub transport: Transport,
}

/// What there is to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// Send a message to a server.
    Transmit(Transmit),
    /// Send a message to an asker.
    Answer {
        /// The asker.
        to: Client,
        /// The whole message.
        message: Vec<u8>,
    },
    /// The query is over. What was opened for it can be closed.
    Finished(QueryId),
    /// Nothing until then, or until something comes in. `None` if nothing is under way.
    Timeout(Option<Instant>),
}

/// A message to a server.
///
/// Each query wants a source port of its own, as that is what makes it hard to forge a response;
/// so the caller opens a socket, a connection or a request for a [`QueryId`] that is new to it,
/// uses it for all that is sent for this query, and names the query when something comes back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transmit {
    /// The query that this belongs to.
    pub query: QueryId,
    /// The server.
    pub server: Upstream,
    /// What has to carry the message.
    pub transport: Transport,
    /// The message, without a length before it.
    pub message: Vec<u8>,
}

/// A query that found its answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answered {
    /// The query.
    pub query: Query,
    /// The complete answer to it.
    pub answer: Vec<u8>,
}

/// Why a response was ignored. The query, if there is one, waits on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Rejected {
    /// The query is over, usually because the response is late.
    #[error("the query is over")]
    UnknownQuery,
    /// It comes from another server than the one that was asked.
    #[error("the response comes from another server")]
    WrongServer,
    /// It is no response to the query.
    #[error(transparent)]
    Response(#[from] ResponseError),
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

#[cfg(test)]
mod tests {
    use hickory_proto::op::Message;
    use hickory_proto::rr::RecordType;

    use super::*;
    use crate::query::tests::message;
    use crate::response::tests::response;

    const TIMEOUT: Duration = DIRECT_TIMEOUT;

    fn client(port: u16, transport: Transport) -> Client {
        let [server, source] = [([100, 100, 111, 1], 53), ([100, 64, 0, 1], port)];
        Client { server: server.into(), source: source.into(), transport }
    }

    fn udp(port: u16) -> Client {
        client(port, Transport::Udp)
    }

    fn server() -> Upstream {
        Upstream::at([192, 0, 2, 53].into())
    }

    fn ask(id: u16, name: &str) -> Query {
        Query::parse(&message(id, name, RecordType::A).to_vec().unwrap()).unwrap()
    }

    fn forwarder() -> Forwarder {
        Forwarder::new([7; 32])
    }

    fn transmits(forwarder: &mut Forwarder) -> Vec<Transmit> {
        drain(forwarder)
            .into_iter()
            .map(|output| match output {
                Output::Transmit(transmit) => transmit,
                other => panic!("not a transmit: {other:?}"),
            })
            .collect()
    }

    /// Everything but the timeout at the end.
    fn drain(forwarder: &mut Forwarder) -> Vec<Output> {
        std::iter::from_fn(|| match forwarder.poll_output() {
            Output::Timeout(_) => None,
            output => Some(output),
        })
        .collect()
    }

    fn timeout(forwarder: &mut Forwarder) -> Option<Instant> {
        match forwarder.poll_output() {
            Output::Timeout(timeout) => timeout,
            other => panic!("still queued: {other:?}"),
        }
    }

    /// Asker's port, id, code and number of records.
    type Seen = (u16, u16, ResponseCode, usize);

    /// The answers, and what is finished.
    fn answers(forwarder: &mut Forwarder) -> (Vec<Seen>, Vec<QueryId>) {
        let (mut answers, mut finished) = (Vec::new(), Vec::new());
        for output in drain(forwarder) {
            match output {
                Output::Answer { to, message } => {
                    let message = Message::from_vec(&message).unwrap();
                    let code = message.metadata.response_code;
                    let records = message.answers.len();
                    answers.push((to.source.port(), message.metadata.id, code, records));
                }
                Output::Finished(id) => finished.push(id),
                other => panic!("unexpected: {other:?}"),
            }
        }
        (answers, finished)
    }

    fn sent_id(transmit: &Transmit) -> u16 {
        Message::from_vec(&transmit.message).unwrap().metadata.id
    }

    #[test]
    fn an_answer_finds_its_way_back() {
        let (mut forwarder, now) = (forwarder(), Instant::now());
        forwarder.forward(udp(1000), ask(42, "example.com."), &server(), TIMEOUT, now);
        let [sent] = transmits(&mut forwarder).try_into().unwrap();
        assert_eq!((&sent.server, sent.transport), (&server(), Transport::Udp));
        assert_ne!(sent_id(&sent), 42, "the id is ours");

        let response = response(sent_id(&sent), "example.com.", 60).to_vec().unwrap();
        let answered = forwarder.handle_response(sent.query, &server(), &response).unwrap();
        assert_eq!(answered.query, ask(42, "example.com."));
        let expected = (1000, 42, ResponseCode::NoError, 1);
        assert_eq!(answers(&mut forwarder), (vec![expected], vec![sent.query]));
        assert_eq!(timeout(&mut forwarder), None);
        assert_nothing_left(&forwarder);
    }

    fn assert_nothing_left(forwarder: &Forwarder) {
        assert!(forwarder.in_flight.is_empty() && forwarder.by_content.is_empty());
        assert!(forwarder.sent_ids.is_empty() && forwarder.timers.is_empty());
        assert_eq!(forwarder.waiting, 0);
    }

    #[test]
    fn a_response_must_match_in_every_respect() {
        let (mut forwarder, now) = (forwarder(), Instant::now());
        forwarder.forward(udp(1), ask(1, "example.com."), &server(), TIMEOUT, now);
        let [sent] = transmits(&mut forwarder).try_into().unwrap();
        let id = sent_id(&sent);
        let good = response(id, "example.com.", 60).to_vec().unwrap();
        let other_id = response(id.wrapping_add(1), "example.com.", 60).to_vec().unwrap();
        let other_name = response(id, "example.org.", 60).to_vec().unwrap();
        let elsewhere = Upstream::at([192, 0, 2, 54].into());
        let other_port = Upstream::Do53(([192, 0, 2, 53], 5353).into());
        let no_query = QueryId(99);

        let mut try_it = |query, from: &Upstream, message: &[u8]| {
            forwarder.handle_response(query, from, message).map(drop)
        };
        assert_eq!(try_it(no_query, &server(), &good), Err(Rejected::UnknownQuery));
        assert_eq!(try_it(sent.query, &elsewhere, &good), Err(Rejected::WrongServer));
        assert_eq!(try_it(sent.query, &other_port, &good), Err(Rejected::WrongServer));
        let wrong_id = Err(Rejected::Response(ResponseError::WrongId));
        assert_eq!(try_it(sent.query, &server(), &other_id), wrong_id);
        let wrong_question = Err(Rejected::Response(ResponseError::WrongQuestion));
        assert_eq!(try_it(sent.query, &server(), &other_name), wrong_question);
        assert_eq!(try_it(sent.query, &server(), &good), Ok(()), "the query waited on");
        assert_eq!(try_it(sent.query, &server(), &good), Err(Rejected::UnknownQuery), "twice");
    }

    #[test]
    fn scope_ids_of_a_source_are_ignored() {
        let (mut forwarder, now) = (forwarder(), Instant::now());
        let scoped = |scope| {
            let address = "fe80::1".parse().unwrap();
            Upstream::Do53(std::net::SocketAddrV6::new(address, 53, 0, scope).into())
        };
        forwarder.forward(udp(1), ask(1, "example.com."), &scoped(3), TIMEOUT, now);
        let [sent] = transmits(&mut forwarder).try_into().unwrap();
        let good = response(sent_id(&sent), "example.com.", 60).to_vec().unwrap();
        assert!(forwarder.handle_response(sent.query, &scoped(0), &good).is_ok());
    }

    #[test]
    fn datagrams_are_sent_again_until_the_time_is_up() {
        let (mut forwarder, start) = (forwarder(), Instant::now());
        forwarder.forward(udp(1000), ask(42, "example.com."), &server(), TUNNEL_TIMEOUT, start);
        let [first] = transmits(&mut forwarder).try_into().unwrap();
        for second in [1, 3, 7] {
            let due = timeout(&mut forwarder).unwrap();
            assert_eq!(due, start + Duration::from_secs(second));
            forwarder.handle_timeout(due - Duration::from_millis(1));
            assert_eq!(transmits(&mut forwarder), []);
            forwarder.handle_timeout(due);
            assert_eq!(transmits(&mut forwarder), std::slice::from_ref(&first));
        }
        let due = timeout(&mut forwarder).unwrap();
        assert_eq!(due, start + TUNNEL_TIMEOUT);
        forwarder.handle_timeout(due);
        let expected = (1000, 42, ResponseCode::ServFail, 0);
        assert_eq!(answers(&mut forwarder), (vec![expected], vec![first.query]));

        let late = response(sent_id(&first), "example.com.", 60).to_vec().unwrap();
        let late = forwarder.handle_response(first.query, &server(), &late);
        assert_eq!(late, Err(Rejected::UnknownQuery));
        assert_nothing_left(&forwarder);
    }

    #[test]
    fn after_a_long_sleep_there_is_only_the_failure() {
        let (mut forwarder, start) = (forwarder(), Instant::now());
        forwarder.forward(udp(1000), ask(42, "example.com."), &server(), TIMEOUT, start);
        transmits(&mut forwarder);
        forwarder.handle_timeout(start + Duration::from_secs(3600));
        assert_eq!(answers(&mut forwarder).0, [(1000, 42, ResponseCode::ServFail, 0)]);
    }

    #[test]
    fn streams_are_not_sent_again() {
        let (mut forwarder, start) = (forwarder(), Instant::now());
        let doh = Upstream::Doh("https://dns.quad9.net/dns-query".parse().unwrap());
        let (query, tcp) = (ask(42, "example.com."), client(1, Transport::Tcp));
        forwarder.forward(tcp, query.clone(), &server(), TIMEOUT, start);
        forwarder.forward(udp(1), query, &doh, TIMEOUT, start);
        let [over_tcp, over_https] = transmits(&mut forwarder).try_into().unwrap();
        assert_eq!(over_tcp.transport, Transport::Tcp);
        assert_eq!((over_https.transport, sent_id(&over_https)), (Transport::Https, 0));
        assert_eq!(timeout(&mut forwarder), Some(start + TIMEOUT));

        let response = response(0, "example.com.", 60).to_vec().unwrap();
        forwarder.handle_response(over_https.query, &doh, &response).unwrap();
        assert_eq!(answers(&mut forwarder).0, [(1, 42, ResponseCode::NoError, 1)]);
        forwarder.handle_failure(over_tcp.query);
        forwarder.handle_failure(over_tcp.query);
        assert_eq!(answers(&mut forwarder).0, [(1, 42, ResponseCode::ServFail, 0)]);
        assert_nothing_left(&forwarder);
    }

    #[test]
    fn equal_queries_go_out_once() {
        let (mut forwarder, now) = (forwarder(), Instant::now());
        let other_server = Upstream::at([192, 0, 2, 54].into());
        for (client, query, server, sent) in [
            (udp(1), ask(10, "example.com."), server(), 1),
            (udp(1), ask(10, "example.com."), server(), 0), // the app repeats it
            (udp(1), ask(11, "example.com."), server(), 0),
            (udp(2), ask(12, "example.com."), server(), 0),
            (udp(3), ask(13, "EXAMPLE.com."), server(), 1), // another spelling to preserve
            (udp(4), ask(14, "example.com."), other_server, 1),
            (client(5, Transport::Tcp), ask(15, "example.com."), server(), 1),
        ] {
            let before = forwarder.in_flight.len();
            forwarder.forward(client, query, &server, TIMEOUT, now);
            assert_eq!(forwarder.in_flight.len() - before, sent);
        }
        let first = transmits(&mut forwarder).remove(0);
        let response = response(sent_id(&first), "example.com.", 60).to_vec().unwrap();
        forwarder.handle_response(first.query, &server(), &response).unwrap();
        let expected = [(1, 10), (1, 11), (2, 12)].map(|(p, i)| (p, i, ResponseCode::NoError, 1));
        assert_eq!(answers(&mut forwarder).0, expected);
        assert_eq!(forwarder.waiting, 3);
    }

    #[test]
    fn askers_beyond_the_bound_are_refused_at_once() {
        let (mut forwarder, now) = (forwarder(), Instant::now());
        for n in 0..MAX_WAITING as u16 {
            // Half of them wait for the same answer.
            let name =
                if n % 2 == 0 { "same.example.".to_owned() } else { format!("n{n}.example.") };
            forwarder.forward(udp(n), ask(n, &name), &server(), TIMEOUT, now);
        }
        let sent = transmits(&mut forwarder);
        let ids: HashSet<_> = sent.iter().map(sent_id).collect();
        assert_eq!((sent.len(), ids.len()), (MAX_WAITING / 2 + 1, MAX_WAITING / 2 + 1));

        for name in ["one.too.many.", "same.example."] {
            forwarder.forward(udp(9999), ask(1, name), &server(), TIMEOUT, now);
            let expected = vec![(9999, 1, ResponseCode::ServFail, 0)];
            assert_eq!(answers(&mut forwarder), (expected, vec![]));
        }

        forwarder.fail_all();
        let (answers, finished) = answers(&mut forwarder);
        assert_eq!((answers.len(), finished.len()), (MAX_WAITING, sent.len()));
        assert_nothing_left(&forwarder);
    }

    #[test]
    fn ids_on_the_wire_are_unique_and_zero_is_for_https() {
        let mut forwarder = forwarder();
        for _ in 0..u16::MAX {
            assert_ne!(forwarder.choose_id(Transport::Tcp), 0);
        }
        assert_eq!(forwarder.sent_ids.len(), usize::from(u16::MAX));
        assert_eq!(forwarder.choose_id(Transport::Https), 0);
    }

    #[test]
    fn only_datagrams_are_cut() {
        let (mut forwarder, now) = (forwarder(), Instant::now());
        forwarder.forward(udp(1), ask(1, "example.com."), &server(), TIMEOUT, now);
        let tcp = client(2, Transport::Tcp);
        forwarder.forward(tcp, ask(2, "example.com."), &server(), TIMEOUT, now);
        for sent in transmits(&mut forwarder) {
            let mut long = response(sent_id(&sent), "example.com.", 60);
            for n in 0..40 {
                let mut record = long.answers[0].clone();
                record.ttl = 60 + n;
                long.add_answer(record);
            }
            let long = long.to_vec().unwrap();
            assert!(long.len() > 512);
            let answered = forwarder.handle_response(sent.query, &server(), &long).unwrap();
            assert_eq!(answered.answer.len(), long.len(), "the cache gets all of it");
        }
        let records: Vec<_> = answers(&mut forwarder).0.iter().map(|a| (a.0, a.3)).collect();
        assert_eq!(records, [(1, 0), (2, 41)]);
    }
}
