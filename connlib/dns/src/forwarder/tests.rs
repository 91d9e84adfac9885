use hickory_proto::op::Message;
use hickory_proto::rr::RecordType;

use super::*;
use crate::query::tests::message;
use crate::response::ResponseError;
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
        let name = if n % 2 == 0 { "same.example.".to_owned() } else { format!("n{n}.example.") };
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
