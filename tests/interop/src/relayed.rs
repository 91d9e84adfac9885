//! Two nodes that talk through other people's relay.

use std::collections::BTreeSet;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Shutdown, SocketAddr, TcpStream, UdpSocket};
use std::os::fd::AsFd as _;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use connlib_e2e::Namespace;
use connlib_link::{
    Datagram, Event, Failure, IceCredentials, LinkConfig, Node, NodeConfig, Opened, Output, Path,
    PeerId, Relay, RelayCredentials, Role, SendQueue, StreamRequest, StreamServer,
};
use connlib_packet::{TunPacket, build};
use connlib_stun::{Attribute, Class, Message, Method, message_len, padding};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use uuid::Uuid;

use crate::Site;
use crate::site::{LEFT, RELAY, RIGHT};

/// Where the relay listens for datagrams and for TCP.
pub const RELAY_PORT: u16 = 3478;
const ECHO_PORT: u16 = 7;
const ASKING_PORT: u16 = 4000;
const HOSTS: [IpAddr; 2] =
    [IpAddr::V4(Ipv4Addr::new(10, 31, 0, 1)), IpAddr::V4(Ipv4Addr::new(10, 31, 0, 2))];
const PEERS: [PeerId; 2] = [PeerId(Uuid::from_u128(1)), PeerId(Uuid::from_u128(2))];
/// Between two questions.
const INTERVAL: Duration = Duration::from_millis(10);
const NAP: Duration = Duration::from_millis(5);
/// A stream is there by then, or not at all.
const CONNECTING: Duration = Duration::from_secs(2);

/// Which addresses an end has, and the relay for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Underlay {
    /// IPv4 alone.
    Ip4,
    /// IPv6 alone.
    Ip6,
    /// Both.
    Both,
}

/// A node on each side of a relay. The left one asks, the right one answers.
pub struct Relayed {
    ends: [End; 2],
    next_question: Instant,
    unanswered: BTreeSet<u64>,
    /// Questions so far.
    pub asked: u64,
    /// Answers so far, each counted once.
    pub answered: u64,
    /// Why links failed; they were made anew.
    pub failures: Vec<Failure>,
}

struct End {
    namespace: Namespace,
    node: Node,
    peer: PeerId,
    config: Option<LinkConfig>,
    sockets: Vec<(SocketAddr, UdpSocket)>,
    streams: Vec<Stream>,
    wake_at: Instant,
    seen: Seen,
}

struct Stream {
    server: StreamServer,
    local: SocketAddr,
    tcp: TcpStream,
    partial: Vec<u8>,
}

/// What an end heard from the relay.
#[derive(Debug, Clone, Default)]
pub struct Seen {
    /// What was answered to which method: 0 is success, all else the code of an error.
    pub answers: Vec<(Method, u16)>,
    /// Our addresses at the relay, by the last allocation.
    pub relayed: Vec<SocketAddr>,
    /// For how long the last allocation was granted, in seconds.
    pub lifetime: Option<u32>,
}

impl Seen {
    /// How often this was answered to this method.
    pub fn count(&self, method: Method, code: u16) -> usize {
        self.answers.iter().filter(|answer| **answer == (method, code)).count()
    }

    fn note(&mut self, bytes: &[u8]) {
        let Some(message) = Message::parse(bytes) else { return };
        let code = match message.class() {
            Class::Success => 0,
            Class::Error => message.error_code().unwrap_or_default(),
            Class::Request | Class::Indication => return,
        };
        self.answers.push((message.method(), code));
        if message.is(Method::ALLOCATE, Class::Success) {
            let relayed = message.xor_addresses(Attribute::XOR_RELAYED_ADDRESS);
            self.relayed = relayed.flatten().collect();
            self.lifetime = message.number(Attribute::LIFETIME);
        }
    }
}

impl Relayed {
    /// Two nodes with these addresses, both on this port, and credentials for a relay at the [`Site`].
    pub fn new(
        site: &Site,
        underlays: [Underlay; 2],
        port: u16,
        users: [RelayCredentials; 2],
    ) -> Result<Self> {
        let now = Instant::now();
        let mut ends = Vec::new();
        let sides = [(&site.left, LEFT), (&site.right, RIGHT)];
        for ((side, underlay), credentials) in
            sides.into_iter().zip(underlays).zip(users).collect::<Vec<_>>()
        {
            let number = ends.len();
            ends.push(End::new(side, underlay, port, credentials, number, now)?);
        }
        let [mut left, mut right]: [End; 2] = ends.try_into().ok().context("two ends")?;
        let keys = [right.node.public_key(), left.node.public_key()];
        let roles = [Role::Controlling, Role::Controlled];
        for ((end, remote_public_key), role) in
            [&mut left, &mut right].into_iter().zip(keys).zip(roles)
        {
            let is_left = role == Role::Controlling;
            let names = if is_left { ["left", "right"] } else { ["right", "left"] };
            let [local, remote] = names.map(credentials);
            let (peer, preshared_key) = (end.peer, [9; 32]);
            end.config =
                Some(LinkConfig { peer, role, remote_public_key, preshared_key, local, remote });
        }
        let mut relayed = Self {
            ends: [left, right],
            next_question: now,
            unanswered: BTreeSet::new(),
            asked: 0,
            answered: 0,
            failures: Vec::new(),
        };
        relayed.connect();
        Ok(relayed)
    }

    /// What an end heard from the relay: the left one's, the right one's.
    pub fn seen(&self) -> [&Seen; 2] {
        self.ends.each_ref().map(|end| &end.seen)
    }

    /// The ways that packets take.
    pub fn paths(&self) -> [Option<Path>; 2] {
        self.ends.each_ref().map(|end| end.node.path(end.peer))
    }

    /// How many streams stand at each end.
    pub fn streams(&self) -> [usize; 2] {
        self.ends.each_ref().map(|end| end.streams.len())
    }

    /// Asks and answers until `condition` holds; an error naming `what` if that takes longer than `deadline`.
    pub fn converse(
        &mut self,
        what: &str,
        deadline: Duration,
        condition: impl FnMut(&Self) -> bool,
    ) -> Result<()> {
        self.run(what, deadline, true, condition)
    }

    /// Asks nothing more until all is answered.
    pub fn fall_silent(&mut self, deadline: Duration) -> Result<()> {
        self.run("the last answers", deadline, false, |relayed| relayed.unanswered.is_empty())
    }

    /// Does not wait any longer for what is unanswered.
    pub fn forgive(&mut self) {
        self.unanswered.clear();
    }

    fn run(
        &mut self,
        what: &str,
        deadline: Duration,
        asks: bool,
        mut condition: impl FnMut(&Self) -> bool,
    ) -> Result<()> {
        let start = Instant::now();
        while !condition(self) {
            let [left, right] = self.seen();
            ensure!(
                start.elapsed() < deadline,
                "waited {deadline:?} in vain for {what}: {} of {} answered, {:?}, {left:?}, {right:?}",
                self.answered,
                self.asked,
                self.paths(),
            );
            self.turn(asks)?;
        }
        Ok(())
    }

    fn connect(&mut self) {
        let now = Instant::now();
        for end in &mut self.ends {
            if let Some(config) = &end.config {
                end.node.upsert(config.clone(), now);
            }
        }
    }

    /// Does what is due, then waits a moment for messages and takes them.
    fn turn(&mut self, asks: bool) -> Result<()> {
        let now = Instant::now();
        for end in &mut self.ends {
            if now >= end.wake_at {
                end.node.handle_timeout(now);
            }
        }
        if asks && now >= self.next_question && self.paths()[0].is_some() {
            self.next_question = now + INTERVAL;
            let number = self.asked;
            self.asked += 1;
            self.unanswered.insert(number);
            let [from, to] = [(HOSTS[0], ASKING_PORT), (HOSTS[1], ECHO_PORT)];
            self.ends[0].send(from.into(), to.into(), number)?;
        }
        self.settle()?;
        let wake_at = self.ends.iter().map(|end| end.wake_at).min().unwrap_or(now);
        let nap = wake_at.saturating_duration_since(now).clamp(Duration::from_millis(1), NAP);
        let all = self.ends.iter().flat_map(|end| {
            let sockets = end.sockets.iter().map(|(_, socket)| socket.as_fd());
            sockets.chain(end.streams.iter().map(|stream| stream.tcp.as_fd()))
        });
        let mut all: Vec<PollFd<'_>> = all.map(|fd| PollFd::new(fd, PollFlags::POLLIN)).collect();
        poll(&mut all, PollTimeout::try_from(nap)?)?;
        for index in 0..self.ends.len() {
            for (local, remote, message) in self.ends[index].receive()? {
                self.take(index, local, remote, &message)?;
            }
        }
        self.settle()
    }

    fn take(
        &mut self,
        index: usize,
        local: SocketAddr,
        remote: SocketAddr,
        message: &[u8],
    ) -> Result<()> {
        let end = &mut self.ends[index];
        if RELAY.contains(&remote.ip()) && remote.port() == RELAY_PORT {
            end.seen.note(message);
        }
        let mut slot = [0; 2048];
        let datagram = Datagram { local, remote, payload: message };
        let Opened::Packet { len, .. } = end.node.open(datagram, &mut slot, Instant::now()) else {
            return Ok(());
        };
        let packet = TunPacket::parse(&mut slot[..len], Default::default())?;
        let headers = packet.headers();
        let ends = headers.source_socket().zip(headers.destination_socket());
        let (from, to) = ends.context("a packet without ports")?;
        let number = packet.payload().first_chunk().copied().map(u64::from_be_bytes);
        let number = number.context("a packet without a number")?;
        match (index, to.port()) {
            (0, ASKING_PORT) => self.answered += u64::from(self.unanswered.remove(&number)),
            (1, ECHO_PORT) => end.send(to, from, number)?,
            _ => bail!("a packet for {to}"),
        }
        Ok(())
    }

    /// Lets both nodes say all they have to say; candidates go to the other one.
    fn settle(&mut self) -> Result<()> {
        let now = Instant::now();
        loop {
            let mut is_quiet = true;
            for index in 0..self.ends.len() {
                let [left, right] = &mut self.ends;
                let (end, other) = if index == 0 { (left, right) } else { (right, left) };
                loop {
                    match end.node.poll_output() {
                        Output::Timeout(at) => {
                            end.wake_at = at;
                            break;
                        }
                        Output::Transmit(transmit) => {
                            end.transmit(transmit.path, &transmit.payload)?;
                        }
                        Output::Stream(request) => end.handle_stream(request, now),
                        Output::Event(Event::NewCandidates { candidates, .. }) => {
                            for candidate in &candidates {
                                other.node.add_remote_candidate(other.peer, candidate, now);
                            }
                        }
                        Output::Event(Event::InvalidatedCandidates { candidates, .. }) => {
                            for candidate in &candidates {
                                other.node.remove_remote_candidate(other.peer, candidate, now);
                            }
                        }
                        Output::Event(Event::Failed { failure, .. }) => {
                            self.failures.push(failure);
                            for end in [&mut *end, &mut *other] {
                                end.node.remove(end.peer);
                                if let Some(config) = &end.config {
                                    end.node.upsert(config.clone(), now);
                                }
                            }
                        }
                        Output::Event(_) => {}
                    }
                    is_quiet = false;
                }
            }
            if is_quiet {
                return Ok(());
            }
        }
    }
}

impl End {
    fn new(
        (namespace, ips): (&Namespace, [IpAddr; 2]),
        underlay: Underlay,
        port: u16,
        credentials: RelayCredentials,
        number: usize,
        now: Instant,
    ) -> Result<Self> {
        let has = |ip: &IpAddr| match underlay {
            Underlay::Ip4 => ip.is_ipv4(),
            Underlay::Ip6 => ip.is_ipv6(),
            Underlay::Both => true,
        };
        let mut sockets = Vec::new();
        for ip in ips.iter().filter(|ip| has(ip)) {
            let local = SocketAddr::new(*ip, port);
            let socket = namespace.enter(|| UdpSocket::bind(local))??;
            socket.set_nonblocking(true)?;
            sockets.push((local, socket));
        }
        let seed = [u8::try_from(number)? + 1; 32];
        let mut node = Node::new(NodeConfig { seed, ..NodeConfig::default() }, now);
        let hosts: Vec<SocketAddr> = sockets.iter().map(|(local, _)| *local).collect();
        node.set_local_addresses(&hosts, now);
        let addresses = RELAY.iter().filter(|ip| has(ip));
        let addresses = addresses.map(|ip| SocketAddr::new(*ip, RELAY_PORT)).collect();
        let (id, credentials) = (Uuid::from_u128(7), Some(credentials));
        node.set_relays(&[Relay { id, addresses, credentials }], now);
        Ok(Self {
            namespace: namespace.clone(),
            node,
            peer: PEERS[1 - number],
            config: None,
            sockets,
            streams: Vec::new(),
            wake_at: now,
            seen: Seen::default(),
        })
    }

    /// What has come: our address, whom it is from, and the message.
    fn receive(&mut self) -> Result<Vec<(SocketAddr, SocketAddr, Vec<u8>)>> {
        let mut received = Vec::new();
        let mut buffer = [0; 65_536];
        for (local, socket) in &self.sockets {
            loop {
                match socket.recv_from(&mut buffer) {
                    Ok((length, from)) => received.push((*local, from, buffer[..length].to_vec())),
                    // The relay may be away.
                    Err(error) if error.kind() == ErrorKind::ConnectionRefused => {}
                    Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                    Err(error) => return Err(error).context("an end cannot receive"),
                }
            }
        }
        let mut broken = Vec::new();
        for stream in &mut self.streams {
            let remote = stream.server.address();
            match stream.tcp.read(&mut buffer) {
                Ok(length) if length > 0 => stream.partial.extend_from_slice(&buffer[..length]),
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                _ => broken.push(stream.server),
            }
            while let Some(length) = message_len(&stream.partial).ok().context("no message")? {
                if stream.partial.len() < length {
                    break;
                }
                let rest = stream.partial.split_off(length);
                let message = std::mem::replace(&mut stream.partial, rest);
                received.push((stream.local, remote, message));
            }
        }
        for server in broken {
            self.streams.retain(|stream| stream.server != server);
            self.node.handle_stream_closed(server, Instant::now());
        }
        Ok(received)
    }

    fn handle_stream(&mut self, request: StreamRequest, now: Instant) {
        match request {
            StreamRequest::Open(server) => match self.open_stream(server) {
                Ok(stream) => {
                    let local = stream.local;
                    self.streams.push(stream);
                    self.node.handle_stream_opened(server, local, now);
                }
                Err(_) => self.node.handle_stream_closed(server, now),
            },
            StreamRequest::Close(server) => self.streams.retain(|stream| stream.server != server),
        }
    }

    fn open_stream(&self, server: StreamServer) -> Result<Stream> {
        let StreamServer::Tcp(address) = server else { bail!("there is no TLS here") };
        let tcp = self.namespace.enter(|| TcpStream::connect_timeout(&address, CONNECTING))??;
        tcp.set_nodelay(true)?;
        tcp.set_nonblocking(true)?;
        let local = tcp.local_addr()?;
        Ok(Stream { server, local, tcp, partial: Vec::new() })
    }

    fn send(&mut self, from: SocketAddr, to: SocketAddr, number: u64) -> Result<()> {
        let mut bytes = [0; 128];
        let len = build::udp(&mut bytes, from, to, &number.to_be_bytes())?;
        let packet = TunPacket::parse(&mut bytes[..len], Default::default())?;
        let mut queue = SendQueue::new(0);
        self.node.seal(self.peer, packet, &mut queue, Instant::now())?;
        for (run, bytes) in queue.runs() {
            for datagram in bytes.chunks(run.segment_size) {
                self.transmit(run.path, datagram)?;
            }
        }
        Ok(())
    }

    fn transmit(&mut self, Path { local, remote }: Path, message: &[u8]) -> Result<()> {
        if let Some(stream) = self.streams.iter_mut().find(|stream| Some(stream.local) == local) {
            let padding = &[0; 3][..padding(message.len())];
            if stream.tcp.write_all(&[message, padding].concat()).is_err() {
                // What it does not take at once breaks it. The next look at it tells.
                drop(stream.tcp.shutdown(Shutdown::Both));
            }
            return Ok(());
        }
        let is_ours = |(own, _): &&(SocketAddr, UdpSocket)| match local {
            Some(local) => *own == local,
            None => own.is_ipv4() == remote.is_ipv4(),
        };
        let Some((_, socket)) = self.sockets.iter().find(is_ours) else { return Ok(()) };
        match socket.send_to(message, remote) {
            Err(error) if !is_passing(error.kind()) => Err(error).context("an end cannot send"),
            _ => Ok(()),
        }
    }
}

fn is_passing(kind: ErrorKind) -> bool {
    use ErrorKind::{
        ConnectionRefused, HostUnreachable, NetworkUnreachable, PermissionDenied, WouldBlock,
    };
    matches!(
        kind,
        ConnectionRefused | HostUnreachable | NetworkUnreachable | PermissionDenied | WouldBlock
    )
}

fn credentials(name: &str) -> IceCredentials {
    IceCredentials { username: name.into(), password: format!("{name}-password-0123456789") }
}
