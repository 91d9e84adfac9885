//! The router translates addresses and lets nothing in that was not asked for.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test")]

use std::{
    net::{SocketAddr, UdpSocket},
    time::Duration,
};

use connlib_e2e::{Lab, Namespace, Nat, Router, probe::observed_source};

const DEADLINE: Duration = Duration::from_secs(5);

struct Home {
    _lab: Lab,
    router: Router,
    client: Namespace,
    server: Namespace,
}

impl Home {
    fn new() -> Self {
        let lab = Lab::new().unwrap();
        let server = lab.namespace("server").unwrap();
        let router = lab.router("router").unwrap();
        let client = lab.namespace("client").unwrap();
        lab.cable(
            (&server, "eth0", &["203.0.113.5/24", "203.0.113.6/24", "2001:db8:113::5/64"]),
            (&router, "wan", &["203.0.113.20/24", "2001:db8:113::20/64"]),
        )
        .unwrap();
        lab.cable(
            (&client, "eth0", &["192.168.77.2/24", "fd77::2/64"]),
            (&router, "lan", &["192.168.77.1/24", "fd77::1/64"]),
        )
        .unwrap();
        client.route("default", "192.168.77.1").unwrap();
        client.route("default", "fd77::1").unwrap();
        Self { _lab: lab, router, client, server }
    }

    /// How the server sees the client's socket.
    fn source_seen_at(&self, socket: &UdpSocket, server: &str) -> SocketAddr {
        let server = bind(&self.server, server);
        observed_source(socket, &server, DEADLINE).unwrap()
    }
}

fn bind(namespace: &Namespace, address: &str) -> UdpSocket {
    namespace.enter(|| UdpSocket::bind(address)).unwrap().unwrap()
}

#[test]
fn by_one_address_in_both_families() {
    let home = Home::new();
    home.router.masquerade("wan", Nat::Masquerade).unwrap();

    let v4 = bind(&home.client, "0.0.0.0:40001");
    assert_eq!(home.source_seen_at(&v4, "203.0.113.5:7"), "203.0.113.20:40001".parse().unwrap());
    assert_eq!(home.source_seen_at(&v4, "203.0.113.6:9"), "203.0.113.20:40001".parse().unwrap());

    let v6 = bind(&home.client, "[::]:40002");
    let seen = home.source_seen_at(&v6, "[2001:db8:113::5]:7");
    assert_eq!(seen, "[2001:db8:113::20]:40002".parse().unwrap());
}

#[test]
fn symmetrically_by_another_port_for_each_peer() {
    let home = Home::new();
    home.router.masquerade("wan", Nat::Symmetric).unwrap();

    let socket = bind(&home.client, "0.0.0.0:40001");
    let ports: Vec<u16> = (0..4)
        .map(|peer| home.source_seen_at(&socket, &format!("203.0.113.5:{}", 7 + peer)).port())
        .collect();
    let mut distinct = ports.clone();
    distinct.sort_unstable();
    distinct.dedup();
    assert!(distinct.len() > 1, "the same port for every peer: {ports:?}");
}

#[test]
fn strangers_get_in_no_further_than_the_router() {
    let home = Home::new();
    home.router.masquerade("wan", Nat::Masquerade).unwrap();
    home.server.route("192.168.77.0/24", "203.0.113.20").unwrap();

    let client = bind(&home.client, "192.168.77.2:40001");
    let friend = bind(&home.server, "203.0.113.5:7");
    let stranger = bind(&home.server, "203.0.113.6:7");
    let mapped = observed_source(&client, &friend, DEADLINE).unwrap();

    // All of these would arrive in order; only the answer does.
    stranger.send_to(b"mapped address", mapped).unwrap();
    stranger.send_to(b"private address", "192.168.77.2:40001").unwrap();
    friend.send_to(b"answer", mapped).unwrap();
    client.set_read_timeout(Some(DEADLINE)).unwrap();
    let mut buffer = [0; 64];
    let (length, _) = client.recv_from(&mut buffer).unwrap();
    assert_eq!(&buffer[..length], b"answer");
}
