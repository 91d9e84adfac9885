//! Relays (TURN, RFC 8656): which of them we have allocations on, and how datagrams travel through those.
//!
//! To the links, an address that a relay gave us is one more local address. Only here is known that what is sent from
//! it goes to the relay with a channel's header in front, and that what comes from the relay by a channel came from a
//! peer.

mod allocation;
mod channels;
mod requests;
mod session;
mod starvation;
mod watch;

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use connlib_stun::{Attribute, CHANNEL_HEADER, ChannelData, Class, Header, Message, Method};
use rand_chacha::ChaCha20Rng;
use uuid::Uuid;

use crate::node::Datagram;
use crate::output::{Path, Transmit};
use crate::stun_servers::{Mapping, Reached, StunServers};
use allocation::{Allocation, Carrier, Outbox, Refusal, State};
pub use session::RelayCredentials;
use starvation::Starvation;

/// Relays that we have allocations on at a time.
const ALLOCATIONS: usize = 2;

/// Those that are about to be given back come on top.
const MAX_ALLOCATIONS: usize = 4;

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
    starvation: Starvation,
    wants_others: bool,
    /// What the links know of.
    announced: Relayed,
}

/// Our addresses at relays.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Relayed {
    /// Those that links may use, with the address that each is reached from.
    pub(crate) offered: Vec<Mapping>,
    /// Those that nobody is to begin to use; what was sent to them still arrives, and may be answered.
    pub(crate) withdrawn: Vec<SocketAddr>,
}

struct Entry {
    relay: Relay,
    retry_at: Option<Instant>,
    backoff: Duration,
}

struct Held {
    allocation: Allocation,
    /// It is silent, and other servers have been asked whether it is our own network.
    is_suspect: bool,
    /// Links are not to use it any more, since then.
    withdrawn: Option<Instant>,
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
            starvation: Starvation::default(),
            wants_others: false,
            announced: Relayed::default(),
        }
    }

    /// Replaces the list. Allocations on relays that are not on it any more are kept until others are there.
    pub(crate) fn set(&mut self, relays: &[Relay], now: Instant) {
        let before = std::mem::take(&mut self.relays);
        for relay in relays.iter().take(MAX_RELAYS) {
            let same = before.iter().find(|entry| entry.relay == *relay);
            let (retry_at, backoff) =
                same.map_or((None, FIRST_BACKOFF), |entry| (entry.retry_at, entry.backoff));
            self.relays.push(Entry { relay: relay.clone(), retry_at, backoff });
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
        self.allocations.retain(|held| {
            let Carrier::Udp { local, .. } = held.allocation.carrier();
            hosts.contains(&local)
        });
        for entry in &mut self.relays {
            (entry.retry_at, entry.backoff) = (None, FIRST_BACKOFF);
        }
        for held in &mut self.allocations {
            held.allocation.probe(now, &mut self.outbox);
        }
    }

    /// A server has told us how it sees us. If that has changed, relays don't know us any more.
    pub(crate) fn handle_mapping(&mut self, server: SocketAddr, is_new: bool, now: Instant) {
        for held in self.allocations.iter_mut().filter(|_| is_new) {
            let Carrier::Udp { server: relay, .. } = held.allocation.carrier();
            if relay == server {
                held.allocation.probe(now, &mut self.outbox);
            }
        }
    }

    /// Our addresses at relays: the nearest relay first.
    pub(crate) fn relayed(&self) -> Relayed {
        let mut held: Vec<_> = self.allocations.iter().collect();
        held.sort_by_key(|held| held.allocation.round_trip());
        let mut relayed = Relayed::default();
        for Held { allocation, withdrawn, .. } in held {
            let Carrier::Udp { local, .. } = allocation.carrier();
            match withdrawn {
                None => {
                    let mappings = allocation.relayed().map(|mapped| Mapping { local, mapped });
                    relayed.offered.extend(mappings);
                }
                Some(_) => relayed.withdrawn.extend(allocation.relayed()),
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

    pub(crate) fn next_timeout(&self) -> Option<Instant> {
        let allocations = self.allocations.iter().filter_map(|held| {
            let release = held.withdrawn.map(|at| at + LINGER);
            [held.allocation.next_timeout(), release].into_iter().flatten().min()
        });
        let retries = self.relays.iter().filter_map(|entry| entry.retry_at);
        let question = self.starvation.next_timeout();
        allocations.chain(retries).chain(question).chain(self.withdraw_at()).min()
    }

    pub(crate) fn handle_timeout(&mut self, now: Instant) {
        for held in &mut self.allocations {
            held.allocation.handle_timeout(now, &mut self.outbox);
        }
    }

    /// Lets go of what does not work or is not wanted, and asks for what is missing: after each change.
    pub(crate) fn review(&mut self, servers: &mut StunServers, now: Instant) {
        self.measure(servers);
        self.drop_failed(now);
        self.drop_silent(servers, now);
        self.withdraw_unwanted(now);
        self.start(servers, now);
        self.notice_starvation(now);
    }

    fn carried_by(&mut self, datagram: Datagram<'_>) -> Option<&mut Allocation> {
        self.allocations
            .iter_mut()
            .map(|held| &mut held.allocation)
            .find(|allocation| is_carried_by(allocation, datagram))
    }

    fn measure(&mut self, servers: &StunServers) {
        for Held { allocation, .. } in &mut self.allocations {
            let Carrier::Udp { server, .. } = allocation.carrier();
            if let Some(reached) = servers.reached(server) {
                allocation.set_round_trip(reached.round_trip);
            }
        }
    }

    fn drop_failed(&mut self, now: Instant) {
        for Held { allocation, .. } in &self.allocations {
            let of_relay = |entry: &&mut Entry| entry.relay.id == allocation.relay();
            let Some(entry) = self.relays.iter_mut().find(of_relay) else { continue };
            match allocation.state() {
                State::Asked { .. } => {}
                State::Granted { .. } => entry.backoff = FIRST_BACKOFF,
                State::Failed(Refusal::Occupied) => entry.retry_at = Some(now + OCCUPIED),
                State::Failed(_) => {
                    entry.retry_at = Some(now + entry.backoff);
                    entry.backoff = (entry.backoff * 2).min(MAX_BACKOFF);
                }
            }
        }
        self.allocations.retain(|held| !matches!(held.allocation.state(), State::Failed(_)));
    }

    /// A relay that is silent while something else answers is dead. If nothing answers it is our own network, and the
    /// allocation is as good as before once that is back.
    fn drop_silent(&mut self, servers: &mut StunServers, now: Instant) {
        let allocations = &self.allocations;
        let answered_since =
            |since| allocations.iter().any(|held| held.allocation.has_answered_since(since));
        let (mut dead, mut suspects) = (Vec::new(), Vec::new());
        for held in allocations {
            let Some(since) = held.allocation.silent_since(now) else { continue };
            let of_relay = |entry: &&Entry| entry.relay.id == held.allocation.relay();
            let Carrier::Udp { server, .. } = held.allocation.carrier();
            let listed = self.relays.iter().find(of_relay);
            let server = [server];
            let own = listed.map_or(&server[..], |entry| &entry.relay.addresses);
            if answered_since(since) || servers.has_heard_other_since(own, since) {
                dead.push(held.allocation.carrier());
            } else {
                suspects.push(held.allocation.carrier());
            }
        }
        for held in &mut self.allocations {
            let is_suspect = suspects.contains(&held.allocation.carrier());
            if is_suspect && !held.is_suspect {
                servers.ask(now);
            }
            held.is_suspect = is_suspect;
        }
        for carrier in dead {
            let Carrier::Udp { server, .. } = carrier;
            tracing::debug!(%server, "the relay is silent");
            servers.doubt(server, now);
            self.allocations.retain(|held| held.allocation.carrier() != carrier);
        }
    }

    /// Whether links had better go elsewhere.
    fn is_unwanted(&self, allocation: &Allocation) -> bool {
        let Carrier::Udp { server, .. } = allocation.carrier();
        let is_listed = self.relays.iter().any(|entry| {
            entry.relay.id == allocation.relay()
                && entry.relay.credentials.is_some()
                && entry.relay.addresses.contains(&server)
        });
        !is_listed || allocation.is_outdated()
    }

    /// When an allocation that is not wanted may go: once another one has had the time to take over.
    fn withdraw_at(&self) -> Option<Instant> {
        let (mut is_any_unwanted, mut settled) = (false, None::<Instant>);
        for Held { allocation, .. } in self.allocations.iter().filter(|h| h.withdrawn.is_none()) {
            match allocation.state() {
                _ if self.is_unwanted(allocation) => is_any_unwanted = true,
                State::Granted { since } => {
                    let at = since + SETTLE;
                    settled = Some(settled.map_or(at, |other| other.min(at)));
                }
                State::Asked { .. } | State::Failed(_) => {}
            }
        }
        settled.filter(|_| is_any_unwanted)
    }

    /// If no relay goes on with the credentials that we have now, one has to be left so that it can be asked anew, while
    /// links go on by the other.
    fn withdraw_one_outdated(&mut self, now: Instant) {
        let is_outdated = |held: &&Held| {
            let is_granted = matches!(held.allocation.state(), State::Granted { .. });
            is_granted && held.allocation.is_outdated() && held.withdrawn.is_none()
        };
        let outdated = self.allocations.iter().filter(is_outdated).count();
        if outdated < ALLOCATIONS || outdated < self.allocations.len() {
            return;
        }
        let farthest = self.allocations.iter_mut().max_by_key(|held| held.allocation.round_trip());
        if let Some(held) = farthest {
            held.withdrawn = Some(now);
        }
    }

    fn withdraw_unwanted(&mut self, now: Instant) {
        self.withdraw_one_outdated(now);
        if self.withdraw_at().is_some_and(|at| now >= at) {
            let unwanted: Vec<_> =
                self.allocations.iter().map(|held| self.is_unwanted(&held.allocation)).collect();
            for (held, is_unwanted) in self.allocations.iter_mut().zip(unwanted) {
                if is_unwanted {
                    held.withdrawn.get_or_insert(now);
                }
            }
        }
        for held in self
            .allocations
            .extract_if(.., |held| held.withdrawn.is_some_and(|at| now >= at + LINGER))
        {
            let mut allocation = held.allocation;
            allocation.release(now, &mut self.outbox);
        }
    }

    /// Asks the nearest relays for allocations until there are enough.
    fn start(&mut self, servers: &StunServers, now: Instant) {
        for entry in &mut self.relays {
            entry.retry_at = entry.retry_at.filter(|at| now < *at);
        }
        loop {
            let wanted =
                |held: &&Held| held.withdrawn.is_none() && !self.is_unwanted(&held.allocation);
            let enough = self.allocations.iter().filter(wanted).count() >= ALLOCATIONS;
            if enough || self.allocations.len() >= MAX_ALLOCATIONS {
                return;
            }
            let Some((relay, server, reached)) = self.nearest(servers) else { return };
            let Some(credentials) = relay.credentials.clone() else { return };
            let (id, Reached { local, round_trip, .. }) = (relay.id, reached);
            let carrier = Carrier::Udp { local, server };
            let allocation =
                Allocation::new(id, carrier, round_trip, credentials, now, &mut self.outbox);
            self.allocations.push(Held { allocation, is_suspect: false, withdrawn: None });
        }
    }

    /// The relay without an allocation that answers soonest.
    fn nearest(&self, servers: &StunServers) -> Option<(&Relay, SocketAddr, Reached)> {
        let is_free = |entry: &&Entry| {
            entry.relay.credentials.is_some()
                && entry.retry_at.is_none()
                && !self.allocations.iter().any(|held| {
                    held.allocation.relay() == entry.relay.id && !held.allocation.is_outdated()
                })
        };
        let relays = self.relays.iter().filter(is_free).map(|entry| &entry.relay);
        let reached = relays.flat_map(|relay| {
            relay
                .addresses
                .iter()
                .filter_map(move |server| Some((relay, *server, servers.reached(*server)?)))
        });
        // The relay knows an outdated one by its addresses, and would not make another there.
        let is_unused = |server: SocketAddr| {
            let of_server = |held: &Held| held.allocation.carrier().path().remote == server;
            !self.allocations.iter().any(of_server)
        };
        reached
            .filter(|(_, server, _)| is_unused(*server))
            .min_by_key(|(_, _, reached)| reached.round_trip)
    }

    fn notice_starvation(&mut self, now: Instant) {
        let has_any = self
            .allocations
            .iter()
            .any(|held| matches!(held.allocation.state(), State::Granted { .. }));
        let wants_any = self.relays.iter().any(|entry| entry.relay.credentials.is_some());
        self.wants_others |= self.starvation.review(wants_any && !has_any, now);
    }
}

fn is_carried_by(allocation: &Allocation, datagram: Datagram<'_>) -> bool {
    let Carrier::Udp { local, server } = allocation.carrier();
    datagram.remote == server && datagram.local == local
}
