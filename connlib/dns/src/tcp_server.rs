//! DNS over TCP for apps: connections to the sentinels end here, in user space.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::{Duration, Instant};

use smoltcp::iface::{Config, Interface, PollResult, SocketHandle, SocketSet};
use smoltcp::phy::{Checksum, Device, DeviceCapabilities, Medium, RxToken, TxToken};
use smoltcp::socket::tcp::{Socket, SocketBuffer, State};
use smoltcp::time::{Duration as SmolDuration, Instant as SmolInstant};
use smoltcp::wire::HardwareAddress;

use crate::forwarder::Client;
use crate::framing::{Deframer, frame};
use crate::query::MAX_QUERY_LEN;
use crate::upstream::Transport;

const PORT: u16 = 53;
const MTU: usize = 1280;

/// Connections at the same time. When one more comes, the one that was quiet for longest goes.
const MAX_CONNECTIONS: usize = 64;
/// Queries of one connection that wait for their answers. Until then, no more are read.
const MAX_PIPELINED: usize = 16;
/// Bytes of all answers together that apps are too slow to take. The connection whose answer
/// would exceed this is broken off.
const MAX_UNSENT: usize = 1024 * 1024;
const RECEIVE_BUFFER: usize = 2 + MAX_QUERY_LEN;
const SEND_BUFFER: usize = 8 * 1024;

/// A connection without traffic for this long is closed (RFC 7766 §6.2.3), whether or not it has
/// been answered: whoever answers has given up before.
const IDLE_TIMEOUT: Duration = Duration::from_secs(30);

/// TCP for port 53 of all sentinels, on packets instead of sockets.
///
/// Packets to the sentinels go in; queries, and packets for the apps, come out of
/// [`TcpServer::poll_output`]. A query is handed to a [`crate::Resolver`], whose answer goes to
/// [`TcpServer::answer`]. Several queries of one connection may be under way at a time and are
/// answered as the answers come (RFC 7766 §6.2.1.1).
pub struct TcpServer {
    interface: Interface,
    wire: Wire,
    sockets: SocketSet<'static>,
    /// Takes the next connection. There is always one unless there are too many connections.
    listener: Option<SocketHandle>,
    connections: BTreeMap<Client, Connection>,
    addresses: BTreeSet<IpAddr>,
    unsent: usize,
    queries: VecDeque<TcpOutput>,
    due: Option<Instant>,
    epoch: Instant,
}

/// What there is to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TcpOutput {
    /// Give an IP packet to the app.
    Packet(Vec<u8>),
    /// Resolve a query. It needs an answer or [`TcpServer::reject`].
    Query {
        /// The connection that it came from.
        client: Client,
        /// The message, which can be anything.
        message: Vec<u8>,
    },
    /// Nothing until then, or until something comes in. `None` if there are no connections.
    Timeout(Option<Instant>),
}

struct Connection {
    socket: SocketHandle,
    deframer: Deframer,
    /// Queries that have not been answered.
    pending: usize,
    /// Answers that the send buffer has no room for.
    unsent: VecDeque<u8>,
    last_active: Instant,
}

impl TcpServer {
    /// Starts without addresses. `seed` should be random; sequence numbers come from it.
    pub fn new(seed: u64, now: Instant) -> Self {
        let mut wire = Wire::default();
        let mut config = Config::new(HardwareAddress::Ip);
        config.random_seed = seed;
        let mut interface = Interface::new(config, &mut wire, SmolInstant::ZERO);
        // Addresses are checked before packets get this far.
        interface.set_any_ip(true);
        let mut server = Self {
            interface,
            wire,
            sockets: SocketSet::new(Vec::new()),
            listener: None,
            connections: BTreeMap::new(),
            addresses: BTreeSet::new(),
            unsent: 0,
            queries: VecDeque::new(),
            due: None,
            epoch: now,
        };
        server.listen();
        server
    }

    /// Sets the sentinels. Connections to others are reset.
    pub fn set_addresses(&mut self, addresses: impl IntoIterator<Item = IpAddr>, now: Instant) {
        self.addresses = addresses.into_iter().collect();
        for (client, connection) in &self.connections {
            if !self.addresses.contains(&client.server.ip()) {
                self.sockets.get_mut::<Socket<'_>>(connection.socket).abort();
            }
        }
        self.settle(now);
    }

    /// Takes an IP packet that an app sent to port 53 of an address. It is ignored unless the
    /// address is one of the sentinels and the packet TCP. Checksums are not looked at: between
    /// the app and us, nothing corrupts, and some systems leave them out.
    pub fn handle_packet(&mut self, packet: &[u8], now: Instant) {
        if !tcp_destination(packet).is_some_and(|address| self.addresses.contains(&address)) {
            return;
        }
        let time = self.time(now);
        self.wire.received = Some(packet.to_vec());
        self.interface.poll_ingress_single(time, &mut self.wire, &mut self.sockets);
        self.accept(now);
        self.settle(now);
    }

    /// Sends the answer to a query of this connection, if it still stands.
    pub fn answer(&mut self, to: Client, message: &[u8], now: Instant) {
        let Some(connection) = self.connections.get_mut(&to) else { return };
        connection.pending = connection.pending.saturating_sub(1);
        connection.last_active = now;
        match frame(message) {
            Some(framed) if self.unsent + framed.len() <= MAX_UNSENT => {
                self.unsent += framed.len();
                connection.unsent.extend(framed);
            }
            _ => self.sockets.get_mut::<Socket<'_>>(connection.socket).abort(),
        }
        self.settle(now);
    }

    /// Resets a connection that sent something that is no query.
    pub fn reject(&mut self, client: Client, now: Instant) {
        if let Some(connection) = self.connections.get(&client) {
            self.sockets.get_mut::<Socket<'_>>(connection.socket).abort();
        }
        self.settle(now);
    }

    /// Does what is due: retransmissions, and the end of connections that are idle or dead.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.settle(now);
    }

    /// What is next to do. Call it until it returns [`TcpOutput::Timeout`].
    pub fn poll_output(&mut self) -> TcpOutput {
        if let Some(packet) = self.wire.sent.pop_front() {
            return TcpOutput::Packet(packet);
        }
        self.queries.pop_front().unwrap_or(TcpOutput::Timeout(self.due))
    }

    /// Adds a socket for the next connection, if there may be one.
    fn listen(&mut self) {
        if self.listener.is_some() || self.connections.len() >= MAX_CONNECTIONS {
            return;
        }
        let buffer = |size| SocketBuffer::new(vec![0; size]);
        let mut socket = Socket::new(buffer(RECEIVE_BUFFER), buffer(SEND_BUFFER));
        socket.set_nagle_enabled(false);
        // Only fails for port zero, or for a socket that is in use.
        if socket.listen(PORT).is_ok() {
            self.listener = Some(self.sockets.add(socket));
        }
    }

    /// Makes a connection of the listening socket if the last packet opened one.
    fn accept(&mut self, now: Instant) {
        let Some(handle) = self.listener else { return };
        let socket = self.sockets.get::<Socket<'_>>(handle);
        let (Some(local), Some(remote)) = (socket.local_endpoint(), socket.remote_endpoint())
        else {
            return;
        };
        self.listener = None;
        let client = Client {
            server: SocketAddr::new(local.addr.into(), local.port),
            source: SocketAddr::new(remote.addr.into(), remote.port),
            transport: Transport::Tcp,
        };
        if self.connections.contains_key(&client) {
            // A SYN that was repeated, and met the listener first. What it asks for is under way.
            self.sockets.remove(handle);
            return self.listen();
        }
        let connection = Connection {
            socket: handle,
            deframer: Deframer::new(MAX_QUERY_LEN),
            pending: 0,
            unsent: VecDeque::new(),
            last_active: now,
        };
        if self.connections.len() + 1 >= MAX_CONNECTIONS {
            let quietest = self.connections.values().min_by_key(|c| c.last_active);
            if let Some(connection) = quietest {
                self.sockets.get_mut::<Socket<'_>>(connection.socket).abort();
            }
        }
        self.connections.insert(client, connection);
    }

    /// Moves everything on as far as it goes, and notes when to come back.
    fn settle(&mut self, now: Instant) {
        let time = self.time(now);
        self.serve(now);
        while self.interface.poll_egress(time, &mut self.wire, &mut self.sockets)
            == PollResult::SocketStateChanged
        {
            self.serve(now);
        }
        self.remove_closed();
        self.listen();

        let protocol = self.interface.poll_at(time, &self.sockets);
        let protocol = protocol.map(|at| self.instant(at).max(now));
        let idle = self.connections.values().map(|c| c.last_active + IDLE_TIMEOUT).min();
        self.due = protocol.into_iter().chain(idle).min();
    }

    /// Takes queries out of connections and puts answers into them.
    fn serve(&mut self, now: Instant) {
        for (client, connection) in &mut self.connections {
            let socket = self.sockets.get_mut::<Socket<'_>>(connection.socket);
            if now >= connection.last_active + IDLE_TIMEOUT {
                // The second time, the other end has not closed in return.
                let is_closing = !socket.may_send();
                if is_closing {
                    socket.abort()
                } else {
                    socket.close()
                }
                connection.last_active = now;
                continue;
            }
            while connection.pending < MAX_PIPELINED && connection.unsent.is_empty() {
                match connection.receive(socket) {
                    Received::Message(message) => {
                        connection.pending += 1;
                        connection.last_active = now;
                        self.queries.push_back(TcpOutput::Query { client: *client, message });
                    }
                    Received::Nothing => break,
                    Received::Rubbish => {
                        socket.abort();
                        break;
                    }
                }
            }
            let sent = connection.send(socket);
            if sent > 0 {
                self.unsent -= sent;
                connection.last_active = now;
            }
            let is_done = connection.pending == 0 && connection.unsent.is_empty();
            if socket.state() == State::CloseWait && is_done {
                socket.close();
            }
        }
    }

    fn remove_closed(&mut self) {
        let Self { connections, sockets, unsent, .. } = self;
        connections.retain(|_, connection| {
            let state = sockets.get::<Socket<'_>>(connection.socket).state();
            let is_over = matches!(state, State::Closed | State::TimeWait);
            if is_over {
                sockets.remove(connection.socket);
                *unsent -= connection.unsent.len();
            }
            !is_over
        });
    }

    fn time(&self, now: Instant) -> SmolInstant {
        SmolInstant::ZERO + smol_duration(now.saturating_duration_since(self.epoch))
    }

    fn instant(&self, time: SmolInstant) -> Instant {
        self.epoch + Duration::from_micros(time.total_micros().try_into().unwrap_or(0))
    }
}

enum Received {
    Message(Vec<u8>),
    Nothing,
    Rubbish,
}

impl Connection {
    fn receive(&mut self, socket: &mut Socket<'_>) -> Received {
        // The buffer is a ring: a message may come in two pieces.
        while socket.can_recv() {
            let result = socket.recv(|bytes| {
                let mut rest = &*bytes;
                let message = self.deframer.next_message(&mut rest);
                (bytes.len() - rest.len(), message)
            });
            match result {
                Ok(Ok(Some(message))) => return Received::Message(message),
                Ok(Ok(None)) => {}
                Ok(Err(_)) => return Received::Rubbish,
                Err(_) => return Received::Nothing,
            }
        }
        Received::Nothing
    }

    /// Fills the send buffer; returns how many bytes went into it.
    fn send(&mut self, socket: &mut Socket<'_>) -> usize {
        let mut total = 0;
        while socket.can_send() && !self.unsent.is_empty() {
            let (piece, _) = self.unsent.as_slices();
            let Ok(sent) = socket.send_slice(piece) else { break };
            self.unsent.drain(..sent);
            total += sent;
        }
        total
    }
}

impl fmt::Debug for TcpServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TcpServer")
            .field("addresses", &self.addresses)
            .field("connections", &self.connections.len())
            .finish_non_exhaustive()
    }
}

/// Where a TCP packet goes; `None` for other packets.
fn tcp_destination(packet: &[u8]) -> Option<IpAddr> {
    const TCP: u8 = 6;
    match packet.first()? >> 4 {
        4 if *packet.get(9)? == TCP => {
            let octets: [u8; 4] = packet.get(16..20)?.try_into().ok()?;
            Some(Ipv4Addr::from(octets).into())
        }
        6 if *packet.get(6)? == TCP => {
            let octets: [u8; 16] = packet.get(24..40)?.try_into().ok()?;
            Some(Ipv6Addr::from(octets).into())
        }
        _ => None,
    }
}

fn smol_duration(duration: Duration) -> SmolDuration {
    SmolDuration::from_micros(duration.as_micros().try_into().unwrap_or(u64::MAX))
}

/// The network as `smoltcp` sees it: one packet in, packets out.
#[derive(Default)]
struct Wire {
    received: Option<Vec<u8>>,
    sent: VecDeque<Vec<u8>>,
}

struct Incoming(Vec<u8>);

struct Outgoing<'a>(&'a mut VecDeque<Vec<u8>>);

impl Device for Wire {
    type RxToken<'a> = Incoming;
    type TxToken<'a> = Outgoing<'a>;

    fn receive(&mut self, _: SmolInstant) -> Option<(Incoming, Outgoing<'_>)> {
        let packet = self.received.take()?;
        Some((Incoming(packet), Outgoing(&mut self.sent)))
    }

    fn transmit(&mut self, _: SmolInstant) -> Option<Outgoing<'_>> {
        Some(Outgoing(&mut self.sent))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ip;
        capabilities.max_transmission_unit = MTU;
        capabilities.checksum.ipv4 = Checksum::Tx;
        capabilities.checksum.tcp = Checksum::Tx;
        capabilities
    }
}

impl RxToken for Incoming {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, f: F) -> R {
        f(&self.0)
    }
}

impl TxToken for Outgoing<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, f: F) -> R {
        let mut packet = vec![0; len];
        let result = f(&mut packet);
        self.0.push_back(packet);
        result
    }
}

#[cfg(test)]
mod tests {
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
}
