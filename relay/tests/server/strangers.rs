//! What somebody without credentials can do, who may not even be where datagrams say they came from.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use connlib_relay::server::{Drop, Output, Rate};

use crate::support::*;

#[test]
fn a_binding_request_tells_the_address() {
    let mut relay = Relay::new(config());
    for remote in ["198.51.100.7:5000", "[2001:db8:7::7]:5000"] {
        let client = Client::alice(remote);
        for attributes in
            [vec![], vec![(SOFTWARE, b"somebody".as_slice())], vec![(SOFTWARE, &[b'x'; 100])]]
        {
            let request = request(BINDING, &attributes);
            let answer = Answer { bytes: relay.exchange(client.tuple, &request).unwrap() };
            assert_eq!((answer.code(), answer.mapped()), (None, address(remote)));
            assert_eq!(
                answer.value(SOFTWARE).is_some(),
                request.len() > 100,
                "only where there is room"
            );
        }
        let unknown = Answer {
            bytes: relay.exchange(client.tuple, &request(BINDING, &[(0x24, &[0; 4])])).unwrap(),
        };
        assert_eq!((unknown.code(), unknown.value(0x0a)), (Some(420), Some(vec![0, 0x24])));
    }
}

#[test]
fn nothing_is_longer_than_what_brought_it_once_the_budget_is_used() {
    let mut config = config();
    config.limits.unauthenticated_longer = Rate { per_second: 1, burst: 0 };
    let mut relay = Relay::new(config);
    let clients = [
        Client::alice("198.51.100.7:5000"),
        Client::stamped("[2001:db8:7::7]:5001", "a salt of some length"),
    ];
    let mut answered = 0;
    for client in &clients {
        for method in [BINDING, ALLOCATE, REFRESH, CREATE_PERMISSION, CHANNEL_BIND] {
            for len in 0..200 {
                let text = vec![b'x'; len];
                let attributes = [(SOFTWARE, text.as_slice()), UDP];
                for request in [request(method, &attributes), client.signed(method, &attributes)] {
                    if let Some(answer) = relay.exchange(client.tuple, &request) {
                        assert!(answer.len() <= request.len());
                        answered += 1;
                    }
                }
            }
        }
    }
    assert!(answered > 1000);
    relay.pass(Duration::from_secs(10));
    // Those who say at once who they are, as clients of the portal do, don't need the budget.
    clients.into_iter().last().unwrap().allocate(&mut relay);
}

#[test]
fn what_is_longer_is_so_by_little() {
    let mut relay = Relay::new(config());
    for (remote, headers) in [("198.51.100.7:5000", 28), ("[2001:db8:7::7]:5000", 48)] {
        let client = Client::stamped(remote, "");
        for request in [
            request(BINDING, &[]),
            request(ALLOCATE, &[UDP]),
            request(REFRESH, &[(0x06, client.username.as_bytes())]),
            client.signed(ALLOCATE, &[UDP]),
        ] {
            let answer = relay.exchange(client.tuple, &request).unwrap();
            let factor = (headers + answer.len()) as f64 / (headers + request.len()) as f64;
            assert!(factor <= 1.6, "{} for {} bytes", answer.len(), request.len());
        }
        // Shorter than anything honest.
        assert_eq!(relay.exchange(client.tuple, &request(ALLOCATE, &[])), None);
    }
}

#[test]
fn a_network_has_a_budget_of_answers() {
    let mut config = config();
    config.limits.unauthenticated = Rate { per_second: 10, burst: 100 };
    config.limits.unauthenticated_longer = Rate { per_second: 1, burst: 10 };
    let mut relay = Relay::new(config);
    let count = |relay: &mut Relay, network: &str, message: &[u8]| {
        let client = |host: u8| Client::alice(&format!("{network}{host}:5000")).tuple;
        (0..200).filter(|host| relay.exchange(client(*host), message).is_some()).count()
    };
    let small = request(BINDING, &[]);
    let large = request(BINDING, &[(SOFTWARE, &[b'x'; 50])]);
    assert_eq!(count(&mut relay, "198.51.100.", &small), 10);
    assert_eq!(count(&mut relay, "198.51.100.", &large), 0, "the forged ones have used all");
    assert_eq!(count(&mut relay, "198.51.101.", &large), 100);
    assert!(relay.server.counters().dropped(Drop::SourceLimit) > 300);
    relay.pass(Duration::from_secs(5));
    assert_eq!(count(&mut relay, "198.51.100.", &large), 50);

    // Whoever has an allocation is served nevertheless, and so is a stream, which can't be forged.
    let mut streaming = Client::stamped("198.51.100.7:7000", "b").over_stream(1);
    streaming.allocate(&mut relay);
    relay.pass(Duration::from_secs(60));
    let mut client = Client::stamped("198.51.100.7:6000", "a");
    client.allocate(&mut relay);
    count(&mut relay, "198.51.100.", &large);
    assert_eq!(client.ask(&mut relay, REFRESH, &[]).code(), None);
}

#[test]
fn spoofed_sources_cost_no_memory() {
    let mut relay = Relay::new(config());
    let client = Client::stamped("198.51.100.7:5000", "a");
    let messages = [
        request(BINDING, &[]),
        request(ALLOCATE, &[UDP]),
        client.signed(ALLOCATE, &[UDP, BOTH_FAMILIES]),
        client.signed(REFRESH, &[]),
        channel_data(0x4000, b"data"),
        client.send_indication("192.0.2.9:9", b"data"),
        b"anything".to_vec(),
    ];
    let mut answers = 0;
    let counted = allocation_counter::measure(|| {
        for source in 0..100_000_u32 {
            let mut tuple = client.tuple;
            let ip = Ipv4Addr::from_bits(0x0b00_0000 + source * 977);
            tuple.remote = SocketAddr::new(ip.into(), source as u16 | 1024);
            for message in &messages {
                relay.server.handle_client(tuple, message, relay.now);
            }
            while let Output::Send { .. } = relay.server.poll_output() {
                answers += 1;
            }
        }
    });
    assert!(answers > 100_000);
    assert_eq!(relay.server.allocations(), 0);
    assert!(counted.bytes_current < 10_000, "{} bytes are kept", counted.bytes_current);
    assert!(counted.bytes_max < 100_000, "{} bytes were needed at a time", counted.bytes_max);
}

#[test]
fn a_caller_that_does_not_drain_has_a_bounded_backlog() {
    let mut relay = Relay::new(config());
    for source in 0..20_000_u32 {
        let mut tuple = Client::alice("198.51.100.7:5000").tuple;
        tuple.remote =
            SocketAddr::new(Ipv4Addr::from_bits(0x0b00_0000 + (source << 8)).into(), 5000);
        relay.server.handle_client(tuple, &request(BINDING, &[]), relay.now);
    }
    relay.run();
    assert_eq!(relay.sent.len(), 8192);
    assert!(relay.server.counters().dropped(Drop::Backlog) > 8000);
    assert!(
        relay.exchange(Client::alice("198.51.100.7:5000").tuple, &request(BINDING, &[])).is_some()
    );
}
