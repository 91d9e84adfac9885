//! Connections to relays (RFC 8656 §2.1): what is sent by them arrives, and in order, for as long as they stand.

use std::collections::{BTreeMap, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use connlib_link::StreamServer;
use connlib_packet::Ecn;
use connlib_relay::server::{FiveTuple, Transport};

use super::{Datagram, Internet, Line, Node, SERVER_LATENCY};
use crate::model::ProbeId;
use crate::random::Random;

/// From this port on, each connection has one of its own. No router gives these to datagrams.
const PORTS: std::ops::Range<u16> = 20_000..40_000;

/// What got lost is sent again after this, and after twice as long each time that it gets lost again.
const REPEAT: Duration = Duration::from_millis(200);
/// The same of the first segment (RFC 6298 §2.1).
const REPEAT_FIRST: Duration = Duration::from_secs(1);
/// What could not be sent for so long breaks the connection.
const GIVE_UP: Duration = Duration::from_secs(30);

/// What waits at most while a line is down: more is dropped, as by those who use streams.
const WAITING: usize = 200;

/// The number of a connection, never given twice in a run.
pub(crate) type StreamId = u64;

/// What travels.
#[derive(Debug)]
pub(crate) enum Word {
    /// To the relay: it wants to be connected. From there: it is.
    Open,
    /// A message.
    Message(Vec<u8>, Option<ProbeId>),
    /// This end has left.
    Close,
}

/// Something arrives at one end.
#[derive(Debug)]
pub(crate) enum Arrival {
    ToRelay(Word),
    ToHost(Word),
}

/// One connection.
#[derive(Debug)]
pub(crate) struct Stream {
    pub(crate) host: Node,
    pub(crate) relay: usize,
    pub(crate) server: StreamServer,
    /// The host's address as it knows it.
    pub(crate) local: SocketAddr,
    /// The host's address as the relay sees it.
    pub(crate) public: SocketAddr,
    /// The host's program cares for it.
    is_wanted: bool,
    /// The relay's program has taken it, and not left.
    is_served: bool,
    way: Way,
    up: Lane,
    down: Lane,
}

/// What becomes of what is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Clear,
    /// Routers do not know the connection any more: whatever the host sends is answered by a reset.
    Forgotten,
    /// The host has other addresses: nothing arrives any more, and nobody is told.
    Severed,
}

/// One direction.
#[derive(Debug, Default)]
struct Lane {
    words: VecDeque<(Instant, Word)>,
    last: Option<Instant>,
    stalled: Option<Stalled>,
}

/// A line is down.
#[derive(Debug)]
struct Stalled {
    since: Instant,
    retry_at: Instant,
    pause: Duration,
}

/// What comes of looking at a direction.
enum Next {
    Word(Word),
    /// To be looked at again at this time.
    Later(Instant),
    GaveUp,
    Nothing,
}

/// All connections.
#[derive(Debug)]
pub(crate) struct Streams {
    streams: BTreeMap<StreamId, Stream>,
    opened: StreamId,
    random: Random,
}

impl Streams {
    pub(crate) fn new(random: Random) -> Self {
        Self { streams: BTreeMap::new(), opened: 0, random }
    }

    /// A host connects to a relay. When something arrives there; `None`: it has no address for that.
    pub(crate) fn open(
        &mut self,
        host: Node,
        server: StreamServer,
        internet: &Internet,
        now: Instant,
    ) -> Option<(StreamId, Instant)> {
        let address = server.address();
        let (Node::Relay(relay), _) = internet.owners.get(&address.ip())? else { return None };
        let mut own = internet.addresses(host).into_iter().map(|own| own.ip());
        let local = own.find(|own| own.is_ipv4() == address.is_ipv4())?;
        let public = internet.public_ip(host, address.is_ipv4())?;
        self.opened += 1;
        let id = self.opened;
        let port = PORTS.start + (id % PORTS.len() as u64) as u16;
        let stream = Stream {
            host,
            relay: *relay,
            server,
            local: SocketAddr::new(local, port),
            public: SocketAddr::new(public, port),
            is_wanted: true,
            is_served: false,
            way: Way::Clear,
            up: Lane::default(),
            down: Lane::default(),
        };
        self.streams.insert(id, stream);
        // TLS has to be agreed upon after TCP has connected.
        let trips = if let StreamServer::Tls(_) = server { 3 } else { 1 };
        let at = self.push_up(id, Word::Open, trips, internet, now)?;
        Some((id, at))
    }

    pub(crate) fn get(&self, id: StreamId) -> Option<&Stream> {
        self.streams.get(&id)
    }

    /// The connection of a host to this server that its program cares for.
    pub(crate) fn wanted(&self, host: Node, server: StreamServer) -> Option<StreamId> {
        self.find(|stream| stream.is_wanted && (stream.host, stream.server) == (host, server))
    }

    /// The connection that a host has between these addresses.
    pub(crate) fn of_host(&self, host: Node, from: SocketAddr, to: SocketAddr) -> Option<StreamId> {
        self.find(|stream| {
            stream.is_wanted
                && stream.host == host
                && (stream.local, stream.server.address()) == (from, to)
        })
    }

    /// The connection that a relay has between these addresses.
    pub(crate) fn of_relay(
        &self,
        relay: usize,
        from: SocketAddr,
        to: SocketAddr,
    ) -> Option<StreamId> {
        self.find(|stream| {
            stream.is_served
                && stream.relay == relay
                && (stream.server.address(), stream.public) == (from, to)
        })
    }

    /// Whether no datagram is ever sent to this address.
    pub(crate) fn owns(address: SocketAddr) -> bool {
        PORTS.contains(&address.port())
    }

    pub(crate) fn of_node(&self, node: Node) -> Vec<StreamId> {
        let is_of = |stream: &Stream| match node {
            Node::Relay(number) => stream.relay == number,
            node => stream.host == node,
        };
        self.streams.iter().filter(|(_, stream)| is_of(stream)).map(|(id, _)| *id).collect()
    }

    /// The relay has taken the connection.
    pub(crate) fn serve(&mut self, id: StreamId) {
        if let Some(stream) = self.streams.get_mut(&id) {
            stream.is_served = true;
        }
    }

    /// The program of the host does not care any more. Whether it did.
    pub(crate) fn leave_as_host(&mut self, id: StreamId) -> bool {
        let stream = self.streams.get_mut(&id);
        stream.is_some_and(|stream| std::mem::replace(&mut stream.is_wanted, false))
    }

    /// The program of the relay has left, or knows that the host has. Whether it did not before.
    pub(crate) fn leave_as_relay(&mut self, id: StreamId) -> bool {
        let stream = self.streams.get_mut(&id);
        stream.is_some_and(|stream| std::mem::replace(&mut stream.is_served, false))
    }

    /// Forgets a connection that neither end cares for.
    pub(crate) fn bury(&mut self, id: StreamId) {
        let is_over = |stream: &Stream| !stream.is_wanted && !stream.is_served;
        if self.streams.get(&id).is_some_and(|s| is_over(s) && s.up.words.is_empty()) {
            self.streams.remove(&id);
        }
    }

    /// The host has other addresses.
    pub(crate) fn sever(&mut self, id: StreamId) {
        if let Some(stream) = self.streams.get_mut(&id) {
            stream.way = Way::Severed;
            (stream.up, stream.down) = (Lane::default(), Lane::default());
        }
    }

    /// Routers have forgotten the connection.
    pub(crate) fn forget(&mut self, id: StreamId) {
        if let Some(stream) = self.streams.get_mut(&id)
            && stream.way == Way::Clear
        {
            stream.way = Way::Forgotten;
            (stream.up, stream.down) = (Lane::default(), Lane::default());
        }
    }

    /// The host says something. When something arrives somewhere.
    pub(crate) fn say(
        &mut self,
        id: StreamId,
        word: Word,
        internet: &Internet,
        now: Instant,
    ) -> Option<Instant> {
        match self.streams.get(&id)?.way {
            Way::Clear => self.push_up(id, word, 1, internet, now),
            Way::Forgotten => self.push_down(id, Word::Close, 2, internet, now),
            Way::Severed => None,
        }
    }

    /// The relay says something. When that arrives.
    pub(crate) fn hear(
        &mut self,
        id: StreamId,
        word: Word,
        internet: &Internet,
        now: Instant,
    ) -> Option<Instant> {
        match self.streams.get(&id)?.way {
            Way::Clear => self.push_down(id, word, 1, internet, now),
            Way::Forgotten | Way::Severed => None,
        }
    }

    /// What arrives now, and when to look again. `is_down`: the line of the host.
    pub(crate) fn arrive(
        &mut self,
        id: StreamId,
        is_down: bool,
        now: Instant,
    ) -> (Vec<Arrival>, Option<Instant>) {
        let Some(stream) = self.streams.get_mut(&id) else { return (Vec::new(), None) };
        let (mut arrived, mut again) = (Vec::new(), None);
        loop {
            match stream.up.next(is_down, now) {
                Next::Word(word) => arrived.push(Arrival::ToRelay(word)),
                Next::Later(at) => {
                    again = Some(at);
                    break;
                }
                Next::GaveUp => {
                    arrived.extend([Arrival::ToRelay(Word::Close), Arrival::ToHost(Word::Close)]);
                }
                Next::Nothing => break,
            }
        }
        loop {
            match stream.down.next(is_down, now) {
                Next::Word(word) => arrived.push(Arrival::ToHost(word)),
                Next::Later(at) => {
                    again = Some(again.map_or(at, |other: Instant| other.min(at)));
                    break;
                }
                Next::GaveUp => {
                    arrived.extend([Arrival::ToRelay(Word::Close), Arrival::ToHost(Word::Close)]);
                }
                Next::Nothing => break,
            }
        }
        (arrived, again)
    }

    fn find(&self, which: impl Fn(&Stream) -> bool) -> Option<StreamId> {
        self.streams.iter().find(|(_, stream)| which(stream)).map(|(id, _)| *id)
    }

    fn push_up(
        &mut self,
        id: StreamId,
        word: Word,
        trips: u32,
        internet: &Internet,
        now: Instant,
    ) -> Option<Instant> {
        let stream = self.streams.get_mut(&id)?;
        let takes = trips * trip(stream.host, internet, &mut self.random);
        stream.up.push(word, now + takes)
    }

    fn push_down(
        &mut self,
        id: StreamId,
        word: Word,
        trips: u32,
        internet: &Internet,
        now: Instant,
    ) -> Option<Instant> {
        let stream = self.streams.get_mut(&id)?;
        let takes = trips * trip(stream.host, internet, &mut self.random);
        stream.down.push(word, now + takes)
    }
}

impl Stream {
    pub(crate) fn is_wanted(&self) -> bool {
        self.is_wanted
    }

    pub(crate) fn is_served(&self) -> bool {
        self.is_served
    }

    /// What the relay's program knows it by.
    pub(crate) fn five_tuple(&self, id: StreamId) -> FiveTuple {
        let (transport, remote) = (Transport::Stream(id), self.public);
        FiveTuple { transport, remote, local: self.server.address() }
    }

    /// A message from the relay, as its host takes it.
    pub(crate) fn datagram(&self, payload: Vec<u8>, cargo: Option<ProbeId>) -> Datagram {
        let (source, destination) = (self.server.address(), self.local);
        Datagram { source, destination, payload, ecn: Ecn::NotEct, cargo, from: self.host }
    }
}

impl Lane {
    /// When the word arrives; `None`: there is no room for it.
    fn push(&mut self, word: Word, at: Instant) -> Option<Instant> {
        let is_message = matches!(word, Word::Message(..));
        if is_message && self.stalled.is_some() && self.words.len() >= WAITING {
            return None;
        }
        let at = self.last.map_or(at, |last| last.max(at));
        self.last = Some(at);
        self.words.push_back((at, word));
        Some(at)
    }

    fn next(&mut self, is_down: bool, now: Instant) -> Next {
        let Some((at, word)) = self.words.front() else { return Next::Nothing };
        if now < *at || self.stalled.as_ref().is_some_and(|stalled| now < stalled.retry_at) {
            return Next::Nothing;
        }
        if !is_down {
            self.stalled = None;
            return self.words.pop_front().map_or(Next::Nothing, |(_, word)| Next::Word(word));
        }
        let pause = if let Word::Open = word { REPEAT_FIRST } else { REPEAT };
        let stalled = self.stalled.get_or_insert(Stalled { since: now, retry_at: now, pause });
        if now >= stalled.since + GIVE_UP {
            *self = Self::default();
            return Next::GaveUp;
        }
        stalled.retry_at = now + stalled.pause;
        stalled.pause *= 2;
        Next::Later(stalled.retry_at)
    }
}

/// How long something takes from a host to a relay, or back.
fn trip(host: Node, internet: &Internet, random: &mut Random) -> Duration {
    let line = internet.line(host).unwrap_or(Line::clean(Duration::ZERO));
    let mut takes = line.latency + SERVER_LATENCY + random.duration(Duration::ZERO, line.jitter);
    // Others that follow tell the sender soon.
    while random.chance(line.loss) {
        takes += REPEAT;
    }
    takes
}

impl Internet {
    fn public_ip(&self, node: Node, is_ipv4: bool) -> Option<IpAddr> {
        let mut owned = self.owners.iter().filter(|(_, (owner, _))| *owner == node);
        owned.find(|(ip, _)| ip.is_ipv4() == is_ipv4).map(|(ip, _)| *ip)
    }

    fn line(&self, node: Node) -> Option<Line> {
        self.hosts.get(&node).map(|host| host.line)
    }
}
