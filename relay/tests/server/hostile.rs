//! Whatever comes in: no panic, and all state ends.

use std::time::Duration;

use connlib_relay::server::message_len;
use rand::{Rng, RngExt, SeedableRng};
use rand_chacha::ChaCha20Rng;
use stun_types::message::Message;

use crate::support::*;

#[test]
fn random_bytes_are_survived() {
    let mut rng = ChaCha20Rng::seed_from_u64(1);
    let mut relay = Relay::new(config());
    let mut client = Client::stamped("198.51.100.7:5000", "a");
    let allocation = client.allocate(&mut relay);
    for _ in 0..100_000 {
        let mut bytes = vec![0; rng.random_range(0..120)];
        rng.fill_bytes(&mut bytes);
        if let Some(first) = bytes.first_mut() {
            *first = [0, 1, 0x40, *first][rng.random_range(0..4)];
        }
        if bytes.len() >= 20 && rng.random() {
            let len = bytes.len() as u16 - 20;
            bytes[2..4].copy_from_slice(&len.to_be_bytes());
            bytes[4..8].copy_from_slice(&0x2112_a442_u32.to_be_bytes());
        }
        let _ = message_len(&bytes);
        relay.server.handle_client(client.tuple, &bytes, relay.now);
        relay.server.handle_peer(allocation, address("192.0.2.9:9"), bytes.len() * 1000);
    }
    relay.run();
    assert_eq!(relay.server.allocations(), 1);
}

/// Requests that were right before a few of their bytes changed, from some clients, in any order, with ports that fail
/// and time that passes.
#[test]
fn changed_requests_in_any_order_are_survived() {
    for seed in 0..20 {
        let mut rng = ChaCha20Rng::seed_from_u64(seed);
        let mut config = config();
        config.limits.channels = 20;
        config.limits.permissions = 20;
        let mut relay = Relay::new(config);
        let mut clients: Vec<_> = (0..8).map(client).collect();
        for _ in 0..2000 {
            let index = rng.random_range(0..clients.len());
            let client = &mut clients[index];
            client.transaction += rng.random_range(0..2);
            let mut message = any_message(client, &mut rng);
            if rng.random_range(0..3) == 0 {
                for _ in 0..rng.random_range(1..4) {
                    let at = rng.random_range(0..message.len());
                    message[at] = rng.random();
                }
            }
            relay.server.handle_client(client.tuple, &message, relay.now);
            relay.run_with(Some(&mut rng));
            for (to, bytes) in relay.sent.drain(..) {
                let answer = Answer { bytes };
                if to == client.tuple {
                    client.nonce = answer.nonce().or(client.nonce.take());
                }
                Message::from_bytes(&answer.bytes).unwrap();
            }
            if rng.random_range(0..50) == 0 {
                relay.now.instant += Duration::from_secs(rng.random_range(0..300));
                relay.server.handle_timeout(relay.now.instant);
                relay.run_with(Some(&mut rng));
            }
            assert_eq!(relay.server.allocations(), relay.open_ports.len());
            assert_eq!(relay.server.channels(), relay.channels.len());
        }
        assert!(relay.server.counters().allocations > 5);
        relay.pass(Duration::from_secs(3700));
        assert_eq!((relay.server.allocations(), relay.server.channels()), (0, 0));
        assert_eq!(relay.run(), None, "no timer is left");
        // Whatever limit was reached, all of it is free again.
        let mut client = Client::stamped("198.51.100.9:1", "last");
        client.allocate(&mut relay);
        for n in 0..10 {
            let peer = format!("192.0.2.{n}:1");
            assert_eq!(client.bind(&mut relay, 0x4000 + n, &peer), None);
            assert_eq!(client.permit(&mut relay, &[&peer]), None);
        }
    }
}

fn client(n: u64) -> Client {
    let client =
        Client::stamped(&format!("198.51.100.{}:{}", n % 3, 5000 + n), &(n % 5).to_string());
    if n.is_multiple_of(4) { client.over_stream(n) } else { client }
}

fn any_message(client: &Client, rng: &mut ChaCha20Rng) -> Vec<u8> {
    let peer = format!("192.0.2.{}:1", rng.random_range(0..9));
    let channel = 0x4000 + rng.random_range(0..9);
    let [a, b] = u16::to_be_bytes(channel);
    let number = [a, b, 0, 0];
    let peer_value = {
        let indication = client.send_indication(&peer, b"");
        indication[24..32].to_vec()
    };
    let lifetime = [0, 0, rng.random_range(0..3), 0];
    match rng.random_range(0..8) {
        0 => request(BINDING, &[]),
        1 => client.signed(ALLOCATE, &[UDP, BOTH_FAMILIES, (LIFETIME, &lifetime)]),
        2 => client.signed(ALLOCATE, &[UDP]),
        3 => client.signed(REFRESH, &[(LIFETIME, &lifetime)]),
        4 => client.signed(CREATE_PERMISSION, &[(0x12, &peer_value)]),
        5 => client.signed(CHANNEL_BIND, &[(CHANNEL_NUMBER, &number), (0x12, &peer_value)]),
        6 => client.send_indication(&peer, b"data"),
        _ => channel_data(channel, b"data"),
    }
}
