//! What an app sees that asks a sentinel, from the first query to the cached answer.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use connlib_dns::{
    Client, Handled, IpStack, Output, ProxyAddresses, Query, Resolver, Resource, Transmit,
    Transport, Upstream, UpstreamConfig,
};
use hickory_proto::op::{Message, MessageType, OpCode, Query as Question, ResponseCode};
use hickory_proto::rr::rdata::{A, TXT};
use hickory_proto::rr::{Name, RData, Record, RecordType};
use uuid::Uuid;

const SERVER: [u8; 4] = [192, 0, 2, 53];

struct World {
    resolver: Resolver,
    now: Instant,
}

/// A resolver with one resource, whose one upstream is the system's.
fn world() -> World {
    let mut resolver = Resolver::new([1; 32], ProxyAddresses::default());
    let system = vec![SocketAddr::from((SERVER, 53))];
    assert!(resolver.set_upstreams(&UpstreamConfig { system, ..UpstreamConfig::default() }));
    resolver.upsert_resource(resource(1, "*.corp.example"));
    World { resolver, now: Instant::now() }
}

fn resource(id: u128, pattern: &str) -> Resource {
    let pattern = pattern.parse().unwrap();
    Resource { id: Uuid::from_u128(id), pattern, ip_stack: IpStack::Dual }
}

fn client(resolver: &Resolver) -> Client {
    let (sentinel, _) = resolver.sentinels().iter().next().unwrap();
    let source = SocketAddr::from(([100, 64, 0, 1], 40_000));
    Client { server: (sentinel, 53).into(), source, transport: Transport::Udp }
}

fn query(id: u16, name: &str, rtype: RecordType) -> Vec<u8> {
    let mut message = Message::new(id, MessageType::Query, OpCode::Query);
    message.add_query(Question::query(Name::from_ascii(name).unwrap(), rtype));
    message.to_vec().unwrap()
}

fn respond(transmit: &Transmit, data: RData, ttl: u32) -> Vec<u8> {
    let mut message = Message::from_vec(&transmit.message).unwrap().into_response();
    let name = message.queries[0].name.clone();
    message.add_answer(Record::from_rdata(name, ttl, data));
    message.to_vec().unwrap()
}

impl World {
    fn ask(&mut self, id: u16, name: &str, rtype: RecordType) -> Handled {
        let client = client(&self.resolver);
        self.resolver.handle_query(client, &query(id, name, rtype), self.now).unwrap()
    }

    fn transmit(&mut self) -> Transmit {
        match self.resolver.poll_output() {
            Output::Transmit(transmit) => transmit,
            other => panic!("not a transmit: {other:?}"),
        }
    }

    fn answer(&mut self) -> Message {
        match self.resolver.poll_output() {
            Output::Answer { to, message } => {
                assert_eq!(to.source.port(), 40_000);
                Message::from_vec(&message).unwrap()
            }
            other => panic!("not an answer: {other:?}"),
        }
    }

    fn respond(&mut self, transmit: &Transmit, data: RData, ttl: u32) {
        let message = respond(transmit, data, ttl);
        self.resolver
            .handle_response(transmit.query, &transmit.server, &message, self.now)
            .unwrap();
    }
}

#[test]
fn a_name_of_a_resource_gets_proxy_addresses() {
    let mut world = world();
    let handled = world.ask(5, "Web.Corp.example.", RecordType::A);
    let Handled::Answered(Some(assignment)) = handled else { panic!("{handled:?}") };
    assert_eq!(assignment.name.as_str(), "web.corp.example");
    let [(id, addresses)] = assignment.resources.try_into().unwrap();
    assert_eq!((id.as_u128(), addresses.len()), (1, 8));

    let answer = world.answer();
    assert_eq!((answer.metadata.id, answer.answers.len()), (5, 4));
    let first = world.resolver.stub().proxies().name_of(addresses[0]).unwrap();
    assert_eq!(first.as_str(), "web.corp.example");
    assert_eq!(world.resolver.stub().resources_of(first)[0].id, id);
    assert_eq!(world.resolver.poll_output(), Output::Timeout(None));
}

#[test]
fn other_names_are_forwarded_once_and_then_remembered() {
    let mut world = world();
    assert_eq!(world.ask(5, "example.com.", RecordType::A), Handled::Forwarded);
    let sent = world.transmit();
    assert_eq!(sent.server, Upstream::at(SERVER.into()));
    world.now += Duration::from_millis(20);
    world.respond(&sent, RData::A(A::new(198, 51, 100, 1)), 300);
    assert_eq!(world.answer().answers.len(), 1);
    assert_eq!(world.resolver.poll_output(), Output::Finished(sent.query));

    world.now += Duration::from_secs(100);
    assert_eq!(world.ask(6, "example.com.", RecordType::A), Handled::Answered(None));
    let cached = world.answer();
    assert_eq!((cached.metadata.id, cached.answers[0].ttl), (6, 200));

    world.now += Duration::from_secs(200);
    assert_eq!(world.ask(7, "example.com.", RecordType::A), Handled::Forwarded);
}

#[test]
fn a_new_resource_takes_over_from_cached_and_late_answers() {
    let mut world = world();
    world.ask(1, "cached.example.com.", RecordType::TXT);
    let cached = world.transmit();
    world.respond(&cached, RData::TXT(TXT::new(vec!["old".to_owned()])), 300);
    world.ask(2, "late.example.com.", RecordType::TXT);
    assert!(world.resolver.upsert_resource(resource(2, "*.example.com")));
    while !matches!(world.resolver.poll_output(), Output::Transmit(late) if {
        world.respond(&late, RData::TXT(TXT::new(vec!["old".to_owned()])), 300);
        true
    }) {}

    for name in ["cached.example.com.", "late.example.com."] {
        let handled = world.ask(3, name, RecordType::TXT);
        assert!(matches!(handled, Handled::AskGateway { .. }), "{name}: {handled:?}");
    }
}

#[test]
fn services_of_a_resource_are_asked_of_its_gateway() {
    let mut world = world();
    let handled = world.ask(9, "_ldap.corp.example.", RecordType::SRV);
    let Handled::AskGateway { resource, query } = handled else { panic!("{handled:?}") };
    assert_eq!(resource.as_u128(), 1);
    let (client, gateway) = (client(&world.resolver), SocketAddr::from(([100, 64, 0, 9], 53_535)));
    world.resolver.forward_to_gateway(client, query.clone(), gateway, world.now);
    let sent = world.transmit();
    assert_eq!(sent.server, Upstream::Do53(gateway));
    // The path may have to be set up: it has more time than a server next door.
    let mut seconds = 0;
    while !matches!(world.resolver.poll_output(), Output::Answer { .. }) {
        seconds += 1;
        world.resolver.handle_timeout(world.now + Duration::from_secs(seconds));
    }
    assert_eq!(seconds, 10);

    assert_eq!(world.resolver.poll_output(), Output::Finished(sent.query));
    world.resolver.refuse(client, &query);
    let answer = world.answer();
    assert_eq!((answer.metadata.id, answer.metadata.response_code), (9, ResponseCode::ServFail));
}

#[test]
fn servers_of_the_portal_may_be_far_away() {
    let mut world = world();
    let ip = IpAddr::from([192, 0, 2, 53]);
    let doh = vec!["https://192.0.2.53/dns-query".parse().unwrap()];
    for (do53, doh, seconds) in [(vec![ip], vec![], 10), (vec![], vec![], 5), (vec![], doh, 5)] {
        let system = vec![SocketAddr::from((ip, 53))];
        world.resolver.set_upstreams(&UpstreamConfig { do53, doh, system });
        world.ask(1, "example.com.", RecordType::A);
        world.transmit();
        world.resolver.handle_timeout(world.now + Duration::from_millis(seconds * 1000 - 1));
        while let Output::Transmit(_) = world.resolver.poll_output() {}
        world.resolver.handle_timeout(world.now + Duration::from_secs(seconds));
        assert_eq!(world.answer().metadata.response_code, ResponseCode::ServFail, "{seconds}");
        assert!(matches!(world.resolver.poll_output(), Output::Finished(_)));
    }
}

#[test]
fn new_servers_end_what_is_under_way_and_silence_old_sentinels() {
    let mut world = world();
    let old = client(&world.resolver);
    world.ask(1, "example.com.", RecordType::A);
    world.transmit();
    let do53 = vec![IpAddr::from([192, 0, 2, 1])];
    let config = UpstreamConfig { do53, ..UpstreamConfig::default() };
    assert!(world.resolver.set_upstreams(&config));
    assert_eq!(world.answer().metadata.response_code, ResponseCode::ServFail);
    assert!(matches!(world.resolver.poll_output(), Output::Finished(_)));
    assert!(!world.resolver.set_upstreams(&config), "the same once more");

    let asked = query(2, "web.corp.example.", RecordType::A);
    let handled = world.resolver.handle_query(old, &asked, world.now);
    assert_eq!(handled, Ok(Handled::Unassigned));
    assert_eq!(world.ask(2, "example.com.", RecordType::A), Handled::Forwarded);
    assert_eq!(world.transmit().server, Upstream::at([192, 0, 2, 1].into()));
}

#[test]
fn names_keep_their_addresses_in_the_next_session() {
    let mut world = world();
    world.ask(1, "a.corp.example.", RecordType::A);
    world.ask(1, "b.corp.example.", RecordType::A);
    let mut next = Resolver::new([2; 32], world.resolver.stub().proxies().clone());
    let system = vec![SocketAddr::from((SERVER, 53))];
    next.set_upstreams(&UpstreamConfig { system, ..UpstreamConfig::default() });
    next.upsert_resource(resource(7, "**.corp.example"));
    let asked = query(1, "b.corp.example.", RecordType::A);
    next.handle_query(client(&next), &asked, world.now).unwrap();
    let Output::Answer { message, .. } = next.poll_output() else { panic!("no answer") };
    let first = Message::from_vec(&message).unwrap().answers[0].data.to_string();
    assert_eq!(first, "100.96.0.5");
    assert_eq!(Query::parse(&asked).unwrap().id(), 1);
}
