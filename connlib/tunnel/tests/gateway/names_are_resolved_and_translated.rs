use std::time::Duration;

use connlib_packet::TcpFlags;
use connlib_packet::control::{self, AssignedIps, NatStatus};
use connlib_tunnel::{ResolveError, ResourceId};

use crate::lab::{Lab, NAMES, names, proxy_v4, status, tcp_with, udp};

/// A lab whose client has announced `web.test`, and the host has resolved it to 192.168.0.1.
fn announced() -> Lab {
    let mut lab = Lab::connected();
    lab.announce(0, NAMES, "web.test", 1);
    lab.resolve("web.test", &["192.168.0.1"]);
    assert_eq!(lab.take_messages(0), [status("web.test", NatStatus::Active)]);
    lab
}

#[test]
fn packets_are_translated_there_and_back() {
    let mut lab = announced();
    lab.send(0, &[udp("100.64.0.1:5000", "100.96.0.2:80")]);
    assert_eq!(lab.take_tun(), [udp("100.64.0.1:5000", "192.168.0.1:80")]);
    lab.arrive(&udp("192.168.0.1:80", "100.64.0.1:5000"));
    assert_eq!(lab.take_packets(0), [udp("100.96.0.2:80", "100.64.0.1:5000")]);
}

#[test]
fn a_family_that_the_name_lacks_is_unreachable_at_once() {
    let mut lab = announced();
    lab.send(0, &[udp("[fd00:2021:1111::1]:5000", "[fd00:2021:1111:8000::1]:80")]);
    let [answer] = &lab.take_packets(0)[..] else { panic!("no answer") };
    // RFC 4443 §3.1: address unreachable.
    assert_eq!(answer[40..42], [1, 3]);
}

#[test]
fn a_name_without_addresses_is_active_and_unreachable() {
    let mut lab = Lab::connected();
    lab.announce(0, NAMES, "web.test", 1);
    lab.resolve("web.test", &[]);
    assert_eq!(lab.take_messages(0), [status("web.test", NatStatus::Active)]);
    lab.send(0, &[udp("100.64.0.1:5000", "100.96.0.2:80")]);
    assert_eq!(lab.take_packets(0)[0][20..22], [3, 0]);
}

#[test]
fn a_name_is_not_resolved_again_and_again() {
    let mut lab = announced();
    lab.announce(0, NAMES, "web.test", 1);
    assert_eq!(lab.take_messages(0), [status("web.test", NatStatus::Active)]);
    lab.wait(Duration::from_secs(31));
    lab.announce(0, NAMES, "web.test", 1);
    lab.announce(0, NAMES, "web.test", 1);
    assert_eq!(lab.requests.len(), 1);
    lab.send(0, &[udp("100.64.0.1:5000", "100.96.0.1:80")]);
    lab.resolve("web.test", &["192.168.0.2"]);
    assert_eq!(lab.take_messages(0), [status("web.test", NatStatus::Active)]);

    // What began before goes on where it was.
    lab.send(
        0,
        &[udp("100.64.0.1:5000", "100.96.0.1:80"), udp("100.64.0.1:5001", "100.96.0.1:80")],
    );
    let expected = ["192.168.0.1:80", "192.168.0.1:80", "192.168.0.2:80"];
    let ports = ["100.64.0.1:5000", "100.64.0.1:5000", "100.64.0.1:5001"];
    let expected: Vec<_> = ports.iter().zip(expected).map(|(from, to)| udp(from, to)).collect();
    assert_eq!(lab.take_tun(), expected);
}

#[test]
fn a_new_connection_from_the_same_port_goes_to_the_new_address() {
    let mut lab = announced();
    let connect = tcp_with("100.64.0.1:5000", "100.96.0.1:80", TcpFlags::SYN, b"");
    lab.send(0, std::slice::from_ref(&connect));
    lab.arrive(&tcp_with("192.168.0.1:80", "100.64.0.1:5000", TcpFlags::SYN, b""));
    lab.wait(Duration::from_secs(31));
    lab.announce(0, NAMES, "web.test", 1);
    lab.resolve("web.test", &["192.168.0.2"]);
    lab.send(0, &[tcp_with("100.64.0.1:5000", "100.96.0.1:80", TcpFlags::RST, b""), connect]);
    let destination = |packet: &Vec<u8>| packet[16..20].to_vec();
    let destinations: Vec<_> = lab.take_tun().iter().map(destination).collect();
    assert_eq!(destinations, [[192, 168, 0, 1], [192, 168, 0, 1], [192, 168, 0, 2]]);
}

#[test]
fn clients_that_ask_for_the_same_name_share_a_request() {
    let mut lab = Lab::new(2);
    for client in [0, 1] {
        lab.authorize(client, NAMES, names());
        lab.connect(client);
        lab.announce(client, NAMES, "web.test", 1 + client as u8 * 4);
    }
    lab.resolve("web.test", &["192.168.0.1"]);
    assert_eq!(lab.requests, []);
    for client in [0, 1] {
        assert_eq!(lab.take_messages(client), [status("web.test", NatStatus::Active)]);
    }
    lab.send(1, &[udp("100.64.0.2:5000", "100.96.0.5:80")]);
    assert_eq!(lab.take_tun(), [udp("100.64.0.2:5000", "192.168.0.1:80")]);
}

#[test]
fn what_cannot_be_is_inactive_at_once() {
    let mut lab = Lab::connected();
    let proxies = |numbers: &[u8]| numbers.iter().map(|n| proxy_v4(*n)).collect::<Vec<_>>();
    let mut foreign = proxies(&[1, 2, 3]);
    foreign.push("10.1.0.1".parse().unwrap());
    for (resource, domain, proxy_ips) in [
        (ResourceId::from_u128(99), "web.test", proxies(&[1, 2, 3, 4])),
        (NAMES, "web.example", proxies(&[1, 2, 3, 4])),
        (NAMES, "", proxies(&[1, 2, 3, 4])),
        (NAMES, "web.test", proxies(&[1, 1, 1, 1])),
        (NAMES, "web.test", foreign),
    ] {
        let resource = resource.0;
        let domain = domain.to_owned();
        let assigned = AssignedIps { resource, domain: domain.clone(), proxy_ips };
        lab.tell(0, &control::Event::AssignedIps(assigned));
        let [control::Event::DomainStatus(answer)] = &lab.take_messages(0)[..] else {
            panic!("no answer about {domain}")
        };
        assert_eq!(answer.status, NatStatus::Inactive);
        assert_eq!((&answer.domain, answer.resource), (&domain, resource));
        assert_eq!(lab.requests, []);
    }
}

#[test]
fn a_resolver_that_fails_or_stays_silent_makes_a_new_name_inactive() {
    let mut lab = Lab::connected();
    lab.announce(0, NAMES, "web.test", 1);
    let (id, _) = lab.requests.remove(0);
    lab.gateway.handle_resolved(id, Err(ResolveError), lab.now);
    lab.settle();
    assert_eq!(lab.take_messages(0), [status("web.test", NatStatus::Inactive)]);

    lab.announce(0, NAMES, "web.test", 1);
    lab.wait(Duration::from_millis(9_900));
    assert_eq!(lab.take_messages(0), []);
    lab.wait(Duration::from_millis(200));
    assert_eq!(lab.take_messages(0), [status("web.test", NatStatus::Inactive)]);
}

#[test]
fn a_resolver_that_fails_does_not_take_away_what_works() {
    let mut lab = announced();
    lab.wait(Duration::from_secs(31));
    lab.announce(0, NAMES, "web.test", 1);
    lab.wait(Duration::from_secs(10));
    assert_eq!(lab.take_messages(0), [status("web.test", NatStatus::Active)]);
    lab.send(0, &[udp("100.64.0.1:5000", "100.96.0.1:80")]);
    assert_eq!(lab.take_tun(), [udp("100.64.0.1:5000", "192.168.0.1:80")]);
}

#[test]
fn an_authorization_that_ends_while_its_name_is_resolved_makes_it_inactive() {
    let mut lab = Lab::connected();
    lab.announce(0, NAMES, "web.test", 1);
    let client = lab.clients[0].id;
    lab.gateway.reject_access(client, NAMES, lab.now);
    lab.resolve("web.test", &["192.168.0.1"]);
    assert_eq!(lab.take_messages(0), [status("web.test", NatStatus::Inactive)]);
}
