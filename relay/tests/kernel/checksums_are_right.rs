//! Each packet that leaves the relay has the checksums that it should have, whoever has made it.

use std::net::{IpAddr, SocketAddr};

use connlib_e2e::Capture;

use crate::client::Client;
use crate::network::{Peer, flags, lay, reach, relayed};
use crate::support::{Network, RELAY, RELAY6};

const CHANNEL: u16 = 0x4001;

#[test]
fn in_the_driver() {
    check("native");
}

#[test]
fn behind_the_driver() {
    check("generic");
}

#[test]
fn in_user_space() {
    check("off");
}

fn check(mode: &str) {
    let Some((network, _cable)) = lay() else { return };
    let _relay = network.start(&flags(mode));
    let own: [IpAddr; 2] = [RELAY.parse().unwrap(), RELAY6.parse().unwrap()];
    let capture = Capture::start(&network.internet, &own).unwrap();
    let mut sent = 0;
    for client_ip in [RELAY, RELAY6] {
        for is_v4 in [true, false] {
            sent += to_a_peer_and_back(&network, client_ip, is_v4);
            sent += to_another_client(&network, client_ip, is_v4);
        }
    }
    let seen = capture.stop().unwrap();
    assert_eq!(seen.wrong, [""; 0]);
    assert!(seen.datagrams > sent && seen.odd > sent / 4, "{sent}: {seen:?}");
    assert!(seen.empty > 0 && seen.all_ones >= 12 * BALANCED, "{seen:?}");
    assert_eq!(seen.without, 0);
    if mode != "off" {
        assert!(relayed(&network, "xdp") > sent as u64 * 9 / 10, "of {sent}");
    }
}

/// Datagrams of each way whose checksum is the one that stands for zero.
const BALANCED: usize = 5;

/// Payloads of all kinds; among them some that give a datagram with these ends, and this in front of the payload, a sum
/// of zero.
fn payloads(source: SocketAddr, destination: SocketAddr, channel: Option<u16>) -> Vec<Vec<u8>> {
    let mut payloads: Vec<Vec<u8>> = (0..50).map(|length| vec![0xa5; length]).collect();
    for fill in [0, 0xff] {
        payloads.extend([1, 2, 3, 100, 999, 1200, 1201].map(|length| vec![fill; length]));
    }
    for length in [2, 4, 98, 500, 1200] {
        let mut payload: Vec<u8> = (0..length).map(|at: usize| (at * 7 + at / 256) as u8).collect();
        let front = match channel {
            Some(channel) => [channel.to_be_bytes(), (length as u16).to_be_bytes()].concat(),
            None => Vec::new(),
        };
        balance(&mut payload, source, destination, &front);
        payloads.push(payload);
    }
    payloads
}

/// Changes the last word so that the sum of all is zero.
fn balance(payload: &mut [u8], source: SocketAddr, destination: SocketAddr, front: &[u8]) {
    let (data, last) = payload.split_at_mut(payload.len() - 2);
    let octets = |ip: IpAddr| match ip {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    };
    let length = (8 + front.len() + data.len() + 2) as u16;
    // RFC 768: the pseudo-header has the length and the protocol, the header the length once more.
    let numbers = [17, length, length, source.port(), destination.port()];
    let bytes = [
        &octets(source.ip())[..],
        &octets(destination.ip()),
        &numbers.map(u16::to_be_bytes).concat(),
        front,
        data,
    ]
    .concat();
    let sum: u64 =
        bytes.chunks(2).map(|pair| u64::from(u16::from_be_bytes([pair[0], pair[1]]))).sum();
    let mut folded = sum;
    while folded > 0xffff {
        folded = (folded & 0xffff) + (folded >> 16);
    }
    last.copy_from_slice(&(!(folded as u16)).to_be_bytes());
}

fn to_a_peer_and_back(network: &Network, client_ip: &str, is_v4: bool) -> usize {
    let mut client = Client::anna(&network.client, client_ip);
    let peer = Peer::new(network, is_v4);
    let port = client.allocate();
    assert_eq!(client.bind(CHANNEL, peer.address), None);
    reach(&client, CHANNEL, &peer, port);

    let relay = |like: SocketAddr, port| {
        SocketAddr::new(if like.is_ipv4() { RELAY } else { RELAY6 }.parse().unwrap(), port)
    };
    let mut sent = 0;
    let me = client.address();
    for (number, payload) in
        payloads(relay(peer.address, port), peer.address, None).into_iter().enumerate()
    {
        client.send(CHANNEL, &payload, &[0xff, 1, 0xfe][..number % 4]);
        assert_eq!(peer.receive(), Some((port, payload)), "{client_ip} {is_v4} {number}");
        sent += 1;
    }
    for payload in payloads(relay(me, 3478), me, Some(CHANNEL)) {
        peer.send(port, &payload);
        assert_eq!(client.receive(), Some((CHANNEL, payload)));
        sent += 1;
    }
    sent
}

fn to_another_client(network: &Network, client_ip: &str, is_v4: bool) -> usize {
    let mut clients = [
        Client::anna(&network.client, client_ip),
        Client::anna(&network.peer, if is_v4 { RELAY } else { RELAY6 }),
    ];
    let ports = clients.each_mut().map(Client::allocate);
    // They know each other by a family of the relay's that may be neither one's own.
    let relayed: IpAddr = RELAY6.parse().unwrap();
    assert_eq!(clients[0].bind(CHANNEL, SocketAddr::new(relayed, ports[1])), None);
    assert_eq!(clients[1].bind(CHANNEL + 1, SocketAddr::new(relayed, ports[0])), None);

    let [client, other] = &clients;
    let them = other.address();
    let relay = SocketAddr::new(if is_v4 { RELAY } else { RELAY6 }.parse().unwrap(), 3478);
    let mut sent = 0;
    for payload in payloads(relay, them, Some(CHANNEL + 1)) {
        client.send(CHANNEL, &payload, &[]);
        assert_eq!(other.receive(), Some((CHANNEL + 1, payload)));
        sent += 1;
    }
    sent
}
