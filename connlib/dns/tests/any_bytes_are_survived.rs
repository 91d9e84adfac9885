//! Apps and servers may send anything: it is refused or understood, and what comes out is sound.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::net::SocketAddr;
use std::time::Instant;

use connlib_dns::{
    Client, Deframer, Handled, IpStack, Name, Output, Pattern, ProxyAddresses, Query, Resolver,
    Resource, Transport, UpstreamConfig,
};
use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query as Question};
use hickory_proto::rr::rdata::{CNAME, MX, TXT};
use hickory_proto::rr::{Name as HickoryName, RData, Record, RecordType};
use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use uuid::Uuid;

const ROUNDS: u32 = 20_000;

fn below(rng: &mut ChaCha20Rng, bound: usize) -> usize {
    rng.next_u32() as usize % bound
}

/// Changes, inserts, removes and repeats some bytes; or makes the whole up.
fn mutate(rng: &mut ChaCha20Rng, message: &mut Vec<u8>) {
    if below(rng, 10) == 0 {
        *message = vec![0; below(rng, 200)];
        rng.fill_bytes(message);
        return;
    }
    for _ in 0..below(rng, 4) {
        let at = below(rng, message.len() + 1);
        match below(rng, 5) {
            0 => message.truncate(at),
            1 => message.insert(at, rng.next_u32() as u8),
            2 => message.extend_from_within(at..),
            // Lengths and pointers.
            3 if at < message.len() => message[at] = [0, 0xc0, 0x3f, 0x40, 0xff][below(rng, 5)],
            _ if at < message.len() => message[at] = rng.next_u32() as u8,
            _ => {}
        }
    }
}

fn query(rng: &mut ChaCha20Rng) -> Vec<u8> {
    let names = ["web.corp.example.", "example.com.", "1.0.96.100.in-addr.arpa.", ".", "a.b.c.d."];
    let types = [RecordType::A, RecordType::AAAA, RecordType::HTTPS, RecordType::PTR];
    let mut message = Message::new(rng.next_u32() as u16, MessageType::Query, OpCode::Query);
    let name = HickoryName::from_ascii(names[below(rng, names.len())]).unwrap();
    message.add_query(Question::query(name, types[below(rng, types.len())]));
    if below(rng, 2) == 0 {
        message.set_edns(Edns::new());
    }
    message.to_vec().unwrap()
}

fn respond(query: &[u8], rng: &mut ChaCha20Rng) -> Vec<u8> {
    let Ok(message) = Message::from_vec(query) else { return query.to_vec() };
    let mut response = message.into_response();
    let name = response.queries.first().map(|q| q.name.clone()).unwrap_or_default();
    for _ in 0..below(rng, 30) {
        let other = HickoryName::from_ascii("mail.example.com.").unwrap();
        let data = match below(rng, 3) {
            0 => RData::CNAME(CNAME(other)),
            1 => RData::MX(MX::new(1, other)),
            _ => RData::TXT(TXT::new(vec!["x".repeat(below(rng, 200))])),
        };
        response.add_answer(Record::from_rdata(name.clone(), rng.next_u32() >> 20, data));
    }
    response.to_vec().unwrap_or_default()
}

#[test]
fn queries_and_responses() {
    let rng = &mut ChaCha20Rng::seed_from_u64(1);
    let mut resolver = Resolver::new([3; 32], ProxyAddresses::with_capacity(50));
    let system = vec![SocketAddr::from(([192, 0, 2, 53], 53))];
    resolver.set_upstreams(&UpstreamConfig { system, ..UpstreamConfig::default() });
    let (id, pattern) = (Uuid::from_u128(1), "**.corp.example".parse().unwrap());
    resolver.upsert_resource(Resource { id, pattern, ip_stack: IpStack::Dual });
    let (sentinel, _) = resolver.sentinels().iter().next().unwrap();
    let (mut now, mut understood, mut accepted) = (Instant::now(), 0, 0);

    for round in 0..ROUNDS {
        let mut asked = query(rng);
        if below(rng, 3) > 0 {
            mutate(rng, &mut asked);
        }
        let source = SocketAddr::from(([100, 64, 0, 1], round as u16));
        let transport = if below(rng, 2) == 0 { Transport::Udp } else { Transport::Tcp };
        let client = Client { server: (sentinel, 53).into(), source, transport };
        match resolver.handle_query(client, &asked, now) {
            Ok(Handled::AskGateway { query, .. }) => resolver.refuse(client, &query),
            Ok(_) => understood += 1,
            Err(_) => {}
        }
        loop {
            match resolver.poll_output() {
                Output::Transmit(sent) => {
                    let mut response = respond(&sent.message, rng);
                    if below(rng, 2) == 0 {
                        mutate(rng, &mut response);
                    }
                    let result = resolver.handle_response(sent.query, &sent.server, &response, now);
                    accepted += u32::from(result.is_ok());
                }
                Output::Answer { to, message } => {
                    assert!(message[2] & 0x80 != 0, "not a response: {message:02x?}");
                    assert!(to.transport != Transport::Udp || message.len() <= 1212);
                    // Same id and same question, with the same spelling.
                    assert_eq!(Query::parse(&asked).unwrap().id().to_be_bytes(), message[..2]);
                    assert_eq!(message[4..6], [0, 1]);
                    // The shortest question is that for the root.
                    assert_eq!(message[12..17], asked[12..17]);
                }
                Output::Finished(_) => {}
                Output::Timeout(due) => {
                    let Some(due) = due.filter(|_| below(rng, 2) == 0) else { break };
                    // Left behind queries end, which isn't what is looked at here.
                    now = now.max(due);
                    resolver.reset();
                    while !matches!(resolver.poll_output(), Output::Timeout(None)) {}
                    break;
                }
            }
        }
        resolver.reset();
        while !matches!(resolver.poll_output(), Output::Timeout(None)) {}
    }
    // The loop is of use only if it reaches the inside often.
    assert!(understood > ROUNDS / 4 && accepted > ROUNDS / 20, "{understood} {accepted}");
}

#[test]
fn streams() {
    let rng = &mut ChaCha20Rng::seed_from_u64(2);
    for _ in 0..ROUNDS / 10 {
        let mut deframer = Deframer::new(300);
        for _ in 0..20 {
            let mut piece = vec![0; below(rng, 100)];
            rng.fill_bytes(&mut piece);
            piece.iter_mut().step_by(2).for_each(|b| *b &= 1);
            let mut piece = piece.as_slice();
            while let Ok(Some(message)) = deframer.next_message(&mut piece) {
                assert!(message.len() <= 300);
            }
        }
    }
}

#[test]
fn names_and_patterns() {
    let rng = &mut ChaCha20Rng::seed_from_u64(3);
    let mut patterns = 0;
    for _ in 0..ROUNDS {
        let text: String = (0..below(rng, 12))
            .map(|_| char::from(b"ab.*?Z-_\xe4/ "[below(rng, 10).min(below(rng, 11))]))
            .collect();
        if let Ok(name) = text.parse::<Name>() {
            assert_eq!(name.as_str().parse(), Ok(name.clone()));
            let _ = name.reverse_address();
        }
        if let Ok(pattern) = text.parse::<Pattern>() {
            patterns += 1;
            assert_eq!(pattern.as_str().parse(), Ok(pattern.clone()));
            // Read as a name, with its wildcards for characters, it matches itself.
            if let Ok(name) = pattern.as_str().parse::<Name>() {
                assert!(pattern.matches(&name), "{pattern}");
            }
        }
    }
    assert!(patterns > 1000, "{patterns}");
}
