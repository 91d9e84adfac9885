//! Our end of a tunnel: a node on a socket, and a host that asks and answers.

use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use connlib_link::{
    Datagram, Event, LinkConfig, Node, NodeConfig, Opened, Output, PeerId, SendQueue, Transmit,
};
use connlib_packet::{TunPacket, build};

use crate::Clock;
use crate::ice::StandIn;

/// The port of whoever answers questions, at both ends.
pub const ECHO_PORT: u16 = 7;
/// The port that our host asks from.
const ASKING_PORT: u16 = 4000;

/// Real time between two questions.
const INTERVAL: Duration = Duration::from_millis(5);
/// The longest that our end sleeps in real time.
const NAP: Duration = Duration::from_millis(5);

const HANDSHAKE_INITIATION: u8 = 1;
const DATA: u8 = 4;

/// A node, its socket, and the host behind it. It is to be used by the thread that made it.
pub struct End {
    node: Node,
    clock: Clock,
    peer: PeerId,
    socket: UdpSocket,
    ours: SocketAddr,
    theirs: SocketAddr,
    ice: StandIn,
    wake_at: Instant,
    host: Host,
    seen: Seen,
}

/// Who speaks through the tunnel: pairs of our address and theirs.
pub(crate) type Hosts = [(IpAddr, IpAddr); 2];

/// What a host behind our end does: ask by each family in turn, and answer.
struct Host {
    addresses: Hosts,
    next_question: Instant,
    unanswered: BTreeSet<u64>,
}

/// What our end has seen so far.
#[derive(Debug, Clone, Default)]
pub struct Seen {
    /// Questions that our host asked.
    pub asked: u64,
    /// Answers that it got, each counted once.
    pub answered: u64,
    /// Numbered questions of the other side that arrived.
    pub questions: u64,
    /// The highest number of those; they count from 0.
    pub last_question: Option<u64>,
    /// Handshakes that we started, repetitions included.
    pub initiations_sent: usize,
    /// Handshakes that the other program started.
    pub initiations_received: usize,
    /// Sessions that packets arrived in, by the index that we gave them.
    pub sessions_in: BTreeSet<u32>,
    /// Sessions that packets left in, by the index that the other program gave them.
    pub sessions_out: BTreeSet<u32>,
}

impl Seen {
    /// Sessions that carried packets both ways.
    pub fn sessions(&self) -> usize {
        self.sessions_in.len().min(self.sessions_out.len())
    }

    /// Questions of the other side that did not arrive, up to the last one that did.
    pub fn lost_questions(&self) -> u64 {
        self.last_question.map_or(0, |last| last + 1 - self.questions)
    }
}

impl End {
    pub(crate) fn new(
        config: LinkConfig,
        node: NodeConfig,
        socket: UdpSocket,
        theirs: SocketAddr,
        addresses: Hosts,
        clock: Clock,
    ) -> Result<Self> {
        let now = clock.now();
        let ours = socket.local_addr()?;
        let (peer, role) = (config.peer, config.role);
        let ice = StandIn::new(theirs, config.remote.clone(), ours, config.local.clone(), role)?;
        let mut node = Node::new(node, now);
        node.set_local_addresses(&[ours], now);
        node.upsert(config, now);
        node.add_remote_candidate(peer, &ice.candidate()?, now);
        let host =
            Host { addresses, next_question: Instant::now(), unanswered: BTreeSet::default() };
        let seen = Seen::default();
        Ok(Self { node, clock, peer, socket, ours, theirs, ice, wake_at: now, host, seen })
    }

    /// What it has seen so far.
    pub fn seen(&self) -> &Seen {
        &self.seen
    }

    /// Asks and answers until `condition` holds; an error naming `what` if it takes longer than `deadline` in real time.
    pub fn converse(
        &mut self,
        what: &str,
        deadline: Duration,
        mut condition: impl FnMut(&Seen) -> bool,
    ) -> Result<()> {
        self.run(what, deadline, true, |end| condition(&end.seen))
    }

    /// Answers, and asks nothing more, until all that was asked is answered.
    pub fn fall_silent(&mut self, deadline: Duration) -> Result<()> {
        let outcome =
            self.run("the last answers", deadline, false, |end| end.host.unanswered.is_empty());
        outcome.with_context(|| {
            let lost = &self.host.unanswered;
            format!("{} questions are unanswered, among them {:?}", lost.len(), lost.first())
        })
    }

    /// Answers, and asks nothing, until `condition` holds.
    pub fn listen(
        &mut self,
        what: &str,
        deadline: Duration,
        mut condition: impl FnMut(&Seen) -> bool,
    ) -> Result<()> {
        self.run(what, deadline, false, |end| condition(&end.seen))
    }

    /// Does not wait any longer for what is unanswered.
    pub fn forgive(&mut self) {
        self.host.unanswered.clear();
    }

    fn run(
        &mut self,
        what: &str,
        deadline: Duration,
        asks: bool,
        mut condition: impl FnMut(&Self) -> bool,
    ) -> Result<()> {
        let start = Instant::now();
        loop {
            self.turn(asks)?;
            if condition(self) {
                return Ok(());
            }
            if start.elapsed() > deadline {
                bail!("waited {deadline:?} in vain for {what}: {:?}", self.seen);
            }
        }
    }

    /// Does what is due, then waits a moment for datagrams and takes them.
    fn turn(&mut self, asks: bool) -> Result<()> {
        let now = self.clock.now();
        if now >= self.wake_at {
            self.node.handle_timeout(now);
        }
        self.ice.handle_timeout(now);
        if asks {
            self.ask()?;
        }
        self.settle()?;
        let mut until = self.wake_at;
        until = self.ice.next_timeout().map_or(until, |at| until.min(at));
        let nap = self.clock.real_time_until(until).min(NAP).max(Duration::from_micros(100));
        self.socket.set_read_timeout(Some(nap))?;
        let mut buffer = [0; 2048];
        match self.socket.recv_from(&mut buffer) {
            Ok((length, from)) => self.take(from, &buffer[..length])?,
            Err(error) if is_passing(error.kind()) => {}
            Err(error) => return Err(error).context("our end cannot receive"),
        }
        self.settle()
    }

    /// Lets the node and what stands in for the other one's ICE say all they have to say.
    fn settle(&mut self) -> Result<()> {
        loop {
            match self.node.poll_output() {
                Output::Transmit(Transmit { payload, .. }) if StandIn::is_for(&payload) => {
                    self.ice.take(&payload, self.clock.now());
                }
                Output::Transmit(transmit) => {
                    self.transmit(transmit.path.remote, &transmit.payload)?
                }
                Output::Event(Event::Failed { failure, .. }) => bail!("the link failed: {failure}"),
                // Streams are for relays, of which there are none.
                Output::Event(_) | Output::Stream(_) => {}
                Output::Timeout(at) => match self.ice.poll_transmit() {
                    Some(payload) => self.take(self.theirs, &payload)?,
                    None => {
                        self.wake_at = at;
                        return Ok(());
                    }
                },
            }
        }
    }

    fn transmit(&mut self, to: SocketAddr, datagram: &[u8]) -> Result<()> {
        if is(HANDSHAKE_INITIATION, datagram) {
            self.seen.initiations_sent += 1;
        } else if is(DATA, datagram) {
            self.seen.sessions_out.extend(receiver_index(datagram));
        }
        match self.socket.send_to(datagram, to) {
            // The other program may be away.
            Err(error) if !is_passing(error.kind()) => Err(error).context("our end cannot send"),
            _ => Ok(()),
        }
    }

    fn take(&mut self, from: SocketAddr, datagram: &[u8]) -> Result<()> {
        let mut slot = [0; 2048];
        let (now, local) = (self.clock.now(), self.ours);
        match self.node.open(Datagram { local, remote: from, payload: datagram }, &mut slot, now) {
            Opened::Packet { len, .. } => {
                self.seen.sessions_in.extend(receiver_index(datagram));
                self.answer(&mut slot[..len])
            }
            Opened::Handled if is(HANDSHAKE_INITIATION, datagram) => {
                self.seen.initiations_received += 1;
                Ok(())
            }
            Opened::Handled | Opened::Dropped => Ok(()),
        }
    }

    fn ask(&mut self) -> Result<()> {
        if Instant::now() < self.host.next_question {
            return Ok(());
        }
        self.host.next_question = Instant::now() + INTERVAL;
        let number = self.seen.asked;
        let (ours, theirs) = self.host.addresses[usize::from(number % 2 == 1)];
        self.seen.asked += 1;
        self.host.unanswered.insert(number);
        let from = SocketAddr::new(ours, ASKING_PORT);
        self.send(from, SocketAddr::new(theirs, ECHO_PORT), &number.to_be_bytes())
    }

    /// What our host does with a packet.
    fn answer(&mut self, packet: &mut [u8]) -> Result<()> {
        let packet = TunPacket::parse(packet, Default::default()).context("a broken packet")?;
        let headers = packet.headers();
        let (Some(from), Some(to)) = (headers.source_socket(), headers.destination_socket()) else {
            return Ok(());
        };
        let ours = self.host.addresses.map(|(ours, _)| ours);
        ensure!(ours.contains(&to.ip()), "a packet for {to}");
        let number = packet.payload().first_chunk().copied().map(u64::from_be_bytes);
        match (to.port(), number) {
            (ASKING_PORT, Some(number)) => {
                self.seen.answered += u64::from(self.host.unanswered.remove(&number));
            }
            (ECHO_PORT, Some(number)) => {
                self.seen.questions += 1;
                self.seen.last_question = self.seen.last_question.max(Some(number));
                self.send(to, from, &number.to_be_bytes())?;
            }
            _ => {}
        }
        Ok(())
    }

    fn send(&mut self, from: SocketAddr, to: SocketAddr, payload: &[u8]) -> Result<()> {
        let mut bytes = [0; 128];
        let len = build::udp(&mut bytes, from, to, payload)?;
        let packet = TunPacket::parse(&mut bytes[..len], Default::default())?;
        let mut queue = SendQueue::new(0);
        self.node.seal(self.peer, packet, &mut queue, self.clock.now())?;
        for (run, bytes) in queue.runs() {
            for datagram in bytes.chunks(run.segment_size) {
                self.transmit(run.path.remote, datagram)?;
            }
        }
        Ok(())
    }
}

/// Whether it is a WireGuard message of this kind.
fn is(kind: u8, datagram: &[u8]) -> bool {
    datagram.starts_with(&[kind, 0, 0, 0])
}

fn receiver_index(datagram: &[u8]) -> Option<u32> {
    datagram.get(4..8)?.try_into().ok().map(u32::from_le_bytes)
}

fn is_passing(kind: ErrorKind) -> bool {
    use ErrorKind::{
        ConnectionRefused, HostUnreachable, Interrupted, NetworkUnreachable, TimedOut, WouldBlock,
    };
    matches!(
        kind,
        ConnectionRefused
            | HostUnreachable
            | Interrupted
            | NetworkUnreachable
            | TimedOut
            | WouldBlock
    )
}
