use super::super::packets::{headers, ip, ping, tcp, udp};
use super::*;
use connlib_packet::EchoKind;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha20Rng;

const PROXY: &str = "100.96.0.1";
const OTHER_PROXY: &str = "100.96.0.2";
const REAL: &str = "10.0.0.1";
const CAPACITY: usize = 100;

/// A table with its clock.
struct Lab {
    nat: Nat,
    now: Instant,
}

impl Lab {
    fn new() -> Self {
        Self { nat: Nat::new(), now: Instant::now() }
    }

    fn wait(&mut self, seconds: u64) {
        self.now += Duration::from_secs(seconds);
        self.nat.handle_timeout(self.now);
    }

    /// The client sends a packet; what leaves.
    fn send(&mut self, packet: &[u8], real: &str) -> Rewrite {
        let headers = headers(packet);
        let (tuple, flags) = (Tuple::of_outgoing(&headers).unwrap(), headers.tcp_flags());
        let id = self.nat.open(tuple, ip(real), flags, CAPACITY, self.now).unwrap();
        self.nat.pass(id, Direction::Outgoing, flags, self.now).unwrap()
    }

    /// The resource sends a packet; what the client gets.
    fn receive(&mut self, packet: &[u8]) -> Result<Rewrite, Owner> {
        let headers = headers(packet);
        match self.nat.owner(Tuple::of_incoming(&headers).unwrap(), self.now) {
            Owner::Session(id, inside) => {
                let flags = headers.tcp_flags();
                let rewrite = self.nat.pass(id, Direction::Incoming, flags, self.now).unwrap();
                assert_eq!((inside.remote, inside.port), (rewrite.remote, rewrite.port));
                Ok(rewrite)
            }
            other => Err(other),
        }
    }
}

fn rewrite(remote: &str, port: u16) -> Rewrite {
    Rewrite { remote: ip(remote), port }
}

fn client_udp() -> Vec<u8> {
    udp("100.64.0.1:1000", "100.96.0.1:53")
}

fn server_udp() -> Vec<u8> {
    udp("10.0.0.1:53", "100.64.0.1:1000")
}

fn client_tcp(flags: TcpFlags) -> Vec<u8> {
    tcp("100.64.0.1:1000", "100.96.0.1:443", flags)
}

fn server_tcp(flags: TcpFlags) -> Vec<u8> {
    tcp("10.0.0.1:443", "100.64.0.1:1000", flags)
}

#[test]
fn there_and_back() {
    let mut lab = Lab::new();
    assert_eq!(lab.send(&client_udp(), REAL), rewrite(REAL, 1000));
    assert_eq!(lab.receive(&server_udp()), Ok(rewrite(PROXY, 1000)));

    assert_eq!(lab.send(&client_tcp(TcpFlags::SYN), REAL), rewrite(REAL, 1000));
    assert_eq!(lab.receive(&server_tcp(TcpFlags::SYN)), Ok(rewrite(PROXY, 1000)));

    let request = ping("100.64.0.1", PROXY, EchoKind::Request, 7);
    assert_eq!(lab.send(&request, REAL), rewrite(REAL, 7));
    let reply = ping(REAL, "100.64.0.1", EchoKind::Reply, 7);
    assert_eq!(lab.receive(&reply), Ok(rewrite(PROXY, 7)));
    let unasked = headers(&ping(REAL, "100.64.0.1", EchoKind::Request, 7));
    assert_eq!(Tuple::of_incoming(&unasked), None);
}

#[test]
fn what_nobody_asked_for_belongs_to_nobody() {
    let mut lab = Lab::new();
    lab.send(&client_udp(), REAL);
    for (source, destination) in [
        ("10.0.0.2:53", "100.64.0.1:1000"),
        ("10.0.0.1:54", "100.64.0.1:1000"),
        ("10.0.0.1:53", "100.64.0.1:1001"),
    ] {
        assert_eq!(lab.receive(&udp(source, destination)), Err(Owner::Nobody));
    }
    let other_protocol = tcp("10.0.0.1:53", "100.64.0.1:1000", TcpFlags::ACK);
    assert_eq!(lab.receive(&other_protocol), Err(Owner::Nobody));
}

#[test]
fn two_names_of_one_server_are_told_apart_by_port() {
    let mut lab = Lab::new();
    let first = lab.send(&udp("100.64.0.1:1000", "100.96.0.1:53"), REAL);
    let second = lab.send(&udp("100.64.0.1:1000", "100.96.0.2:53"), REAL);
    assert_eq!(first, rewrite(REAL, 1000));
    assert_eq!(second, rewrite(REAL, 1001));
    assert_eq!(lab.receive(&server_udp()), Ok(rewrite(PROXY, 1000)));
    let to_second = udp("10.0.0.1:53", "100.64.0.1:1001");
    assert_eq!(lab.receive(&to_second), Ok(rewrite(OTHER_PROXY, 1000)));
}

#[test]
fn connections_to_two_ports_of_a_server_do_not_share_a_fate() {
    let mut lab = Lab::new();
    let other = tcp("100.64.0.1:1000", "100.96.0.1:80", TcpFlags::SYN);
    lab.send(&client_tcp(TcpFlags::SYN), REAL);
    lab.receive(&server_tcp(TcpFlags::SYN)).unwrap();
    assert_eq!(lab.send(&other, REAL), rewrite(REAL, 1000));
    lab.send(&client_tcp(TcpFlags::RST), REAL);
    lab.wait(30);
    assert_eq!(lab.receive(&server_tcp(TcpFlags::ACK)), Err(Owner::Ended));
    let answer = tcp("10.0.0.1:80", "100.64.0.1:1000", TcpFlags::SYN);
    assert_eq!(lab.receive(&answer), Ok(rewrite(PROXY, 1000)));
}

#[test]
fn sessions_end_after_their_time() {
    let ping = || ping("100.64.0.1", PROXY, EchoKind::Request, 7);
    let pong = || super::super::packets::ping(REAL, "100.64.0.1", EchoKind::Reply, 7);
    let ack = TcpFlags::ACK;
    for (name, outgoing, incoming, confirmed, seconds) in [
        ("udp, unanswered", client_udp(), server_udp(), false, 60),
        ("udp", client_udp(), server_udp(), true, 120),
        ("icmp, unanswered", ping(), pong(), false, 60),
        ("icmp", ping(), pong(), true, 120),
        ("tcp, unanswered", client_tcp(TcpFlags::SYN), server_tcp(ack), false, 60),
        ("tcp", client_tcp(ack), server_tcp(ack), true, 7440),
    ] {
        for (wait, lives) in [(seconds - 1, true), (seconds, false)] {
            let mut lab = Lab::new();
            lab.send(&outgoing, REAL);
            if confirmed {
                lab.receive(&incoming).unwrap();
            }
            lab.wait(wait);
            assert_eq!(lab.receive(&incoming).is_ok(), lives, "{name} after {wait} s");
        }
    }
}

#[test]
fn packets_either_way_prolong_a_session() {
    let mut lab = Lab::new();
    lab.send(&client_udp(), REAL);
    for _ in 0..3 {
        lab.receive(&server_udp()).unwrap();
        lab.wait(119);
        lab.send(&client_udp(), REAL);
        lab.wait(119);
    }
    lab.receive(&server_udp()).unwrap();
}

#[test]
fn a_finished_connection_ends_soon() {
    let mut lab = Lab::new();
    lab.send(&client_tcp(TcpFlags::SYN), REAL);
    lab.receive(&server_tcp(TcpFlags::SYN | TcpFlags::ACK)).unwrap();
    lab.send(&client_tcp(TcpFlags::FIN | TcpFlags::ACK), REAL);
    lab.wait(1000);
    // Half-closed connections live.
    lab.receive(&server_tcp(TcpFlags::ACK)).unwrap();
    lab.receive(&server_tcp(TcpFlags::FIN | TcpFlags::ACK)).unwrap();
    lab.wait(4);
    lab.send(&client_tcp(TcpFlags::ACK), REAL);
    lab.wait(5);
    assert_eq!(lab.receive(&server_tcp(TcpFlags::ACK)), Err(Owner::Ended));
}

#[test]
fn what_has_ended_is_remembered_for_a_while_and_revived_by_the_client() {
    let mut lab = Lab::new();
    lab.send(&client_udp(), REAL);
    lab.wait(60);
    assert_eq!(lab.receive(&server_udp()), Err(Owner::Ended));
    assert_eq!(lab.send(&client_udp(), REAL), rewrite(REAL, 1000));
    assert_eq!(lab.receive(&server_udp()), Ok(rewrite(PROXY, 1000)));
    lab.wait(120 + 120);
    assert_eq!(lab.receive(&server_udp()), Err(Owner::Nobody));
    assert_eq!(lab.nat.len(), 0);
    assert_eq!(lab.nat.next_timeout(), None);
}

#[test]
fn a_session_keeps_its_address_and_a_new_one_takes_the_new_address() {
    let mut lab = Lab::new();
    lab.send(&client_tcp(TcpFlags::SYN), REAL);
    assert_eq!(lab.send(&client_tcp(TcpFlags::ACK), "10.0.0.9"), rewrite(REAL, 1000));
    lab.receive(&server_tcp(TcpFlags::RST)).unwrap();
    // The same port again: a new connection, although the old one is remembered.
    let again = lab.send(&client_tcp(TcpFlags::SYN), "10.0.0.9");
    assert_eq!(again, rewrite("10.0.0.9", 1000));
    assert_eq!(lab.receive(&server_tcp(TcpFlags::ACK)), Err(Owner::Nobody));
}

#[test]
fn a_decision_ends_with_its_session() {
    let mut lab = Lab::new();
    let headers = headers(&client_tcp(TcpFlags::SYN));
    let (tuple, flags) = (Tuple::of_outgoing(&headers).unwrap(), headers.tcp_flags());
    let open = |lab: &mut Lab| lab.nat.open(tuple, ip(REAL), flags, CAPACITY, lab.now).unwrap();
    let passes =
        |lab: &mut Lab, id| lab.nat.pass(id, Direction::Outgoing, flags, lab.now).is_some();
    let first = open(&mut lab);
    assert!(passes(&mut lab, first));
    lab.nat.clear();
    assert!(!passes(&mut lab, first));
    let second = open(&mut lab);
    assert!(passes(&mut lab, second) && !passes(&mut lab, first));
    lab.wait(60);
    assert!(!passes(&mut lab, second));
}

#[test]
fn a_direct_flow_is_not_taken_for_a_session_that_has_ended() {
    let mut lab = Lab::new();
    lab.send(&client_udp(), REAL);
    let direct = headers(&udp("100.64.0.1:1000", "10.0.0.1:53"));
    lab.nat.make_way(Tuple::of_outgoing(&direct).unwrap(), lab.now);
    assert!(lab.receive(&server_udp()).is_ok(), "it has not ended");
    lab.wait(120);
    lab.nat.make_way(Tuple::of_outgoing(&direct).unwrap(), lab.now);
    assert_eq!(lab.receive(&server_udp()), Err(Owner::Nobody));
}

#[test]
fn what_was_answered_outlasts_a_flood() {
    let mut lab = Lab::new();
    lab.send(&client_tcp(TcpFlags::SYN), REAL);
    lab.receive(&server_tcp(TcpFlags::SYN)).unwrap();
    for port in 2000..12_000 {
        lab.send(&udp(&format!("100.64.0.1:{port}"), "100.96.0.1:53"), REAL);
        assert!(lab.nat.len() <= CAPACITY);
    }
    lab.receive(&server_tcp(TcpFlags::ACK)).unwrap();
    let newest = udp("10.0.0.1:53", "100.64.0.1:11999");
    lab.receive(&newest).unwrap();
    assert!(lab.nat.slots.len() <= CAPACITY);
}

#[test]
fn no_two_sessions_look_the_same_from_outside() {
    let mut rng = ChaCha20Rng::seed_from_u64(1);
    let mut lab = Lab::new();
    for _ in 0..5000 {
        // Many proxies for few servers, and few ports: collisions are the rule.
        let port: u16 = [0, 1, 80, 1023, 1024, 40_000, 65_534, 65_535][rng.random_range(0..8)];
        let proxy = format!("100.96.0.{}", rng.random_range(0..20));
        let real = format!("10.0.0.{}", rng.random_range(0..2));
        let outside = lab.send(&udp(&format!("100.64.0.1:{port}"), &format!("{proxy}:53")), &real);
        let (from, to) = (outside.remote, outside.port);
        let answer = udp(&format!("{from}:53"), &format!("100.64.0.1:{to}"));
        assert_eq!(lab.receive(&answer), Ok(rewrite(&proxy, port)));

        assert_eq!(lab.nat.by_inside.len(), lab.nat.by_outside.len());
        for (slot, session) in lab.nat.slots.iter().enumerate() {
            let Some(session) = session else { continue };
            assert_eq!(lab.nat.by_inside[&session.inside] as usize, slot);
            assert_eq!(lab.nat.by_outside[&session.outside] as usize, slot);
        }
        if rng.random_range(0..100) == 0 {
            lab.wait(rng.random_range(0..300));
        }
    }
}

#[test]
fn gives_up_when_all_ports_are_taken() {
    let mut lab = Lab::new();
    let mut open = |proxy: u32| {
        let proxy = IpAddr::from(std::net::Ipv4Addr::from_bits(0x6460_0000 + proxy));
        let headers = headers(&udp("100.64.0.1:1000", &format!("{proxy}:53")));
        let tuple = Tuple::of_outgoing(&headers).unwrap();
        lab.nat.open(tuple, ip(REAL), None, usize::MAX, lab.now)
    };
    let opened = (0..1000).take_while(|proxy| open(*proxy).is_ok()).count();
    assert_eq!(opened, ports::candidates(1000).count());
}
