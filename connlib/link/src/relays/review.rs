//! What is done about relays after each change: which are let go, and which are asked.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::allocation::{Allocation, Carrier, Refusal, State};
use super::{
    ALLOCATIONS, Entry, FIRST_BACKOFF, Held, LINGER, MAX_ALLOCATIONS, MAX_BACKOFF, OCCUPIED, Relay,
    Relays, SETTLE,
};
use crate::stun_servers::{Reached, StunServers};

/// What a relay said within this time shows that it is reached. It takes as long to find out that it is not.
const PROOF: Duration = Duration::from_secs(3);

impl Relays {
    /// Lets go of what does not work or is not wanted, and asks for what is missing: after each change. `is_travelled`:
    /// whether a link's packets leave from one of our addresses.
    pub(crate) fn review(
        &mut self,
        servers: &mut StunServers,
        is_travelled: impl Fn(SocketAddr) -> bool,
        now: Instant,
    ) {
        self.measure(servers);
        self.ask_unanswering(servers, now);
        self.drop_failed(now);
        self.drop_doubled();
        self.drop_silent(servers, now);
        self.withdraw_unwanted(is_travelled, now);
        self.start(servers, now);
        self.review_streams(servers, now);
        self.notice_starvation(now);
    }

    fn measure(&mut self, servers: &StunServers) {
        for Held { allocation, .. } in &mut self.allocations {
            let Carrier { server, is_stream, .. } = allocation.carrier();
            if let Some(reached) = servers.reached(server).filter(|_| !is_stream) {
                allocation.set_round_trip(reached.round_trip);
            }
        }
    }

    /// What does not answer Binding requests does not relay either, it may be: whoever sends nothing by it would not find
    /// out otherwise, and could be reached by nobody. Once it has answered for the allocation, it is not asked any more.
    fn ask_unanswering(&mut self, servers: &StunServers, now: Instant) {
        for Held { allocation, .. } in &mut self.allocations {
            let Carrier { server, is_stream, .. } = allocation.carrier();
            let silent_since = servers.unanswering_since(server).filter(|_| !is_stream);
            if silent_since.is_some_and(|since| !allocation.has_answered_since(since)) {
                allocation.probe(now, &mut self.outbox);
            }
        }
    }

    fn drop_failed(&mut self, now: Instant) {
        for Held { allocation, .. } in &self.allocations {
            let Carrier { local, server, is_stream } = allocation.carrier();
            if is_stream {
                if let State::Granted { .. } = allocation.state()
                    && self.streams.prove(local, server, now)
                {
                    tracing::info!(%server, "no relay answers datagrams: going by a stream");
                    self.has_turned = true;
                }
                continue;
            }
            let of_relay = |entry: &&mut Entry| entry.relay.id == allocation.relay();
            let Some(entry) = self.relays.iter_mut().find(of_relay) else { continue };
            match allocation.state() {
                State::Asked { .. } => {}
                State::Granted { .. } => (entry.backoff, entry.is_mute) = (FIRST_BACKOFF, false),
                State::Failed(Refusal::Occupied) => entry.retry_at = Some(now + OCCUPIED),
                State::Failed(refusal) => {
                    entry.is_mute = refusal == Refusal::Silence;
                    entry.retry_at = Some(now + entry.backoff);
                    entry.backoff = (entry.backoff * 2).min(MAX_BACKOFF);
                }
            }
        }
        // Of streams, the first that is granted wins.
        let has_stream = self.has_lasting_stream();
        self.allocations.retain(|held| match held.allocation.state() {
            State::Asked { .. } => !held.is_stream() || !has_stream,
            State::Granted { .. } => true,
            State::Failed(_) => false,
        });
    }

    /// A relay keeps one allocation by datagrams for us and ends it when we ask for another from a second address, as may
    /// happen once one that was given up for its credentials begins anew: the two would end each other for ever.
    fn drop_doubled(&mut self) {
        let is_doubled = |index: usize| {
            let held = &self.allocations[index];
            let mut others =
                self.allocations.iter().enumerate().filter(|(other, _)| *other != index);
            others.any(|(other, it)| {
                let is_rival = |held: &Held| !held.is_stream() && !held.allocation.is_outdated();
                let is_preferred = (it.is_granted(), other) > (held.is_granted(), index);
                is_rival(held)
                    && is_rival(it)
                    && it.allocation.relay() == held.allocation.relay()
                    && it.allocation.credentials() == held.allocation.credentials()
                    && is_preferred
            })
        };
        let doubled: Vec<_> = (0..self.allocations.len()).map(is_doubled).collect();
        let mut doubled = doubled.into_iter();
        self.allocations.retain(|_| !doubled.next().unwrap_or_default());
    }

    /// A relay that is silent while something else answers is dead. If nothing answers it is our own network, and the
    /// allocation is as good as before once that is back.
    fn drop_silent(&mut self, servers: &mut StunServers, now: Instant) {
        let allocations = &self.allocations;
        // What a stream says counts once packets can go by it.
        let counts = |held: &Held| !held.is_stream() || held.is_granted();
        let answered_since = |since| {
            let mut heard = allocations.iter().filter(|held| counts(held));
            heard.any(|held| held.allocation.has_answered_since(since))
        };
        let (mut dead, mut suspects) = (Vec::new(), Vec::new());
        for held in allocations {
            let Some(since) = held.allocation.silent_since(now) else { continue };
            let of_relay = |entry: &&Entry| entry.relay.id == held.allocation.relay();
            let Carrier { server, .. } = held.allocation.carrier();
            let listed = self.relays.iter().find(of_relay);
            let server = [server];
            let own = listed.map_or(&server[..], |entry| &entry.relay.addresses);
            // A stream has had the time to repeat what was lost.
            let is_dead = held.is_stream() || answered_since(since);
            if is_dead || servers.has_heard_other_since(own, since) {
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
            let Carrier { server, is_stream, .. } = carrier;
            tracing::debug!(%server, is_stream, "the relay is silent");
            if !is_stream {
                servers.doubt(server, now);
            }
            self.allocations.retain(|held| held.allocation.carrier() != carrier);
        }
    }

    /// Whether it ends sooner or later, whatever else there is.
    pub(super) fn has_no_future(&self, allocation: &Allocation) -> bool {
        let Carrier { server, is_stream, .. } = allocation.carrier();
        // TLS has a port of its own.
        let is_at = |address: &SocketAddr| match is_stream {
            true => address.ip() == server.ip(),
            false => *address == server,
        };
        let is_listed = self.relays.iter().any(|entry| {
            entry.relay.id == allocation.relay()
                && entry.relay.credentials.is_some()
                && entry.relay.addresses.iter().any(is_at)
        });
        !is_listed || allocation.is_outdated()
    }

    /// Whether links had better go elsewhere.
    fn is_unwanted(&self, held: &Held) -> bool {
        let is_superfluous = held.is_stream() && !self.streams.are_wanted();
        is_superfluous || self.has_no_future(&held.allocation)
    }

    /// When something that is not wanted may go.
    pub(super) fn withdraw_at(&self) -> Option<Instant> {
        let settled = self.settled();
        let used = self.allocations.iter().filter(|held| held.withdrawn.is_none());
        used.filter_map(|held| self.may_go_at(held, settled)).min()
    }

    /// When another allocation, which is wanted, has had the time to take over.
    fn settled(&self) -> Option<Instant> {
        let wanted = self.allocations.iter().filter(|held| !self.is_unwanted(held));
        let granted = wanted.filter(|held| held.withdrawn.is_none());
        let settled = granted.filter_map(|held| match held.allocation.state() {
            State::Granted { since } => Some(since + SETTLE),
            State::Asked { .. } | State::Failed(_) => None,
        });
        settled.min()
    }

    fn may_go_at(&self, held: &Held, settled: Option<Instant>) -> Option<Instant> {
        let settled = settled.filter(|_| self.is_unwanted(held))?;
        if !held.is_stream() || self.has_no_future(&held.allocation) {
            return Some(settled);
        }
        // Datagrams have to get through for as long.
        Some(settled.max(self.streams.fine_since()? + SETTLE))
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

    fn withdraw_unwanted(&mut self, is_travelled: impl Fn(SocketAddr) -> bool, now: Instant) {
        self.withdraw_one_outdated(now);
        let settled = self.settled();
        let goes: Vec<_> = self
            .allocations
            .iter()
            .map(|held| {
                held.withdrawn.is_none()
                    && self.may_go_at(held, settled).is_some_and(|at| now >= at)
            })
            .collect();
        for index in goes.into_iter().enumerate().filter_map(|(index, goes)| goes.then_some(index))
        {
            let held = &self.allocations[index];
            let is_in_doubt = held.is_stream() && !self.has_no_future(&held.allocation);
            if is_in_doubt && held.allocation.relayed().any(&is_travelled) {
                // Peers were not told of other ways yet, as the portal is away, or none of those works.
                self.streams.doubt_fine(now);
            } else if !is_in_doubt || self.has_proof(now) {
                self.allocations[index].withdrawn = Some(now);
            }
        }
        for held in self
            .allocations
            .extract_if(.., |held| held.withdrawn.is_some_and(|at| now >= at + LINGER))
        {
            // A stream says as much by its end.
            if !held.is_stream() {
                let mut allocation = held.allocation;
                allocation.release(now, &mut self.outbox);
            }
        }
    }

    /// Whether an allocation by datagrams has just shown that it works. If none has, they are asked.
    fn has_proof(&mut self, now: Instant) -> bool {
        let by_datagrams = |held: &&mut Held| !held.is_stream() && held.is_used();
        let is_recent = |held: &mut Held| {
            now.checked_sub(PROOF).is_some_and(|at| held.allocation.has_answered_since(at))
        };
        if self.allocations.iter_mut().filter(by_datagrams).any(is_recent) {
            return true;
        }
        for held in self.allocations.iter_mut().filter(by_datagrams) {
            held.allocation.probe(now, &mut self.outbox);
        }
        self.streams.doubt_fine(now + PROOF - SETTLE);
        false
    }

    /// Asks the nearest relays for allocations until there are enough.
    fn start(&mut self, servers: &StunServers, now: Instant) {
        for entry in &mut self.relays {
            entry.retry_at = entry.retry_at.filter(|at| now < *at);
        }
        loop {
            let wanted = |held: &&Held| {
                held.withdrawn.is_none() && !held.is_stream() && !self.is_unwanted(held)
            };
            let enough = self.allocations.iter().filter(wanted).count() >= ALLOCATIONS;
            let by_datagrams = self.allocations.iter().filter(|held| !held.is_stream()).count();
            if enough || by_datagrams >= MAX_ALLOCATIONS - 1 {
                return;
            }
            let Some((relay, server, reached)) = self.nearest(servers) else { return };
            let Some(credentials) = relay.credentials.clone() else { return };
            let (id, Reached { local, round_trip, .. }) = (relay.id, reached);
            let carrier = Carrier { local, server, is_stream: false };
            self.allocate(id, carrier, round_trip, credentials, now);
        }
    }

    /// The relay without an allocation that answers soonest.
    fn nearest(&self, servers: &StunServers) -> Option<(&Relay, SocketAddr, Reached)> {
        let is_free = |entry: &&Entry| {
            entry.relay.credentials.is_some()
                && entry.retry_at.is_none()
                && !self.allocations.iter().filter(|held| !held.is_stream()).any(|held| {
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
            let of_server =
                |held: &Held| !held.is_stream() && held.allocation.carrier().server == server;
            !self.allocations.iter().any(of_server)
        };
        reached
            .filter(|(_, server, _)| is_unused(*server))
            .min_by_key(|(_, _, reached)| reached.round_trip)
    }

    /// Reaches a relay by a stream while none answers datagrams.
    fn review_streams(&mut self, servers: &mut StunServers, now: Instant) {
        let deaf_since = self.deaf_since(servers, now);
        self.streams.note(deaf_since, now);
        for index in 0..self.allocations.len() {
            let held = &self.allocations[index];
            let is_wanted = self.streams.are_wanted() && !self.has_no_future(&held.allocation);
            if held.is_stream() && is_wanted {
                // It may have been left too soon.
                self.allocations[index].withdrawn = None;
            }
        }
        match self.is_missing_stream() {
            true if !self.streams.is_waiting(now) => {
                let relays = self.relays.iter().map(|entry| &entry.relay);
                let relays = relays.filter(|relay| relay.credentials.is_some());
                self.streams.connect(relays, &self.hosts, now);
            }
            true => {}
            false => self.streams.stop_connecting(now),
        }
        let is_used = |local, server| {
            let carrier = Carrier { local, server, is_stream: true };
            self.allocations.iter().any(|held| held.allocation.carrier() == carrier)
        };
        self.streams.close_unused(is_used, now);
        // Streams are left once datagrams get through again.
        servers.set_eager(self.has_stream(), now);
    }

    /// Since when no relay answers datagrams. `None`: one does, or there is no reason that one should.
    fn deaf_since(&self, servers: &StunServers, now: Instant) -> Option<Instant> {
        let by_datagrams = self.allocations.iter().filter(|it| !it.is_stream() && it.is_used());
        let mut silent_since = None;
        for held in by_datagrams {
            silent_since = silent_since.max(Some(held.allocation.silent_since(now)?));
        }
        if silent_since.is_some() {
            return silent_since;
        }
        let mut relays = self.relays.iter().filter(|entry| entry.relay.credentials.is_some());
        let is_reached = |entry: &Entry| {
            let mut addresses = entry.relay.addresses.iter();
            !entry.is_mute && addresses.any(|server| servers.reached(*server).is_some())
        };
        let has_any = relays.clone().next().is_some() && !self.hosts.is_empty();
        (has_any && !relays.any(is_reached)).then_some(now)
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
