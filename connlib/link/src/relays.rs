//! Relays (TURN, RFC 8656): which of them we have allocations on, and how datagrams travel through those.
//!
//! To the links, an address that a relay gave us is one more local address. Only here is known that what is sent from
//! it goes to the relay with a channel's header in front, and that what comes from the relay by a channel came from a
//! peer.
//!
//! `turn-client-proto` 0.7 speaks the protocol as well, for one allocation whose credentials never change. Ours outlive
//! them, send data right behind the request that binds its channel, and are chosen, proven and left by what all of them
//! show; little of it is the protocol.

mod allocation;
mod channels;
mod requests;
mod review;
mod session;
mod starvation;
mod streams;
mod watch;

use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use connlib_stun::{Attribute, CHANNEL_HEADER, ChannelData, Class, Header, Message, Method};
use rand_chacha::ChaCha20Rng;
use uuid::Uuid;

use crate::node::Datagram;
use crate::output::{Path, StreamRequest, StreamServer, Transmit};
use crate::stun_servers::Mapping;
use allocation::{Allocation, Carrier, Outbox, State};
pub use session::RelayCredentials;
use starvation::Starvation;
use streams::Streams;

/// Relays that we have allocations on at a time.
const ALLOCATIONS: usize = 2;

/// Those that are about to be given back come on top, and one by a stream.
const MAX_ALLOCATIONS: usize = 5;

/// Relays beyond this many are ignored.
const MAX_RELAYS: usize = 16;

/// After a new allocation was granted, peers need some time to hear of it and to check the paths through it: then an
/// old one may go.
const SETTLE: Duration = Duration::from_secs(10);

/// What is under way still arrives at an allocation that nobody is to use any more.
const LINGER: Duration = Duration::from_secs(5);

/// A relay that refused us is asked again after this, and after twice as long each time that it does so again.
const FIRST_BACKOFF: Duration = Duration::from_secs(5);
const MAX_BACKOFF: Duration = Duration::from_secs(600);

/// An allocation that somebody left at our address ends by itself, or its relay lets us have the place: soon after that
/// we ask again.
const OCCUPIED: Duration = Duration::from_secs(15);

/// A server that tells us our address and, with credentials, relays for us.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Relay {
    /// The portal's id of it.
    pub id: Uuid,
    /// Where it listens: one address of each family.
    pub addresses: Vec<SocketAddr>,
    /// What to say there. `None`: it answers STUN Binding alone.
    pub credentials: Option<RelayCredentials>,
}

/// All relays that the portal told us of, and our allocations on them.
pub(crate) struct Relays {
    relays: Vec<Entry>,
    allocations: Vec<Held>,
    outbox: Outbox,
    streams: Streams,
    hosts: Vec<SocketAddr>,
    starvation: Starvation,
    wants_others: bool,
    /// What had to go by a stream is about to.
    has_turned: bool,
    /// What the links know of.
    announced: Relayed,
}

/// Our addresses at relays.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Relayed {
    /// Those that links may use, with the address that each is reached from.
    pub(crate) offered: Vec<Mapping>,
    /// The same by streams, for what gets through in no other way.
    pub(crate) last_resorts: Vec<Mapping>,
    /// Those that nobody is to begin to use; what was sent to them still arrives, and may be answered.
    pub(crate) withdrawn: Vec<SocketAddr>,
}

struct Entry {
    relay: Relay,
    retry_at: Option<Instant>,
    backoff: Duration,
    /// It answers Binding requests, but did not answer when it was asked for an allocation.
    is_mute: bool,
}

struct Held {
    allocation: Allocation,
    /// It is silent, and other servers have been asked whether it is our own network.
    is_suspect: bool,
    /// Links are not to use it any more, since then.
    withdrawn: Option<Instant>,
}

impl Held {
    fn is_stream(&self) -> bool {
        self.allocation.carrier().is_stream
    }

    fn is_granted(&self) -> bool {
        matches!(self.allocation.state(), State::Granted { .. })
    }

    /// Whether links may begin to use it.
    fn is_used(&self) -> bool {
        self.is_granted() && self.withdrawn.is_none()
    }
}

/// How a datagram with one of our addresses at a relay leaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Channel {
    /// The way to the relay.
    pub(crate) path: Path,
    number: u16,
}

impl Channel {
    /// What stands in front of a datagram of this length.
    pub(crate) fn header(self, len: usize) -> [u8; CHANNEL_HEADER] {
        // INVARIANT: no UDP datagram is longer than this.
        ChannelData::header(self.number, len as u16)
    }
}

impl Relays {
    pub(crate) fn new(rng: ChaCha20Rng) -> Self {
        Self {
            relays: Vec::new(),
            allocations: Vec::new(),
            outbox: Outbox { transmits: VecDeque::new(), rng },
            streams: Streams::default(),
            hosts: Vec::new(),
            starvation: Starvation::default(),
            wants_others: false,
            has_turned: false,
            announced: Relayed::default(),
        }
    }

    /// Replaces the list. Allocations on relays that are not on it any more are kept until others are there.
    pub(crate) fn set(&mut self, relays: &[Relay], now: Instant) {
        let before = std::mem::take(&mut self.relays);
        for relay in relays.iter().take(MAX_RELAYS) {
            let same = before.iter().find(|entry| entry.relay == *relay);
            let (retry_at, backoff, is_mute) =
                same.map_or((None, FIRST_BACKOFF, false), |e| (e.retry_at, e.backoff, e.is_mute));
            self.relays.push(Entry { relay: relay.clone(), retry_at, backoff, is_mute });
        }
        for held in &mut self.allocations {
            let of_relay = |entry: &&Entry| entry.relay.id == held.allocation.relay();
            let entry = self.relays.iter().find(of_relay);
            let Some(credentials) = entry.and_then(|entry| entry.relay.credentials.as_ref()) else {
                continue;
            };
            let is_known = before.iter().any(|entry| {
                entry.relay.id == held.allocation.relay()
                    && entry.relay.credentials.as_ref() == Some(credentials)
            });
            if !is_known && held.allocation.credentials() != credentials {
                held.allocation.set_credentials(credentials.clone(), now, &mut self.outbox);
            }
        }
    }

    /// This machine has other addresses: an allocation belongs to the one that it was made from (RFC 8656 §3.2).
    pub(crate) fn set_hosts(&mut self, hosts: &[SocketAddr], now: Instant) {
        self.hosts = hosts.to_vec();
        self.allocations.retain(|held| {
            let Carrier { local, is_stream, .. } = held.allocation.carrier();
            // A stream has a port of its own and, by IPv6, perhaps a privacy address.
            hosts.iter().any(|host| *host == local || is_stream && is_near(*host, local))
        });
        self.streams.restart(now);
        for entry in &mut self.relays {
            (entry.retry_at, entry.backoff, entry.is_mute) = (None, FIRST_BACKOFF, false);
        }
        for held in &mut self.allocations {
            held.allocation.probe(now, &mut self.outbox);
        }
    }

    /// A server has told us how it sees us. If that has changed, relays don't know us any more.
    pub(crate) fn handle_mapping(&mut self, server: SocketAddr, is_new: bool, now: Instant) {
        for held in self.allocations.iter_mut().filter(|_| is_new) {
            let Carrier { server: relay, is_stream, .. } = held.allocation.carrier();
            if relay == server && !is_stream {
                held.allocation.probe(now, &mut self.outbox);
            }
        }
    }

    /// A stream that was asked for is connected.
    pub(crate) fn handle_stream_opened(
        &mut self,
        server: StreamServer,
        local: SocketAddr,
        now: Instant,
    ) {
        // Paths say by their addresses whether they are streams: none may have the address of our socket.
        let is_wanted = self.is_missing_stream()
            && !self.streams.is_waiting(now)
            && self.allocations.len() < MAX_ALLOCATIONS
            && !self.hosts.contains(&local);
        let Some(opened) = self.streams.opened(server, local, is_wanted, now) else {
            return;
        };
        // INVARIANT: ways to relays that are not listed any more, or without credentials, are closed as unused.
        let of_relay = |entry: &&Entry| entry.relay.id == opened.relay;
        let entry = self.relays.iter().find(of_relay);
        let Some(credentials) = entry.and_then(|entry| entry.relay.credentials.clone()) else {
            return;
        };
        let carrier = Carrier { local, server: server.address(), is_stream: true };
        self.allocate(opened.relay, carrier, opened.took, credentials, now);
    }

    /// A stream that was asked for is gone, or could not be had.
    pub(crate) fn handle_stream_closed(&mut self, server: StreamServer, now: Instant) {
        let Some(local) = self.streams.closed(server, now) else { return };
        self.allocations.retain(|held| {
            let carrier = held.allocation.carrier();
            !carrier.is_stream || (carrier.local, carrier.server) != (local, server.address())
        });
    }

    /// Our addresses at relays: the nearest relay first.
    pub(crate) fn relayed(&self) -> Relayed {
        let mut held: Vec<_> = self.allocations.iter().collect();
        held.sort_by_key(|Held { allocation, .. }| allocation.round_trip());
        let mut relayed = Relayed::default();
        for Held { allocation, withdrawn, .. } in held {
            let Carrier { local, is_stream, .. } = allocation.carrier();
            let mappings = allocation.relayed().map(|mapped| Mapping { local, mapped });
            match (withdrawn, is_stream) {
                (None, false) => relayed.offered.extend(mappings),
                (None, true) => relayed.last_resorts.extend(mappings),
                (Some(_), _) => relayed.withdrawn.extend(allocation.relayed()),
            }
        }
        relayed
    }

    /// What [`Self::relayed`] says, if it was something else the last time.
    pub(crate) fn take_change(&mut self) -> Option<&Relayed> {
        let relayed = self.relayed();
        if self.announced == relayed {
            return None;
        }
        self.announced = relayed;
        Some(&self.announced)
    }

    /// Whether the portal should be asked for other relays.
    pub(crate) fn take_question(&mut self) -> bool {
        std::mem::take(&mut self.wants_others)
    }

    /// Whether a stream carries now what datagrams did not, for the first time.
    pub(crate) fn take_turn(&mut self) -> bool {
        std::mem::take(&mut self.has_turned)
    }

    /// Whether this is one of our addresses at a relay.
    pub(crate) fn has(&self, local: SocketAddr) -> bool {
        self.allocations.iter().any(|held| held.allocation.has(local))
    }

    /// The channel that a datagram from one of our addresses at a relay to a peer leaves by. `None`: there is no way. If
    /// an answer is expected and does not come, the relay is asked whether it still is there.
    pub(crate) fn channel(
        &mut self,
        local: SocketAddr,
        peer: SocketAddr,
        expects_answer: bool,
        now: Instant,
    ) -> Option<Channel> {
        let held = self.allocations.iter_mut().find(|held| held.allocation.has(local))?;
        let number = held.allocation.outbound(peer, now, &mut self.outbox)?;
        if expects_answer {
            held.allocation.note_sent(now);
        }
        Some(Channel { path: held.allocation.carrier().path(), number })
    }

    /// Puts the header of a channel in front of a datagram from one of our addresses at a relay.
    pub(crate) fn wrap(&mut self, transmit: &Transmit, now: Instant) -> Option<Transmit> {
        let Path { local, remote } = transmit.path;
        let header = Header::parse(&transmit.payload);
        let expects_answer = header.is_some_and(|header| header.class == Class::Request);
        let channel = self.channel(local?, remote, expects_answer, now)?;
        let header = channel.header(transmit.payload.len());
        let mut payload = Vec::with_capacity(CHANNEL_HEADER + transmit.payload.len());
        payload.extend(header);
        payload.extend(&transmit.payload);
        Some(Transmit { path: channel.path, payload })
    }

    /// What a relay brought by a channel, as if it came from the peer. `None`: it is no such thing.
    pub(crate) fn unwrap<'a>(
        &mut self,
        datagram: Datagram<'a>,
        now: Instant,
    ) -> Option<Datagram<'a>> {
        let ChannelData { channel, payload } = ChannelData::parse(datagram.payload)?;
        let allocation = self.carried_by(datagram)?;
        let (local, remote) = allocation.inbound(channel, now)?;
        Some(Datagram { local, remote, payload })
    }

    /// What a relay brought from a peer that has no channel (RFC 8656 §11.6): its address is another one than we
    /// were told, as behind a symmetric NAT.
    pub(crate) fn unwrap_indication<'a>(
        &mut self,
        datagram: Datagram<'a>,
        message: &Message<'a>,
    ) -> Option<Datagram<'a>> {
        if !message.is(Method::DATA, Class::Indication) {
            return None;
        }
        let allocation = self.carried_by(datagram)?;
        let remote = message.xor_addresses(Attribute::XOR_PEER_ADDRESS).next()??;
        let local = allocation.relayed_like(remote)?;
        Some(Datagram { local, remote, payload: message.first(Attribute::DATA)? })
    }

    /// Takes a STUN response. False: it answers none of our requests.
    pub(crate) fn handle_response(
        &mut self,
        datagram: Datagram<'_>,
        message: &Message<'_>,
        now: Instant,
    ) -> bool {
        let is_from = |held: &&mut Held| is_carried_by(&held.allocation, datagram);
        self.allocations
            .iter_mut()
            .filter(is_from)
            .any(|held| held.allocation.handle_response(message, now, &mut self.outbox))
    }

    /// Gives all allocations back and asks for no others.
    pub(crate) fn release(&mut self, now: Instant) {
        self.relays.clear();
        for mut held in self.allocations.drain(..) {
            held.allocation.release(now, &mut self.outbox);
        }
    }

    pub(crate) fn poll_transmit(&mut self) -> Option<Transmit> {
        self.outbox.transmits.pop_front()
    }

    pub(crate) fn poll_stream_request(&mut self) -> Option<StreamRequest> {
        self.streams.poll_request()
    }

    pub(crate) fn next_timeout(&self) -> Option<Instant> {
        let allocations = self.allocations.iter().filter_map(|held| {
            let release = held.withdrawn.map(|at| at + LINGER);
            [held.allocation.next_timeout(), release].into_iter().flatten().min()
        });
        let retries = self.relays.iter().filter_map(|entry| entry.retry_at);
        let streams = self.streams.next_timeout(self.is_missing_stream());
        let others = [self.starvation.next_timeout(), self.withdraw_at(), streams];
        allocations.chain(retries).chain(others.into_iter().flatten()).min()
    }

    pub(crate) fn handle_timeout(&mut self, now: Instant) {
        for held in &mut self.allocations {
            held.allocation.handle_timeout(now, &mut self.outbox);
        }
        self.streams.handle_timeout(now);
    }

    fn allocate(
        &mut self,
        relay: Uuid,
        carrier: Carrier,
        round_trip: Duration,
        credentials: RelayCredentials,
        now: Instant,
    ) {
        let outbox = &mut self.outbox;
        let allocation = Allocation::new(relay, carrier, round_trip, credentials, now, outbox);
        self.allocations.push(Held { allocation, is_suspect: false, withdrawn: None });
    }

    /// Whether a stream would be of use, and there is none that lasts.
    fn is_missing_stream(&self) -> bool {
        self.streams.are_wanted() && !self.has_lasting_stream()
    }

    /// Whether packets can go by a stream, and for some time.
    fn has_lasting_stream(&self) -> bool {
        let mut streams = self.allocations.iter().filter(|held| held.is_stream() && held.is_used());
        streams.any(|held| !self.has_no_future(&held.allocation))
    }

    /// Whether packets can go by a stream.
    pub(crate) fn has_stream(&self) -> bool {
        self.allocations.iter().any(|held| held.is_stream() && held.is_used())
    }

    fn carried_by(&mut self, datagram: Datagram<'_>) -> Option<&mut Allocation> {
        self.allocations
            .iter_mut()
            .map(|held| &mut held.allocation)
            .find(|allocation| is_carried_by(allocation, datagram))
    }
}

/// Whether two addresses of this machine go when one of them goes.
fn is_near(one: SocketAddr, other: SocketAddr) -> bool {
    match (one.ip(), other.ip()) {
        (IpAddr::V6(one), IpAddr::V6(other)) => one.segments()[..4] == other.segments()[..4],
        (one, other) => one == other,
    }
}

fn is_carried_by(allocation: &Allocation, datagram: Datagram<'_>) -> bool {
    let Carrier { local, server, .. } = allocation.carrier();
    datagram.remote == server && datagram.local == local
}
