//! The translation table of one client: proxy addresses to real ones and back.
//!
//! A flow is told from others by its ports at both ends, so that connections from one port of the client's to several
//! ports of one server don't share a fate. Towards the resource the client's port is kept where possible; where two proxy
//! addresses stand for one real address, another one may be needed to tell the answers apart.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use connlib_packet::TcpFlags;

use super::session::{Direction, Session, Tuple};

/// How long a session that has ended is remembered, so that what comes late is not taken for something else.
const LINGER: Duration = Duration::from_secs(120);

/// Forgetting is only about memory and may wait: this long at least.
const SWEEP_INTERVAL: Duration = Duration::from_secs(10);

/// Sessions that are looked at to find one that may go.
const EVICTION_SAMPLE: usize = 16;

/// The next higher ports are tried first, then some from all over the range.
const NEIGHBOURS: u16 = 8;
const ATTEMPTS: u16 = 64;
const FIRST_UNPRIVILEGED_PORT: u16 = 1024;

/// The sessions of one client.
#[derive(Debug)]
pub(super) struct Nat {
    slots: Vec<Option<Session>>,
    free: Vec<u32>,
    by_inside: HashMap<Tuple, u32>,
    by_outside: HashMap<Tuple, u32>,
    serial: u32,
    /// Where the search for a session that may go starts.
    hand: usize,
    sweep_at: Option<Instant>,
}

/// A session that a decision refers to; it may be gone by the time that the decision is used again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct SessionId {
    slot: u32,
    serial: u32,
}

/// What is put into a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Rewrite {
    /// The address of the other end.
    pub(super) remote: IpAddr,
    /// The client's port or echo identifier.
    pub(super) port: u16,
}

/// What a packet to the client belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Owner {
    /// A session, and how the client knows it.
    Session(SessionId, Tuple),
    /// A session that has ended not long ago.
    Ended,
    /// No session.
    Nobody,
}

/// All ports towards this destination seem to be in use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct NoFreePort;

impl Nat {
    pub(super) fn new() -> Self {
        Self {
            slots: Vec::new(),
            free: Vec::new(),
            by_inside: HashMap::new(),
            by_outside: HashMap::new(),
            serial: 0,
            hand: 0,
            sweep_at: None,
        }
    }

    /// The session of a packet of the client's; a new one to the address `real` if there is none. At most `capacity`
    /// sessions are kept: the ones that would end first make room.
    pub(super) fn open(
        &mut self,
        inside: Tuple,
        real: IpAddr,
        flags: Option<TcpFlags>,
        capacity: usize,
        now: Instant,
    ) -> Result<SessionId, NoFreePort> {
        if let Some(&slot) = self.by_inside.get(&inside)
            && let Some(session) = &self.slots[slot as usize]
        {
            let is_over = session.has_ended(now) || session.is_succeeded_by(flags);
            if !is_over {
                return Ok(SessionId { slot, serial: session.serial });
            }
            self.remove(slot);
        }
        while self.len() >= capacity.max(1) {
            self.evict();
        }
        let outside = self.free_tuple(Tuple { remote: real, ..inside }, now)?;
        Ok(self.insert(inside, outside, now))
    }

    /// The session of a packet to the client, or of one that an ICMP error quotes. Errors neither prolong nor end a
    /// session (RFC 5382 REQ-10, RFC 5508 REQ-6).
    pub(super) fn owner(&self, outside: Tuple, now: Instant) -> Owner {
        let Some(slot) = self.by_outside.get(&outside) else { return Owner::Nobody };
        match &self.slots[*slot as usize] {
            Some(session) if !session.has_ended(now) => {
                Owner::Session(SessionId { slot: *slot, serial: session.serial }, session.inside)
            }
            Some(_) => Owner::Ended,
            None => Owner::Nobody,
        }
    }

    /// The client has a flow of its own that looks like this from outside: a session that has ended is no longer
    /// remembered.
    pub(super) fn make_way(&mut self, outside: Tuple, now: Instant) {
        if self.owner(outside, now) == Owner::Ended
            && let Some(&slot) = self.by_outside.get(&outside)
        {
            self.remove(slot);
        }
    }

    /// A packet of this session passes: what to put into it. `None`: the session is no more, or the packet begins a new
    /// one in its place.
    #[inline]
    pub(super) fn pass(
        &mut self,
        id: SessionId,
        direction: Direction,
        flags: Option<TcpFlags>,
        now: Instant,
    ) -> Option<Rewrite> {
        let session = self.slots.get_mut(id.slot as usize)?.as_mut()?;
        if session.serial != id.serial || session.has_ended(now) {
            return None;
        }
        if direction == Direction::Outgoing && session.is_succeeded_by(flags) {
            return None;
        }
        session.pass(direction, flags, now);
        Some(match direction {
            Direction::Outgoing => {
                Rewrite { remote: session.outside.remote, port: session.outside.port }
            }
            Direction::Incoming => {
                Rewrite { remote: session.inside.remote, port: session.inside.port }
            }
        })
    }

    /// How many sessions there are, those that have ended but are remembered included.
    pub(super) fn len(&self) -> usize {
        self.by_inside.len()
    }

    /// Ends and forgets all sessions.
    pub(super) fn clear(&mut self) {
        // The serial goes on, so that nothing decided before is taken for a new session.
        *self = Self { serial: self.serial, ..Self::new() };
    }

    /// When [`handle_timeout`](Self::handle_timeout) has something to forget.
    pub(super) fn next_timeout(&self) -> Option<Instant> {
        self.sweep_at
    }

    /// Forgets what ended long ago.
    pub(super) fn handle_timeout(&mut self, now: Instant) {
        if self.sweep_at.is_none_or(|at| now < at) {
            return;
        }
        let mut next: Option<Instant> = None;
        for slot in 0..self.slots.len() {
            let Some(session) = &self.slots[slot] else { continue };
            let forget_at = session.ends_at() + LINGER;
            if forget_at <= now {
                self.remove(slot as u32);
            } else {
                next = Some(next.map_or(forget_at, |next| next.min(forget_at)));
            }
        }
        if next.is_none() {
            self.clear();
        }
        self.sweep_at = next.map(|next| next.max(now + SWEEP_INTERVAL));
    }

    fn insert(&mut self, inside: Tuple, outside: Tuple, now: Instant) -> SessionId {
        self.serial = self.serial.wrapping_add(1);
        let session = Session::new(inside, outside, self.serial, now);
        let forget_at = session.ends_at() + LINGER;
        self.sweep_at = Some(self.sweep_at.map_or(forget_at, |at| at.min(forget_at)));
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slots.push(None);
            self.slots.len() as u32 - 1
        });
        self.slots[slot as usize] = Some(session);
        self.by_inside.insert(inside, slot);
        self.by_outside.insert(outside, slot);
        SessionId { slot, serial: self.serial }
    }

    fn remove(&mut self, slot: u32) {
        if let Some(session) = self.slots[slot as usize].take() {
            self.by_inside.remove(&session.inside);
            self.by_outside.remove(&session.outside);
            self.free.push(slot);
        }
    }

    /// Removes, of a sample, the session that would end first: one that has ended, was never answered, or has been idle
    /// for long. INVARIANT: there is at least one.
    fn evict(&mut self) {
        let len = self.slots.len();
        let sample = (0..len)
            .map(|offset| (self.hand + offset) % len)
            .filter_map(|slot| Some((self.slots[slot].as_ref()?.ends_at(), slot)))
            .take(EVICTION_SAMPLE);
        let (mut victim, mut last) = (None, self.hand);
        for (ends_at, slot) in sample {
            last = slot;
            if victim.is_none_or(|(earliest, _)| ends_at < earliest) {
                victim = Some((ends_at, slot));
            }
        }
        self.hand = last + 1;
        if let Some((_, slot)) = victim {
            self.remove(slot as u32);
        }
    }

    /// The wanted tuple, or one with another port that no session uses.
    fn free_tuple(&mut self, wanted: Tuple, now: Instant) -> Result<Tuple, NoFreePort> {
        for attempt in 0..ATTEMPTS {
            let tuple = Tuple { port: candidate(wanted.port, attempt), ..wanted };
            match self.by_outside.get(&tuple).copied() {
                None => return Ok(tuple),
                Some(slot) => {
                    let has_ended =
                        self.slots[slot as usize].as_ref().is_none_or(|s| s.has_ended(now));
                    if has_ended {
                        self.remove(slot);
                        return Ok(tuple);
                    }
                }
            }
        }
        Err(NoFreePort)
    }
}

/// The port to try at the given attempt: privileged if the wanted one is (RFC 4787 REQ-3), and not 0.
fn candidate(wanted: u16, attempt: u16) -> u16 {
    let port = match attempt {
        0 => return wanted,
        1..NEIGHBOURS => wanted.wrapping_add(attempt),
        _ => wanted.wrapping_add(attempt.wrapping_mul(0x9e37)),
    };
    let is_privileged = wanted < FIRST_UNPRIVILEGED_PORT;
    match port < FIRST_UNPRIVILEGED_PORT {
        _ if is_privileged => (port % FIRST_UNPRIVILEGED_PORT).max(1),
        true => port + FIRST_UNPRIVILEGED_PORT,
        false => port,
    }
}

#[cfg(test)]
mod tests {
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
            let outside =
                lab.send(&udp(&format!("100.64.0.1:{port}"), &format!("{proxy}:53")), &real);
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
        assert_eq!(opened, usize::from(ATTEMPTS));
    }
}
