use connlib_packet::control;
use connlib_tunnel::{AuthorizeError, GatewayConfig, GatewayEvent, Gone};

use crate::lab::{Lab, NAMES, NETWORK, names, network, tcp, udp};

const CLIENT: &str = "100.64.0.1:5000";

#[test]
fn the_host_learns_of_the_path() {
    let lab = Lab::connected();
    let client = lab.clients[0].id;
    let path = lab.gateway.path(client).unwrap();
    assert_eq!(path.remote, crate::lab::socket("192.0.2.1:52625"));
    assert!(lab.events.contains(&GatewayEvent::ClientConnected { client, path }));
}

#[test]
fn a_client_that_says_goodbye_is_forgotten() {
    let mut lab = Lab::connected();
    let client = lab.clients[0].id;
    lab.tell(0, &control::Event::Goodbye);
    assert_eq!(lab.take_gone(), [(client, Gone::Goodbye)]);
    assert_eq!(lab.gateway.clients(), 0);
    assert!(lab.gateway.path(client).is_none());
    assert_eq!(lab.take_messages(0), [], "a goodbye is not answered");
    lab.send(0, &[udp("100.64.0.1:5000", "10.1.0.1:53")]);
    assert_eq!(lab.take_tun(), [] as [Vec<u8>; 0]);
}

#[test]
fn a_client_that_was_away_goes_on_where_it_was() {
    let mut lab = Lab::connected();
    lab.announce(0, NAMES, "web.test", 1);
    lab.resolve("web.test", &["192.168.0.1"]);
    let (sent, left) = (tcp(CLIENT, "100.96.0.1:80", b""), tcp(CLIENT, "192.168.0.1:80", b""));
    let (came, received) = (tcp("192.168.0.1:80", CLIENT, b""), tcp("100.96.0.1:80", CLIENT, b""));
    lab.send(0, std::slice::from_ref(&sent));
    lab.arrive(&came);
    lab.lose(0);
    lab.clients[0].is_offline = false;
    lab.take_tun();

    // The portal signals the keys anew; the client says nothing about names.
    lab.authorize(0, NETWORK, network());
    lab.connect(0);
    lab.take_packets(0);
    lab.arrive(&came);
    assert_eq!(lab.take_packets(0), [received]);
    lab.send(0, &[sent]);
    assert_eq!(lab.take_tun(), [left]);
}

#[test]
fn an_address_belongs_to_the_client_that_the_portal_named_last() {
    let mut lab = Lab::new(2);
    lab.authorize(0, NETWORK, network());
    lab.connect(0);
    let first = lab.clients[0].id;
    lab.clients[1].ipv4 = lab.clients[0].ipv4;
    lab.authorize(1, NETWORK, network());
    lab.connect(1);
    assert_eq!(lab.take_gone(), [(first, Gone::AddressReassigned)]);
    assert_eq!(lab.take_messages(0), [control::Event::Goodbye]);
    let answer = udp("10.1.0.1:53", "100.64.0.1:5000");
    lab.arrive(&answer);
    assert_eq!(lab.take_packets(1), [answer]);
}

#[test]
fn a_client_gets_new_addresses() {
    let mut lab = Lab::connected();
    lab.clients[0].ipv4 = std::net::Ipv4Addr::new(100, 64, 0, 77);
    lab.authorize(0, NETWORK, network());
    let packet = udp("100.64.0.77:5000", "10.1.0.1:53");
    lab.send(0, &[packet.clone(), udp("100.64.0.1:5000", "10.1.0.1:53")]);
    assert_eq!(lab.take_tun(), [packet]);
    let answer = udp("10.1.0.1:53", "100.64.0.77:5000");
    lab.arrive(&answer);
    lab.arrive(&udp("10.1.0.1:53", "100.64.0.1:5000"));
    assert!(lab.take_packets(0).ends_with(&[answer]));
}

#[test]
fn one_without_a_link_makes_room_for_another() {
    let config = GatewayConfig { max_clients: 2, ..GatewayConfig::default() };
    let mut lab = Lab::with_config(3, config);
    for client in [0, 1] {
        lab.authorize(client, NETWORK, network());
        lab.connect(client);
    }
    let refused = lab.try_authorize(2, NETWORK, network(), None);
    assert_eq!(refused, Err(AuthorizeError::TooManyClients));
    // One that is there already is not a new one.
    lab.authorize(1, NAMES, names());

    lab.lose(0);
    lab.authorize(2, NETWORK, network());
    assert_eq!(lab.gateway.clients(), 2);
    lab.connect(2);
    let packet = udp("100.64.0.3:5000", "10.1.0.1:53");
    lab.send(2, std::slice::from_ref(&packet));
    assert_eq!(lab.take_tun(), [packet]);
}

#[test]
fn all_clients_hear_of_the_end() {
    let mut lab = Lab::new(3);
    for client in 0..3 {
        lab.authorize(client, NETWORK, network());
        lab.connect(client);
    }
    lab.gateway.shutdown(lab.now);
    lab.settle();
    for client in 0..3 {
        assert_eq!(lab.take_messages(client), [control::Event::Goodbye]);
    }
    assert_eq!(lab.gateway.clients(), 0);
}
