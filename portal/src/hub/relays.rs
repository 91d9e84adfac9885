//! Relays: which there are, and which of them a peer is given.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use connlib_portal_api::credentials::{self, TurnCredentials};
use connlib_portal_api::messages::common::{Relay, RelaysPresence, TurnServer, UnixTime};
use connlib_portal_api::messages::{client, gateway};
use connlib_portal_api::{PublicKey, RelayId, Secret};

use super::ConnectionId;
use super::output::Outbox;
use super::peers::{Connection, Peer, RelayPeer};
use super::world::{World, rendezvous};
use crate::policy::{Policy, RelayAccess};
use crate::store::{Change, Relay as Record, TokenId};

/// TURN relays that a peer is given (spec 1.11).
const RELAYS_PER_PEER: usize = 2;
/// A relay that is back within this time was never away (spec 1.11).
const DEBOUNCE: Duration = Duration::from_secs(1);
/// How long a relay that an earlier process knew may take to come back: a peer's longest back-off.
const PRESUMED_FOR: Duration = Duration::from_secs(120);

/// The relays that have joined; those of the policy file come from there.
#[derive(Debug, Default)]
pub(super) struct Relays {
    joined: BTreeMap<RelayId, Joined>,
    review_at: Option<Instant>,
}

#[derive(Debug)]
struct Joined {
    record: Record,
    connection: Option<ConnectionId>,
    /// If it is not connected: until when it counts as present.
    until: Instant,
}

/// A relay, wherever we know it from.
struct Known<'a> {
    id: RelayId,
    addresses: Vec<SocketAddr>,
    access: Access<'a>,
}

enum Access<'a> {
    Stun,
    Static { username: &'a str, password: &'a Secret },
    Stamped(&'a Secret),
}

impl Relays {
    /// Takes over what an earlier process knew.
    pub(super) fn restore(&mut self, records: Vec<Record>, now: Instant) {
        for record in records {
            let until = now + PRESUMED_FOR;
            self.joined.insert(record.id, Joined { record, connection: None, until });
            self.review_by(until);
        }
    }

    /// A relay says who it is. Gives its id, and the connection that it had before.
    pub(super) fn join(
        &mut self,
        connection: ConnectionId,
        peer: &RelayPeer,
        token: &TokenId,
        stamp_secret: Secret,
        world: &mut World,
    ) -> (RelayId, Option<ConnectionId>) {
        let id = credentials::relay_id(&stamp_secret);
        let record = Record {
            id,
            stamp_secret,
            ipv4: peer.ipv4,
            ipv6: peer.ipv6,
            port: peer.port,
            token: token.clone(),
        };
        let now = world.now.instant;
        world.outbox.persist(Change::PutRelay(record.clone()));
        // Where it is now, there is nobody else any more: it was restarted.
        for (_, other) in self.joined.iter_mut().filter(|(other, _)| **other != id) {
            if other.connection.is_none() && other.record.listens_where(&record) {
                other.until = now;
                self.review_at = Some(now);
            }
        }
        let joined = Joined { record, connection: Some(connection), until: now };
        let before = self.joined.insert(id, joined).and_then(|before| before.connection);
        self.review_by(now + DEBOUNCE);
        (id, before.filter(|before| *before != connection))
    }

    /// The connection of a relay is gone.
    pub(super) fn left(&mut self, id: RelayId, connection: ConnectionId, now: Instant) {
        if let Some(relay) = self.joined.get_mut(&id).filter(|r| r.connection == Some(connection)) {
            relay.connection = None;
            relay.until = now + DEBOUNCE;
            self.review_by(now + DEBOUNCE);
        }
    }

    /// Relays whose token has ended are no longer ours.
    pub(super) fn revoke(&mut self, tokens: impl Fn(&TokenId) -> bool, now: Instant) {
        for relay in self.joined.values_mut().filter(|relay| tokens(&relay.record.token)) {
            relay.connection = None;
            relay.until = now;
            self.review_at = Some(now);
        }
    }

    pub(super) fn next_timeout(&self) -> Option<Instant> {
        self.review_at
    }

    pub(super) fn handle_timeout(&mut self, world: &mut World) {
        if self.review_at.is_some_and(|at| at <= world.now.instant) {
            self.review(world);
        }
    }

    /// Drops relays that stayed away and tells every peer what changes for it.
    pub(super) fn review(&mut self, world: &mut World) {
        let World { policy, peers, outbox, now, .. } = world;
        self.joined.retain(|id, relay| {
            let present = relay.connection.is_some() || relay.until > now.instant;
            if !present {
                outbox.persist(Change::DeleteRelay(*id));
            }
            present
        });
        self.review_at =
            self.joined.values().filter(|r| r.connection.is_none()).map(|r| r.until).min();
        for (id, connection) in peers.iter_mut().filter(|(_, connection)| connection.joined) {
            let Some(chosen) = self.choose(policy, connection) else { continue };
            let before = std::mem::replace(&mut connection.relays, chosen);
            let after = &connection.relays;
            let gone = before.iter().filter(|(id, entries)| after.get(id) != Some(*entries));
            let new = after.iter().filter(|(id, entries)| before.get(id) != Some(*entries));
            let presence = RelaysPresence {
                disconnected_ids: gone.map(|(id, _)| *id).collect(),
                connected: new.flat_map(|(_, entries)| entries.clone()).collect(),
            };
            if presence != RelaysPresence::default() {
                tell(outbox, id, &connection.peer, presence);
            }
        }
    }

    /// Gives a peer the relays that it shall use from now on: for `init`.
    pub(super) fn assign(&self, policy: &Policy, connection: &mut Connection) -> Vec<Relay> {
        connection.relays = self.choose(policy, connection).unwrap_or_default();
        connection.relays.values().flatten().cloned().collect()
    }

    /// A peer says that it knows no relay: tells it what it shall use. True if there is any.
    pub(super) fn answer_no_relays(
        &self,
        policy: &Policy,
        id: ConnectionId,
        connection: &mut Connection,
        outbox: &mut Outbox,
    ) -> bool {
        let connected = self.assign(policy, connection);
        let any = !connected.is_empty();
        let presence = RelaysPresence { connected: connected.into(), ..Default::default() };
        tell(outbox, id, &connection.peer, presence);
        any
    }

    /// All STUN servers and two TURN relays: those that the peer has already, then by a stable
    /// hash, which spreads peers over relays.
    fn choose(
        &self,
        policy: &Policy,
        connection: &Connection,
    ) -> Option<BTreeMap<RelayId, Vec<Relay>>> {
        let (user, key, expires_at) = connection.relay_user()?;
        let (mut turn, stun): (Vec<_>, Vec<_>) =
            self.known(policy).partition(|relay| !matches!(relay.access, Access::Stun));
        turn.sort_by_cached_key(|relay| {
            (!connection.relays.contains_key(&relay.id), rendezvous(user, relay.id.0))
        });
        turn.truncate(RELAYS_PER_PEER);
        let chosen = stun.iter().chain(&turn);
        Some(chosen.map(|relay| (relay.id, relay.entries(key, expires_at))).collect())
    }

    fn known<'a>(&'a self, policy: &'a Policy) -> impl Iterator<Item = Known<'a>> {
        let written = policy.relays.iter().map(|relay| Known {
            id: relay.id,
            addresses: relay.addresses.clone(),
            access: match &relay.access {
                RelayAccess::Stun => Access::Stun,
                RelayAccess::Static { username, password } => Access::Static { username, password },
                RelayAccess::Shared(secret) => Access::Stamped(secret),
            },
        });
        let joined = self.joined.values().map(|Joined { record, .. }| Known {
            id: record.id,
            addresses: [record.ipv4.map(Into::into), record.ipv6.map(Into::into)]
                .into_iter()
                .flatten()
                .map(|ip| SocketAddr::new(ip, record.port))
                .collect(),
            access: Access::Stamped(&record.stamp_secret),
        });
        written.chain(joined)
    }

    fn review_by(&mut self, at: Instant) {
        self.review_at = Some(self.review_at.map_or(at, |before| before.min(at)));
    }
}

impl Known<'_> {
    fn entries(&self, key: PublicKey, expires_at: UnixTime) -> Vec<Relay> {
        let id = self.id;
        let turn = match &self.access {
            Access::Stun => None,
            Access::Static { username, password } => Some(TurnCredentials {
                username: (*username).to_owned(),
                password: (*password).clone(),
                expires_at: credentials::GATEWAY_TURN_EXPIRY,
            }),
            Access::Stamped(secret) => Some(TurnCredentials::new(secret, key, expires_at)),
        };
        let entry = |&addr: &SocketAddr| match turn.clone() {
            None => Relay::Stun { id, addr },
            Some(TurnCredentials { username, password, expires_at }) => {
                Relay::Turn(TurnServer { id, addr, username, password, expires_at })
            }
        };
        self.addresses.iter().map(entry).collect()
    }
}

fn tell(outbox: &mut Outbox, to: ConnectionId, peer: &Peer, presence: RelaysPresence) {
    match peer {
        Peer::Client(_) => outbox.client(to, &client::FromPortal::RelaysPresence(presence)),
        Peer::Gateway(_) => outbox.gateway(to, &gateway::FromPortal::RelaysPresence(presence)),
        Peer::Relay(_) => {}
    }
}
