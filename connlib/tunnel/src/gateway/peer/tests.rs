use super::super::authorization::Target;
use super::super::packets::{error, headers, ip, ping, sctp, tcp, udp};
use super::*;
use crate::filter::{Filter, Filters};
use crate::ids::ClientId;
use connlib_packet::{EchoKind, Offload, TcpFlags, Unreachable};
use std::net::SocketAddr;

const NAMES: ResourceId = ResourceId::from_u128(1);
const NETWORK: ResourceId = ResourceId::from_u128(2);
const PROXIES: [&str; 8] = [
    "100.96.0.1",
    "100.96.0.2",
    "100.96.0.3",
    "100.96.0.4",
    "fd00:2021:1111:8000::1",
    "fd00:2021:1111:8000::2",
    "fd00:2021:1111:8000::3",
    "fd00:2021:1111:8000::4",
];

/// A client 100.64.0.1 / fd00:2021:1111::1 of the gateway 100.64.0.2 / fd00:2021:1111::2 that may reach `*.test`,
/// by HTTPS and ping, and 10.1.0.0/16 and fd02::/16, by anything.
struct Lab {
    peer: Peer,
    own: Option<Interface>,
    now: Instant,
}

/// What became of a packet.
#[derive(Debug, PartialEq, Eq)]
enum Fate {
    Passed(Vec<u8>),
    Answered(IcmpError),
    Dropped(DropReason),
}

impl Lab {
    fn new() -> Self {
        let now = Instant::now();
        let client = AuthorizedClient {
            id: ClientId::from_u128(1),
            public_key: [0; 32],
            ipv4: Ipv4Addr::new(100, 64, 0, 1),
            ipv6: "fd00:2021:1111::1".parse().unwrap(),
        };
        let mut peer = Peer::new(client, now);
        let names = Target::Dns("*.test".parse().unwrap());
        let filters = [Filter::Tcp { first: 443, last: 443 }, Filter::Icmp];
        peer.policy.insert(NAMES, names, filters.into_iter().collect(), None);
        let network = |text: &str| Target::Cidr(text.parse().unwrap());
        peer.policy.insert(NETWORK, network("10.1.0.0/16"), Filters::ALL, None);
        let v6 = ResourceId::from_u128(3);
        peer.policy.insert(v6, network("fd02::/16"), Filters::ALL, None);
        let own = Interface {
            ipv4: Ipv4Addr::new(100, 64, 0, 2),
            ipv6: "fd00:2021:1111::2".parse().unwrap(),
        };
        Self { peer, own: Some(own), now }
    }

    fn announce(&mut self, name: &str, real: &[&str]) -> bool {
        let real: Vec<_> = real.iter().map(|real| ip(real)).collect();
        self.peer.install(NAMES, &name.parse().unwrap(), &PROXIES.map(ip), &real)
    }

    fn send(&mut self, packet: &[u8]) -> Fate {
        let mut bytes = packet.to_vec();
        let mut packet = TunPacket::parse(&mut bytes, Offload::NONE).unwrap();
        match self.peer.admit(&headers(packet.bytes()), self.own, 100, self.now) {
            Ok(decision) => {
                assert!(self.apply(&mut packet, decision, Direction::Outgoing));
                Fate::Passed(bytes)
            }
            Err(Refusal { answer: Some(answer), .. }) => Fate::Answered(answer),
            Err(Refusal { reason, answer: None }) => Fate::Dropped(reason),
        }
    }

    fn receive(&mut self, packet: &[u8]) -> Fate {
        let mut bytes = packet.to_vec();
        let mut packet = TunPacket::parse(&mut bytes, Offload::NONE).unwrap();
        match self.peer.release(&mut packet, self.own, self.now) {
            Ok(decision) => {
                assert!(self.apply(&mut packet, decision, Direction::Incoming));
                Fate::Passed(bytes)
            }
            Err(reason) => Fate::Dropped(reason),
        }
    }

    fn apply(
        &mut self,
        packet: &mut TunPacket<'_>,
        decision: Decision,
        direction: Direction,
    ) -> bool {
        let applied = match decision {
            Decision::Pass => true,
            Decision::Translate(id) => self.peer.translate(packet, id, direction, self.now),
        };
        assert!(packet.is_intact(), "{packet:?}");
        applied
    }
}

const SYN: TcpFlags = TcpFlags::SYN;
const PROHIBITED: Fate = Fate::Answered(IcmpError::Unreachable(Unreachable::Prohibited));
const NO_NETWORK: Fate = Fate::Answered(IcmpError::Unreachable(Unreachable::Network));
const NO_ADDRESS: Fate = Fate::Answered(IcmpError::Unreachable(Unreachable::Host));

#[test]
fn what_a_client_may_send() {
    let mut lab = Lab::new();
    lab.announce("web.test", &["192.168.0.1"]);
    let pass = |packet: Vec<u8>| (packet.clone(), Fate::Passed(packet));
    let ping_request = |to| ping("100.64.0.1", to, EchoKind::Request, 1);
    let icmp_error = IcmpError::prohibited();
    let about = udp("10.1.0.1:53", "100.64.0.1:5000");
    let cases = [
        pass(udp("100.64.0.1:5000", "10.1.0.1:53")),
        pass(udp("[fd00:2021:1111::1]:5000", "[fd02::1]:53")),
        pass(sctp("100.64.0.1", "10.1.0.1")),
        (udp("100.64.0.1:5000", "10.2.0.1:53"), PROHIBITED),
        (udp("[fd00:2021:1111::1]:5000", "[fd03::1]:53"), PROHIBITED),
        // Somebody else's address.
        (udp("100.64.0.3:5000", "10.1.0.1:53"), PROHIBITED),
        (udp("192.168.0.9:5000", "10.1.0.1:53"), PROHIBITED),
        // The gateway itself.
        pass(udp("100.64.0.1:5000", "100.64.0.2:53535")),
        pass(tcp("[fd00:2021:1111::1]:5000", "[fd00:2021:1111::2]:53535", SYN)),
        pass(ping_request("100.64.0.2")),
        (tcp("100.64.0.1:5000", "100.64.0.2:22", SYN), PROHIBITED),
        (sctp("100.64.0.1", "100.64.0.2"), PROHIBITED),
        // Other clients.
        (udp("100.64.0.1:5000", "100.64.0.3:53"), PROHIBITED),
        (ping_request("100.64.0.3"), PROHIBITED),
        (udp("100.64.0.1:5000", "224.0.0.251:5353"), Fate::Dropped(DropReason::Multicast)),
        (error(icmp_error, &about, "100.64.0.1"), Fate::Dropped(DropReason::IcmpError)),
        // Names.
        (tcp("100.64.0.1:5000", "100.96.0.1:80", SYN), PROHIBITED),
        (udp("100.64.0.1:5000", "100.96.0.1:443"), PROHIBITED),
        (tcp("100.64.0.1:5000", "100.96.0.9:443", SYN), NO_NETWORK),
        (tcp("[fd00:2021:1111::1]:5000", "[fd00:2021:1111:8000::1]:443", SYN), NO_ADDRESS),
        (udp("100.64.0.1:5000", "100.100.111.1:53"), NO_NETWORK),
    ];
    for (packet, fate) in cases {
        assert_eq!(lab.send(&packet), fate, "{:?}", headers(&packet));
    }
}

#[test]
fn what_a_client_may_receive() {
    let mut lab = Lab::new();
    let pass = |packet: Vec<u8>| (packet.clone(), Fate::Passed(packet));
    let dropped = |packet, reason| (packet, Fate::Dropped(reason));
    let cases = [
        pass(udp("10.1.0.1:53", "100.64.0.1:5000")),
        pass(sctp("10.1.0.1", "100.64.0.1")),
        pass(tcp("100.64.0.2:22", "100.64.0.1:5000", SYN)),
        dropped(udp("10.2.0.1:53", "100.64.0.1:5000"), DropReason::NotAllowed),
        dropped(udp("100.64.0.3:53", "100.64.0.1:5000"), DropReason::ForeignSource),
        dropped(udp("100.96.0.1:53", "100.64.0.1:5000"), DropReason::ForeignSource),
        dropped(sctp("10.2.0.1", "100.64.0.1"), DropReason::NotAllowed),
    ];
    for (packet, fate) in cases {
        assert_eq!(lab.receive(&packet), fate, "{:?}", headers(&packet));
    }
}

#[test]
fn names_are_translated_there_and_back() {
    let mut lab = Lab::new();
    assert!(lab.announce("web.test", &["192.168.0.1", "fd09::1"]));
    for (client, proxy, real) in [
        ("100.64.0.1", "100.96.0.3", "192.168.0.1"),
        ("fd00:2021:1111::1", "fd00:2021:1111:8000::2", "fd09::1"),
    ] {
        let text = |(address, port)| SocketAddr::new(ip(address), port).to_string();
        let packet =
            |from: (&'static str, u16), to: (&'static str, u16)| tcp(&text(from), &text(to), SYN);
        let there = lab.send(&packet((client, 5000), (proxy, 443)));
        assert_eq!(there, Fate::Passed(packet((client, 5000), (real, 443))));
        let back = lab.receive(&packet((real, 443), (client, 5000)));
        assert_eq!(back, Fate::Passed(packet((proxy, 443), (client, 5000))));

        let request = |to| ping(client, to, EchoKind::Request, 9);
        assert_eq!(lab.send(&request(proxy)), Fate::Passed(request(real)));
        let reply = |from| ping(from, client, EchoKind::Reply, 9);
        assert_eq!(lab.receive(&reply(real)), Fate::Passed(reply(proxy)));

        // A second proxy address of the same server: another port and identifier outside.
        let other = if client.contains(':') { PROXIES[7] } else { PROXIES[0] };
        let there = lab.send(&packet((client, 5000), (other, 443)));
        assert_eq!(there, Fate::Passed(packet((client, 5001), (real, 443))));
        let back = lab.receive(&packet((real, 443), (client, 5001)));
        assert_eq!(back, Fate::Passed(packet((other, 443), (client, 5000))));
        let there = lab.send(&request(other));
        assert_eq!(there, Fate::Passed(ping(client, real, EchoKind::Request, 10)));
        let back = lab.receive(&ping(real, client, EchoKind::Reply, 10));
        assert_eq!(back, Fate::Passed(reply(other)));
    }
}

#[test]
fn errors_about_translated_packets_are_translated() {
    let mut lab = Lab::new();
    lab.announce("web.test", &["192.168.0.1", "fd09::1"]);
    let too_big = IcmpError::PacketTooBig { mtu: 1200 };
    for (client, proxies, real, router) in [
        ("100.64.0.1", &PROXIES[..2], "192.168.0.1", "192.168.7.7"),
        ("[fd00:2021:1111::1]", &PROXIES[4..6], "fd09::1", "fd09::7"),
    ] {
        for proxy in proxies {
            let to = SocketAddr::new(ip(proxy), 443).to_string();
            let sent = tcp(&format!("{client}:5000"), &to, SYN);
            let Fate::Passed(left) = lab.send(&sent) else { panic!("not sent") };
            assert_eq!(headers(&left).destination(), ip(real));
            for from in [router, real, "100.64.0.2"] {
                if ip(from).is_ipv4() != ip(real).is_ipv4() {
                    continue;
                }
                let received = lab.receive(&error(too_big, &left, from));
                let expected = error(too_big, &sent, proxy);
                assert_eq!(received, Fate::Passed(expected), "{proxy} {from}");
            }
        }
        let request = ping("100.64.0.1", PROXIES[0], EchoKind::Request, 9);
        let Fate::Passed(left) = lab.send(&request) else { panic!("not sent") };
        let received = lab.receive(&error(too_big, &left, "192.168.7.7"));
        assert_eq!(received, Fate::Passed(error(too_big, &request, PROXIES[0])));
    }
}

#[test]
fn errors_about_other_packets_pass_if_the_client_may_have_sent_them() {
    let mut lab = Lab::new();
    let unreachable = IcmpError::Unreachable(Unreachable::Port);
    for (about, from, passes) in [
        (udp("100.64.0.1:5000", "10.1.0.1:53"), "10.1.0.1", true),
        (udp("100.64.0.1:5000", "10.1.0.1:53"), "172.16.0.1", true),
        (udp("100.64.0.1:5000", "10.1.0.1:53"), "100.64.0.2", true),
        (udp("100.64.0.1:5000", "100.64.0.2:53535"), "100.64.0.2", true),
        (udp("100.64.0.1:5000", "10.1.0.1:53"), "100.64.0.3", false),
        (udp("100.64.0.1:5000", "10.2.0.1:53"), "10.2.0.1", false),
        (udp("100.64.0.1:5000", "100.96.0.1:53"), "10.2.0.1", false),
        (udp("10.1.0.9:5000", "10.1.0.1:53"), "10.1.0.1", false),
    ] {
        let mut packet = error(unreachable, &about, from);
        let mut rewritten = TunPacket::parse(&mut packet, Offload::NONE).unwrap();
        rewritten.set_destination(ip("100.64.0.1")).unwrap();
        let passed = matches!(lab.receive(&packet), Fate::Passed(same) if same == packet);
        assert_eq!(passed, passes, "{:?} from {from}", headers(&about));
    }
}

#[test]
fn a_session_ends_with_its_authorization() {
    let mut lab = Lab::new();
    lab.announce("web.test", &["192.168.0.1"]);
    let request = tcp("100.64.0.1:5000", "100.96.0.1:443", SYN);
    let Fate::Passed(left) = lab.send(&request) else { panic!("not sent") };
    let answer = tcp("192.168.0.1:443", "100.64.0.1:5000", SYN);
    assert!(matches!(lab.receive(&answer), Fate::Passed(_)));
    lab.peer.policy.remove(NAMES);
    let dropped = Fate::Dropped(DropReason::NotAllowed);
    assert_eq!(lab.send(&request), PROHIBITED);
    assert_eq!(lab.receive(&answer), dropped);
    let about = error(IcmpError::TimeExceeded, &left, "192.168.0.1");
    assert_eq!(lab.receive(&about), dropped);
}

#[test]
fn what_comes_after_a_session_is_not_from_the_network() {
    let mut lab = Lab::new();
    lab.announce("web.test", &["10.1.0.1"]);
    assert!(matches!(lab.send(&tcp("100.64.0.1:5000", "100.96.0.1:443", SYN)), Fate::Passed(_)));
    lab.now += Duration::from_secs(60);
    let late = tcp("10.1.0.1:443", "100.64.0.1:5000", TcpFlags::ACK);
    assert_eq!(lab.receive(&late), Fate::Dropped(DropReason::ExpiredSession));
    // Unless the client talks to that address directly now.
    let direct = tcp("100.64.0.1:5000", "10.1.0.1:443", SYN);
    assert_eq!(lab.send(&direct), Fate::Passed(direct));
    assert_eq!(lab.receive(&late), Fate::Passed(late));
}

#[test]
fn renumbering_ends_sessions() {
    let mut lab = Lab::new();
    lab.announce("web.test", &["192.168.0.1"]);
    lab.send(&tcp("100.64.0.1:5000", "100.96.0.1:443", SYN));
    assert!(lab.announce("other.test", &["192.168.0.2"]));
    let answer = tcp("192.168.0.1:443", "100.64.0.1:5000", SYN);
    assert_eq!(lab.receive(&answer), Fate::Dropped(DropReason::NotAllowed));
    let Fate::Passed(left) = lab.send(&tcp("100.64.0.1:5000", "100.96.0.1:443", SYN)) else {
        panic!("not sent")
    };
    assert_eq!(headers(&left).destination(), ip("192.168.0.2"));
}

#[test]
fn a_name_of_no_resource_is_not_installed() {
    let mut lab = Lab::new();
    assert!(!lab.announce("web.example", &["192.168.0.1"]));
    lab.peer.policy.remove(NAMES);
    assert!(!lab.announce("web.test", &["192.168.0.1"]));
}
