//! Who can be a peer, and by which number (RFC 8656 §9 to §12).

use std::time::Duration;

use connlib_relay::server::{Config, Drop};

use crate::support::*;

#[test]
fn a_channel_is_bound_to_one_peer() {
    let mut relay = Relay::new(config());
    let mut client = Client::stamped("198.51.100.7:5000", "a");
    let allocation = client.allocate(&mut relay);
    assert_eq!(client.bind(&mut relay, 0x4000, "192.0.2.9:9"), None);
    assert_eq!(client.bind(&mut relay, 0x4000, "192.0.2.9:9"), None);
    assert_eq!(client.bind(&mut relay, 0x4000, "192.0.2.9:10"), Some(400));
    assert_eq!(client.bind(&mut relay, 0x4001, "192.0.2.9:9"), Some(400));
    assert_eq!(client.bind(&mut relay, 0x3fff, "192.0.2.9:11"), Some(400));
    assert_eq!(client.bind(&mut relay, 0x8000, "192.0.2.9:11"), Some(400));
    assert_eq!(client.bind(&mut relay, 0x4001, "192.0.2.9:10"), None);
    assert_eq!(
        client.ask(&mut relay, CHANNEL_BIND, &[(CHANNEL_NUMBER, &[0x40, 2, 0, 0])]).code(),
        Some(400)
    );
    assert_eq!(
        client.ask(&mut relay, CHANNEL_BIND, &[(CHANNEL_NUMBER, &[0x40])]).code(),
        Some(400)
    );
    assert_eq!(client.ask(&mut relay, CHANNEL_BIND, &[]).code(), Some(400));

    // All that something beside the server has to know.
    let binding = relay.channels[1];
    assert_eq!((binding.client, binding.channel), (client.tuple, 0x4001));
    assert_eq!((binding.allocation, binding.port), (allocation, relay.open_ports[&allocation].0));
    assert_eq!(binding.peer, address("192.0.2.9:10"));
}

#[test]
fn permissions_are_given_all_or_none() {
    let mut relay = Relay::new(config());
    let mut client = Client::stamped("198.51.100.7:5000", "a");
    let allocation = client.allocate(&mut relay);
    assert_eq!(client.permit(&mut relay, &["192.0.2.9:9", "127.0.0.1:9"]), Some(403));
    assert_eq!(client.permit(&mut relay, &[]), Some(400));
    assert_eq!(
        client.ask(&mut relay, CREATE_PERMISSION, &[(0x12, &[0, 9, 0, 0])]).code(),
        Some(400)
    );
    assert_eq!(relay.receive(allocation, "192.0.2.9:9", b"x"), None);
    assert_eq!(client.permit(&mut relay, &["192.0.2.9:9", "192.0.2.10:9", "192.0.2.9:10"]), None);
    assert!(relay.receive(allocation, "192.0.2.9:9", b"x").is_some());
    assert!(relay.receive(allocation, "192.0.2.10:9", b"x").is_some());
}

#[test]
fn a_peer_has_a_family_of_the_allocation() {
    let mut relay = Relay::new(config());
    let mut client = Client::stamped("198.51.100.7:5000", "a");
    assert_eq!(client.ask(&mut relay, ALLOCATE, &[UDP]).code(), None);
    let allocation = *relay.open_ports.keys().next().unwrap();
    assert_eq!(client.bind(&mut relay, 0x4000, "[2001:db8:9::9]:9"), Some(443));
    assert_eq!(client.permit(&mut relay, &["[2001:db8:9::9]:9"]), Some(443));
    assert_eq!(relay.receive(allocation, "[2001:db8:9::9]:9", b"x"), None);
}

#[test]
fn nobody_reaches_this_machine_or_its_link() {
    let mut relay = Relay::new(config());
    let mut client = Client::stamped("198.51.100.7:5000", "a");
    client.allocate(&mut relay);
    for peer in [
        "127.0.0.1:9",
        "169.254.169.254:80",
        "224.0.0.1:9",
        "255.255.255.255:9",
        "0.0.0.0:9",
        "[::1]:9",
        "[::]:9",
        "[fe80::1]:9",
        "[ff02::1]:9",
        "[::ffff:127.0.0.1]:9",
    ] {
        assert_eq!(client.bind(&mut relay, 0x4000, peer), Some(403), "{peer}");
        assert_eq!(client.permit(&mut relay, &[peer]), Some(403), "{peer}");
    }
    // On the relay's own addresses, other allocations can be reached, services can't.
    for service in ["203.0.113.1:3478", "203.0.113.1:22", "[2001:db8::1]:443"] {
        assert_eq!(client.bind(&mut relay, 0x4000, service), Some(403), "{service}");
        assert_eq!(client.permit(&mut relay, &[service]), None);
        assert_eq!(
            relay.forward(&client, &client.send_indication(service, b"x")),
            None,
            "{service}"
        );
    }
    assert_eq!(client.bind(&mut relay, 0x4000, "203.0.113.1:50000"), None);
}

/// A local service may have a port in the range of allocations, and behind a translated address the worker sends to
/// loopback.
#[test]
fn on_the_relays_addresses_only_ports_that_are_open_are_reached() {
    let config = config();
    // Three workers. The others have but one port to give, which is the second one's.
    let others = Config { allocation_ports: 50_000..=50_000, ..config.clone() };
    let [mut relay, mut second, mut third] = [config, others.clone(), others].map(Relay::new);
    let mut client = Client::stamped("198.51.100.7:5000", "a");
    let mut peer = Client::stamped("198.51.100.8:5000", "b");
    client.allocate(&mut relay);
    let at = ["203.0.113.1:50000", "[2001:db8::1]:50000"];
    for (channel, at) in (0x4000..).zip(at) {
        assert_eq!(client.bind(&mut relay, channel, at), None);
    }
    let messages = [
        channel_data(0x4000, b"x"),
        channel_data(0x4001, b"x"),
        client.send_indication(at[0], b"x"),
        client.send_indication(at[1], b"x"),
    ];
    let mut reaches =
        || messages.each_ref().map(|message| relay.forward(&client, message).is_some());
    assert_eq!(reaches(), [false; 4]);
    peer.allocate(&mut second);
    assert_eq!(reaches(), [true; 4]);

    // The third one tries the port too. It stays the second one's, whatever becomes of that.
    third.opens_ports = false;
    let mut rival = Client::stamped("198.51.100.9:5000", "c").over_stream(1);
    assert_eq!(rival.ask(&mut third, REFRESH, &[]).code(), Some(437));
    assert_eq!(third.exchange(rival.tuple, &rival.signed(ALLOCATE, &[UDP])), None);
    third.server.handle_stream_closed(rival.tuple);
    third.run();
    assert_eq!((third.server.allocations(), reaches()), (0, [true; 4]));

    let end = (LIFETIME, &[0; 4][..]);
    let of_ipv6 = (REQUESTED_ADDRESS_FAMILY, &[2, 0, 0, 0][..]);
    assert_eq!(peer.ask(&mut second, REFRESH, &[of_ipv6, end]).code(), None);
    assert_eq!(reaches(), [true, false, true, false]);
    assert_eq!(peer.ask(&mut second, REFRESH, &[end]).code(), None);
    assert_eq!(reaches(), [false; 4]);
    assert_eq!(relay.server.counters().dropped(Drop::ForbiddenPeer), 10);
}

/// A container's bridge, a tunnel, a lease: they come while the relay runs.
#[test]
fn an_address_that_becomes_this_machines_is_no_peer_any_more() {
    let mut relay = Relay::new(config());
    let mut client = Client::stamped("198.51.100.7:5000", "a");
    let allocation = client.allocate(&mut relay);
    let reaches = |relay: &mut Relay, client: &Client, channel, peer: &str| {
        let by_channel = relay.forward(client, &channel_data(channel, b"x")).is_some();
        let by_indication = relay.forward(client, &client.send_indication(peer, b"x")).is_some();
        [by_channel, by_indication, relay.receive(allocation, peer, b"x").is_some()]
    };
    let (bridge, other) = ("172.17.0.1:53", "172.17.0.2:53");
    for (channel, peer) in [(0x4000, bridge), (0x4001, other)] {
        assert_eq!(client.bind(&mut relay, channel, peer), None);
        assert_eq!(reaches(&mut relay, &client, channel, peer), [true; 3]);
    }

    relay.server.handle_own_addresses(&[address(bridge).ip()]);
    relay.run();
    assert_eq!(reaches(&mut relay, &client, 0x4000, bridge), [false; 3]);
    assert_eq!(client.bind(&mut relay, 0x4000, bridge), Some(403));
    assert_eq!(client.permit(&mut relay, &[bridge]), Some(403));
    assert_eq!(reaches(&mut relay, &client, 0x4001, other), [true; 3]);
    assert_eq!(relay.channels.iter().map(|it| it.peer).collect::<Vec<_>>(), [address(other)]);
    assert_eq!(relay.server.channels(), 1);

    relay.server.handle_own_addresses(&[]);
    assert_eq!(client.bind(&mut relay, 0x4000, bridge), None);
    assert_eq!(reaches(&mut relay, &client, 0x4000, bridge), [true; 3]);
    // Nothing is left to end that has ended.
    relay.pass(Duration::from_secs(3600));
    assert_eq!((relay.server.allocations(), relay.server.channels()), (0, 0));
}

#[test]
fn two_clients_of_one_relay_reach_each_other() {
    let mut relay = Relay::new(config());
    let mut clients =
        [Client::stamped("198.51.100.7:5000", "a"), Client::stamped("[2001:db8:7::7]:5000", "b")];
    let ids = [clients[0].allocate(&mut relay), clients[1].allocate(&mut relay)];
    let relayed = ids.map(|id| format!("203.0.113.1:{}", relay.open_ports[&id].0));
    assert_eq!(clients[0].bind(&mut relay, 0x4000, &relayed[1]), None);
    assert_eq!(clients[1].bind(&mut relay, 0x4001, &relayed[0]), None);
    let message = channel_data(0x4000, b"hello");
    let to_peer = relay.forward(&clients[0], &message).unwrap();
    assert_eq!(to_peer.peer, address(&relayed[1]));
    // It leaves from the one's relayed address and comes to the other's.
    let received = relay.receive(ids[1], &relayed[0], to_peer.payload).unwrap();
    assert_eq!(received, channel_data(0x4001, b"hello"));
}
