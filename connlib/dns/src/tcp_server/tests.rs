use smoltcp::wire::IpEndpoint;

use super::*;

/// The apps: the other end of the packets.
struct Apps {
    interface: Interface,
    wire: Wire,
    sockets: SocketSet<'static>,
    server: TcpServer,
    now: Instant,
    /// The packets between them, one by one, that get lost.
    lose: fn(usize) -> bool,
    packets: usize,
    /// The last packet that opened a connection.
    syn: Vec<u8>,
}

const SENTINEL: &str = "100.100.111.1";
const SENTINEL_V6: &str = "fd00:2021:1111:8000:100:100:111:0";

fn apps() -> Apps {
    let now = Instant::now();
    let mut server = TcpServer::new(1, now);
    server.set_addresses([SENTINEL, SENTINEL_V6].map(|a| a.parse().unwrap()), now);
    let mut wire = Wire::default();
    let config = Config::new(HardwareAddress::Ip);
    let mut interface = Interface::new(config, &mut wire, SmolInstant::ZERO);
    interface.update_ip_addrs(|addresses| {
        for address in ["100.64.0.1/32", "fd00:2021:1111::1/128"] {
            addresses.push(address.parse().unwrap()).unwrap();
        }
    });
    interface.set_any_ip(true);
    let sockets = SocketSet::new(Vec::new());
    Apps { interface, wire, sockets, server, now, lose: |_| false, packets: 0, syn: Vec::new() }
}

impl Apps {
    fn connect(&mut self, sentinel: &str, port: u16) -> SocketHandle {
        let buffer = || SocketBuffer::new(vec![0; 16 * 1024]);
        let mut socket = Socket::new(buffer(), buffer());
        let remote = IpEndpoint::new(sentinel.parse::<IpAddr>().unwrap().into(), PORT);
        socket.connect(self.interface.context(), remote, port).unwrap();
        let handle = self.sockets.add(socket);
        self.run();
        handle
    }

    fn socket(&mut self, handle: SocketHandle) -> &mut Socket<'static> {
        self.sockets.get_mut(handle)
    }

    fn write(&mut self, handle: SocketHandle, bytes: &[u8]) {
        assert_eq!(self.socket(handle).send_slice(bytes), Ok(bytes.len()));
        self.run();
    }

    /// Reads everything there is, for as long as more comes.
    fn read(&mut self, handle: SocketHandle) -> Vec<u8> {
        let mut all = Vec::new();
        while self.socket(handle).can_recv() {
            let piece = self.socket(handle).recv(|bytes| (bytes.len(), bytes.to_vec()));
            all.extend(piece.unwrap());
            self.run();
        }
        all
    }

    /// Carries packets to and fro until none is left.
    fn run(&mut self) {
        loop {
            let time = self.server.time(self.now);
            while self.interface.poll(time, &mut self.wire, &mut self.sockets)
                == PollResult::SocketStateChanged
            {}
            let to_server: Vec<_> = self.wire.sent.drain(..).collect();
            let to_apps: Vec<_> = self.server.wire.sent.drain(..).collect();
            if to_server.is_empty() && to_apps.is_empty() {
                return;
            }
            for packet in to_server {
                self.packets += 1;
                if packet[0] >> 4 == 4 && packet[33] & 0x12 == 0x02 {
                    self.syn.clone_from(&packet);
                }
                if !(self.lose)(self.packets) {
                    self.server.handle_packet(&packet, self.now);
                }
            }
            for packet in to_apps {
                self.packets += 1;
                if !(self.lose)(self.packets) {
                    self.wire.received = Some(packet);
                    self.interface.poll(time, &mut self.wire, &mut self.sockets);
                }
            }
        }
    }

    /// Lets time pass, waking the server when it wants to be woken.
    fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        while self.now < end {
            let due = match self.server.poll_output() {
                TcpOutput::Timeout(due) => due.unwrap_or(end),
                other => panic!("still queued: {other:?}"),
            };
            assert!(due > self.now, "no busy loop");
            self.now = due.min(self.now + Duration::from_millis(200)).min(end);
            self.server.handle_timeout(self.now);
            self.run();
        }
    }

    fn queries(&mut self) -> Vec<(Client, Vec<u8>)> {
        let mut queries = Vec::new();
        loop {
            match self.server.poll_output() {
                TcpOutput::Query { client, message } => queries.push((client, message)),
                TcpOutput::Packet(_) => panic!("packets are all carried"),
                TcpOutput::Timeout(_) => return queries,
            }
        }
    }

    fn answer(&mut self, to: Client, message: &[u8]) {
        self.server.answer(to, message, self.now);
        self.run();
    }

    fn state(&mut self, handle: SocketHandle) -> State {
        self.socket(handle).state()
    }
}

fn framed(messages: &[&[u8]]) -> Vec<u8> {
    messages.iter().flat_map(|m| frame(m).unwrap()).collect()
}

#[test]
fn queries_are_answered_in_any_order_over_both_families() {
    for (sentinel, source) in [(SENTINEL, "100.64.0.1"), (SENTINEL_V6, "fd00:2021:1111::1")] {
        let mut apps = apps();
        let app = apps.connect(sentinel, 40_000);
        apps.write(app, &framed(&[b"first", b"second"]));
        let [(client, first), (same_client, second)] = apps.queries().try_into().unwrap();
        assert_eq!((first.as_slice(), second.as_slice()), (&b"first"[..], &b"second"[..]));
        assert_eq!(client, same_client);
        assert_eq!(client.server, SocketAddr::new(sentinel.parse().unwrap(), 53));
        assert_eq!(client.source, SocketAddr::new(source.parse().unwrap(), 40_000));

        apps.answer(client, b"to the second");
        apps.answer(client, b"to the first");
        assert_eq!(apps.read(app), framed(&[b"to the second", b"to the first"]));
    }
}

#[test]
fn the_longest_answers_arrive_whole_and_in_time_despite_losses() {
    let mut apps = apps();
    // One in eight, without a rhythm that the windows could fall into.
    apps.lose = |n| (n as u32).wrapping_mul(0x9e37_79b9) >> 29 == 3;
    let app = apps.connect(SENTINEL, 40_000);
    apps.pass(Duration::from_secs(3));
    apps.write(app, &framed(&[&[5; MAX_QUERY_LEN]]));
    let mut queries = apps.queries();
    while queries.is_empty() {
        apps.pass(Duration::from_millis(10));
        queries = apps.queries();
    }
    let [(client, query)] = queries.try_into().unwrap();
    assert_eq!(query, [5; MAX_QUERY_LEN]);
    let answer: Vec<u8> = (0..65_535u32).map(|n| (n % 251) as u8).collect();
    apps.answer(client, &answer);
    let mut received = Vec::new();
    for _ in 0..20 * 60 {
        apps.pass(Duration::from_millis(50));
        received.extend(apps.read(app));
    }
    assert!(received == framed(&[&answer]), "{} bytes", received.len());
    assert_eq!(apps.server.unsent, 0);
}

#[test]
fn an_app_that_has_nothing_more_to_ask_still_gets_its_answer() {
    let mut apps = apps();
    let app = apps.connect(SENTINEL, 40_000);
    apps.write(app, &framed(&[b"query"]));
    apps.socket(app).close();
    apps.run();
    let [(client, _)] = apps.queries().try_into().unwrap();
    apps.answer(client, b"answer");
    assert_eq!(apps.read(app), framed(&[b"answer"]));
    apps.pass(Duration::from_millis(100));
    assert_eq!(apps.state(app), State::TimeWait);
    assert!(apps.server.connections.is_empty());
    apps.answer(client, b"too late");
}

#[test]
fn a_repeated_syn_opens_nothing() {
    let mut apps = apps();
    let first = apps.connect(SENTINEL, 40_000);
    let second = apps.connect(SENTINEL, 40_001);
    // Now the listener takes the place of the first, before the second.
    apps.socket(first).abort();
    apps.run();
    let third = apps.connect(SENTINEL, 40_002);
    apps.socket(third).abort();
    apps.run();
    let app = apps.connect(SENTINEL, 40_003);
    let sockets = apps.server.sockets.iter().count();
    for socket in [second, app] {
        apps.write(socket, &framed(&[b"query"]));
    }
    let syn = apps.syn.clone();
    apps.server.handle_packet(&syn, apps.now);
    apps.run();
    assert_eq!(apps.server.sockets.iter().count(), sockets);
    for (client, _) in apps.queries() {
        apps.answer(client, b"answer");
    }
    for socket in [second, app] {
        assert_eq!(apps.read(socket), framed(&[b"answer"]));
    }
}

#[test]
fn only_tcp_to_the_sentinels_is_answered() {
    let mut apps = apps();
    let app = apps.connect("100.100.111.9", 40_000);
    assert_eq!(apps.state(app), State::SynSent, "silence");
    let before = apps.packets;
    let mut udp = vec![0; 40];
    udp[0] = 0x45;
    udp[9] = 17;
    udp[16..20].copy_from_slice(&[100, 100, 111, 1]);
    apps.server.handle_packet(&udp, apps.now);
    apps.run();
    assert_eq!(apps.packets, before);
}

#[test]
fn connections_to_former_sentinels_are_reset() {
    let mut apps = apps();
    let old = apps.connect(SENTINEL, 40_000);
    let kept = apps.connect(SENTINEL_V6, 40_001);
    apps.server.set_addresses([SENTINEL_V6.parse().unwrap()], apps.now);
    apps.run();
    assert_eq!(apps.state(old), State::Closed);
    assert_eq!(apps.state(kept), State::Established);
}

#[test]
fn what_is_no_query_ends_the_connection() {
    let mut apps = apps();
    let too_long = apps.connect(SENTINEL, 40_000);
    apps.write(too_long, &[0xff, 0xff, 1]);
    assert_eq!(apps.state(too_long), State::Closed);

    let rubbish = apps.connect(SENTINEL, 40_001);
    apps.write(rubbish, &framed(&[b"rubbish"]));
    let [(client, _)] = apps.queries().try_into().unwrap();
    apps.server.reject(client, apps.now);
    apps.run();
    assert_eq!(apps.state(rubbish), State::Closed);
    assert!(apps.server.connections.is_empty());
}

#[test]
fn the_quietest_of_too_many_connections_goes() {
    let mut apps = apps();
    let mut all = Vec::new();
    for port in 0..200 {
        apps.now += Duration::from_millis(10);
        all.push(apps.connect(SENTINEL, 40_000 + port));
        // The first one is never quiet.
        apps.write(all[0], &framed(&[b"query"]));
        for (client, message) in apps.queries() {
            apps.answer(client, &message);
        }
        apps.read(all[0]);
    }
    assert!(apps.server.sockets.iter().count() <= MAX_CONNECTIONS);
    assert_eq!(apps.state(all[0]), State::Established);
    assert_eq!(apps.state(all[1]), State::Closed);
    for recent in &all[150..] {
        assert_eq!(apps.state(*recent), State::Established);
    }
}

#[test]
fn quiet_connections_end() {
    let mut apps = apps();
    let quiet = apps.connect(SENTINEL, 40_000);
    let waiting = apps.connect(SENTINEL, 40_001);
    apps.write(waiting, &framed(&[b"query"]));
    apps.queries();
    apps.pass(IDLE_TIMEOUT - Duration::from_secs(1));
    assert_eq!(apps.state(quiet), State::Established);
    apps.pass(Duration::from_secs(2));
    assert_eq!(apps.state(quiet), State::CloseWait);
    apps.socket(quiet).close();
    apps.run();
    assert_eq!(apps.state(quiet), State::Closed);
    // This one does not close in return.
    assert_eq!(apps.state(waiting), State::CloseWait);
    apps.pass(IDLE_TIMEOUT + Duration::from_secs(1));
    assert_eq!(apps.state(waiting), State::Closed);
    assert!(apps.server.connections.is_empty());
    assert_eq!(apps.server.poll_output(), TcpOutput::Timeout(None));
}

#[test]
fn an_app_that_does_not_read_is_asked_for_no_more() {
    let mut apps = apps();
    let app = apps.connect(SENTINEL, 40_000);
    let many: Vec<&[u8]> = vec![b"query"; 100];
    apps.write(app, &framed(&many));
    let queries = apps.queries();
    assert_eq!(queries.len(), MAX_PIPELINED);
    for (client, _) in queries {
        apps.answer(client, &[0; 60_000]);
    }
    assert_eq!(apps.queries(), []);
    assert!(apps.server.unsent <= MAX_UNSENT);
    // It may go on once it has read.
    assert_eq!(apps.read(app).len(), MAX_PIPELINED * 60_002);
    assert_eq!(apps.queries().len(), MAX_PIPELINED);
    assert_eq!(apps.server.unsent, 0);
}

#[test]
fn answers_that_nobody_takes_are_bounded() {
    let mut apps = apps();
    let connected: Vec<_> = (0..3).map(|port| apps.connect(SENTINEL, 40_000 + port)).collect();
    for app in &connected {
        let many: Vec<&[u8]> = vec![b"query"; MAX_PIPELINED];
        apps.write(*app, &framed(&many));
    }
    for (client, _) in apps.queries() {
        apps.answer(client, &[0; 60_000]);
        assert!(apps.server.unsent <= MAX_UNSENT);
    }
    let states: Vec<_> = connected.iter().map(|app| apps.state(*app)).collect();
    assert_eq!(states, [State::Established, State::Closed, State::Closed]);
    let unsent: usize = apps.server.connections.values().map(|c| c.unsent.len()).sum();
    assert!(unsent > 0);
    assert_eq!(apps.server.unsent, unsent, "what the others left has no share in it");
}

#[test]
fn any_packets_are_survived() {
    use rand_chacha::ChaCha20Rng;
    use rand_chacha::rand_core::{Rng, SeedableRng};

    let rng = &mut ChaCha20Rng::seed_from_u64(1);
    let mut apps = apps();
    let mut recorded = Vec::new();
    let app = apps.connect(SENTINEL, 40_000);
    apps.write(app, &framed(&[b"query"]));
    for sentinel in [SENTINEL, SENTINEL_V6] {
        let port = 40_000 + recorded.len() as u16;
        let buffer = || SocketBuffer::new(vec![0; 1024]);
        let mut socket = Socket::new(buffer(), buffer());
        let remote = IpEndpoint::new(sentinel.parse::<IpAddr>().unwrap().into(), PORT);
        socket.connect(apps.interface.context(), remote, port).unwrap();
        apps.sockets.add(socket);
        let time = apps.server.time(apps.now);
        apps.interface.poll(time, &mut apps.wire, &mut apps.sockets);
        recorded.extend(apps.wire.sent.drain(..));
    }
    assert_eq!(recorded.len(), 2);
    for _ in 0..20_000 {
        let mut packet = recorded[rng.next_u32() as usize % recorded.len()].clone();
        // Mostly behind the addresses, so that it gets in.
        let headers = if packet[0] >> 4 == 4 { 20 } else { 40 };
        for _ in 0..rng.next_u32() % 4 {
            let start = if rng.next_u32() % 8 == 0 { 0 } else { headers };
            let at = start + rng.next_u32() as usize % (packet.len() - start);
            packet[at] = rng.next_u32() as u8;
        }
        if rng.next_u32() % 16 == 0 {
            packet.truncate(rng.next_u32() as usize % packet.len());
        }
        if rng.next_u32() % 4 == 0 {
            packet.extend([0, 3, b'a', b'b', b'c']);
        }
        apps.now += Duration::from_millis(u64::from(rng.next_u32() % 50));
        apps.server.handle_timeout(apps.now);
        apps.server.handle_packet(&packet, apps.now);
        loop {
            match apps.server.poll_output() {
                TcpOutput::Query { client, message } => {
                    apps.server.answer(client, &message, apps.now);
                }
                TcpOutput::Packet(_) => {}
                TcpOutput::Timeout(due) => {
                    assert!(due.is_none_or(|due| due > apps.now), "no busy loop");
                    break;
                }
            }
        }
        assert!(apps.server.sockets.iter().count() <= MAX_CONNECTIONS);
    }
    assert!(apps.server.connections.len() > 1, "packets got through");
}
