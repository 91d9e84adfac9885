//! Somebody else's TURN client, over UDP and over a stream.

use std::time::Duration;

use connlib_relay::server::{FromClient, ToPeer, message_len};
use stun_types::TransportType;
use turn_client_proto::api::{
    Transmit, TurnClientApi, TurnConfig, TurnEvent, TurnPollRet, TurnRecvRet,
};
use turn_client_proto::prelude::DelayedTransmitBuild;
use turn_client_proto::stun::Instant;
use turn_client_proto::tcp::TurnClientTcp;
use turn_client_proto::udp::TurnClientUdp;
use turn_types::{AddressFamily, TurnCredentials};

use crate::support::*;

const PEER: &str = "192.0.2.9:900";
const PEER6: &str = "[2001:db8:9::9]:900";

/// The client, its way to the relay and what reached peers.
struct World<C> {
    relay: Relay,
    client: C,
    me: Client,
    start: std::time::Instant,
    at_peers: Vec<(String, Vec<u8>)>,
}

impl<C: TurnClientApi> World<C> {
    fn new(me: Client, make: impl FnOnce(&Client, TurnConfig) -> C) -> Self {
        let relay = Relay::new(config());
        let mut config = TurnConfig::new(TurnCredentials::new(&me.username, &me.password));
        config.add_address_family(AddressFamily::IPV6);
        let (client, start) = (make(&me, config), relay.now.instant);
        Self { relay, client, me, start, at_peers: Vec::new() }
    }

    fn now(&self) -> Instant {
        Instant::from_nanos((self.relay.now.instant - self.start).as_nanos() as i64)
    }

    /// Carries messages both ways for a second: it paces its requests.
    fn run(&mut self) {
        for _ in 0..20 {
            let TurnPollRet::WaitUntil(_) = self.client.poll(self.now()) else {
                panic!("it gave up")
            };
            while let Some(transmit) = self.client.poll_transmit(self.now()) {
                self.relay_receives(&transmit.data);
            }
            while let Some(event) = self.client.poll_event() {
                let has_failed = matches!(
                    event,
                    TurnEvent::AllocationCreateFailed(_)
                        | TurnEvent::PermissionCreateFailed(..)
                        | TurnEvent::ChannelCreateFailed(..)
                );
                assert!(!has_failed, "{event:?} at {:?}", self.now());
            }
            self.relay.pass(Duration::from_millis(50));
        }
    }

    fn relay_receives(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let is_stream = self.me.tuple.transport.is_stream();
            let len = if is_stream { message_len(bytes).unwrap().unwrap() } else { bytes.len() };
            let (message, rest) = bytes.split_at(len);
            let received = self.relay.server.handle_client(self.me.tuple, message, self.relay.now);
            if let FromClient::Forward(ToPeer { peer, payload, .. }) = received {
                self.at_peers.push((peer.to_string(), payload.to_vec()));
            }
            bytes = rest;
        }
        self.relay.run();
        for (_, bytes) in std::mem::take(&mut self.relay.sent) {
            assert!(matches!(self.client_receives(bytes), TurnRecvRet::Handled));
        }
    }

    fn client_receives(&mut self, bytes: Vec<u8>) -> TurnRecvRet<Vec<u8>> {
        let (from, to) = (self.me.tuple.local, self.me.tuple.remote);
        let transport = self.client.transport();
        self.client.recv(Transmit { data: bytes, transport, from, to }, self.now())
    }

    fn send(&mut self, peer: &str, payload: &[u8]) {
        let now = self.now();
        let transmit = self.client.send_to(TransportType::Udp, address(peer), payload, now);
        let bytes = transmit.unwrap().unwrap().data.build();
        self.relay_receives(&bytes);
        assert_eq!(self.at_peers.pop().unwrap(), (peer.to_owned(), payload.to_vec()));
    }

    fn receive(&mut self, peer: &str, payload: &[u8]) {
        let allocation = *self.relay.open_ports.keys().next().unwrap();
        let message = self.relay.receive(allocation, peer, payload).unwrap();
        let TurnRecvRet::PeerData(data) = self.client_receives(message) else { panic!("no data") };
        assert_eq!((data.peer, data.data()), (address(peer), payload));
    }

    fn pass(&mut self, time: Duration) {
        for _ in 0..time.as_secs() / 10 {
            self.run();
            self.relay.pass(Duration::from_secs(9));
        }
    }
}

fn is_served<C: TurnClientApi>(mut world: World<C>) {
    world.run();
    assert_eq!(world.client.relayed_addresses().count(), 2);
    for peer in [PEER, PEER6] {
        let now = world.now();
        world.client.create_permission(TransportType::Udp, address(peer).ip(), now).unwrap();
        world.run();
        world.send(peer, b"by an indication");
        world.receive(peer, b"by an indication");
    }
    // Only one channel: it gives each family the same numbers, which RFC 8656 §12 doesn't.
    let now = world.now();
    world.client.bind_channel(TransportType::Udp, address(PEER), now).unwrap();
    world.run();
    world.send(PEER, b"by a channel");
    world.receive(PEER, b"by a channel");
    assert_eq!(world.relay.channels.len(), 1);
    // It refreshes all by itself, and its nonce becomes stale on the way.
    world.pass(Duration::from_secs(2 * 60 * 60));
    assert_eq!((world.relay.server.allocations(), world.relay.channels.len()), (1, 1));
    // Of a length that needs no padding: over a stream, it leaves that out.
    world.send(PEER, b"as ever.");
    world.receive(PEER6, b"still");
    let now = world.now();
    world.client.delete(now).unwrap();
    while let Some(transmit) = world.client.poll_transmit(world.now()) {
        world.relay_receives(&transmit.data);
        world.relay.pass(Duration::from_millis(50));
    }
    assert_eq!(world.relay.server.allocations(), 0);
}

#[test]
fn a_client_over_udp_is_served() {
    let me = Client::alice("198.51.100.7:5000");
    is_served(World::new(me, |me, config| {
        TurnClientUdp::allocate(me.tuple.remote, me.tuple.local, config)
    }));
}

#[test]
fn a_client_over_a_stream_is_served() {
    let me = Client::stamped("198.51.100.7:5000", "a").over_stream(1);
    is_served(World::new(me, |me, config| {
        TurnClientTcp::allocate(me.tuple.remote, me.tuple.local, config)
    }));
}
