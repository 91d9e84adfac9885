//! Authorizations: asked for, confirmed by a gateway, ended.
//!
//! A request goes to a gateway and waits for its answer (pending); with the answer it lasts (live)
//! and the client is told. Live ones outlive connections and the portal itself.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::time::{Duration, Instant};

use connlib_portal_api::messages::client;
use connlib_portal_api::messages::common::{self, Reason, UnixTime};
use connlib_portal_api::messages::gateway::{self, CreateAuthorization};
use connlib_portal_api::{ClientId, GatewayId, PublicKey, ResourceId};

use super::ConnectionId;
use super::access::{self, Grant, Session};
use super::notices::{self, fail, reject};
use super::peers::{ClientPeer, Credential};
use super::world::{World, rendezvous};
use crate::policy::{Policy, Resource};
use crate::store::{Authorization, Change};

/// How long a gateway may take to confirm before the client hears `offline` (spec 1.11).
const CONFIRM_TIMEOUT: Duration = Duration::from_secs(15);
/// A client that asks again within this time does not make us ask the gateway again.
const RESEND_INTERVAL: Duration = Duration::from_secs(1);
/// How many gateways a client may prefer; more are not looked at.
const MAX_CONNECTED: usize = 64;
/// How many authorizations are moved to a restarted gateway at once.
const RECREATIONS_IN_FLIGHT: usize = 16;

/// Whose authorization of what.
pub(super) type Key = (ClientId, ResourceId);

/// All authorizations.
#[derive(Debug, Default)]
pub(super) struct Authorizations {
    live: BTreeMap<Key, Live>,
    pending: BTreeMap<Key, Pending>,
    /// The key of a pending one by its reference.
    references: HashMap<String, Key>,
    /// What shall be moved to a restarted gateway, once there is room.
    recreations: BTreeMap<GatewayId, VecDeque<Key>>,
}

#[derive(Debug)]
struct Live {
    record: Authorization,
    expires_at: Option<u64>,
}

#[derive(Debug)]
struct Pending {
    record: Authorization,
    message: Box<CreateAuthorization>,
    /// The gateway's.
    connection: ConnectionId,
    deadline: Instant,
    sent_at: Instant,
    /// Whether the client waits for it; else it is a move to a restarted gateway.
    asked: bool,
}

impl Authorizations {
    /// Takes over what an earlier process left. The next review sorts it.
    pub(super) fn restore(&mut self, records: Vec<Authorization>) {
        for record in records {
            let key = (record.client, record.resource);
            self.live.insert(key, Live { record, expires_at: None });
        }
    }

    /// A client wants to reach a resource.
    pub(super) fn request(
        &mut self,
        world: &mut World,
        client: &ClientPeer,
        credential: &Credential,
        request: &client::RequestAuthorization,
    ) {
        let key = (client.id, request.resource_id);
        if let Some(pending) = self.pending.get_mut(&key) {
            pending.asked = true;
            pending.resend(world);
            return;
        }
        let Some(resource) = world.policy.resources.get(&key.1) else {
            return fail(world, key, Reason::NotFound);
        };
        let now = world.now.unix;
        let session = Session { started_at: now, token_expires_at: credential.expires_at };
        if access::grant(&world.policy, client.owner, key.1, session, now).is_none() {
            return fail(world, key, Reason::Forbidden);
        }
        let connected = &request.connected_gateway_ids;
        let connected = connected.get(..MAX_CONNECTED).unwrap_or(connected);
        let chosen = choose(world, client.id, resource, connected, self.gateway_of(key));
        let Some((gateway, gateway_key)) = chosen else {
            return fail(world, key, Reason::Offline);
        };
        let record = Authorization {
            id: world.ids.next(),
            client: client.id,
            owner: client.owner,
            client_key: client.key,
            resource: key.1,
            gateway,
            gateway_key,
            token: credential.token.clone(),
            token_expires_at: credential.expires_at,
            created_at: now,
        };
        let deadline = world.now.instant + CONFIRM_TIMEOUT;
        if let Err(reason) = self.start(world, record, deadline, true) {
            fail(world, key, reason);
        }
    }

    /// Asks a gateway.
    fn start(
        &mut self,
        world: &mut World,
        record: Authorization,
        deadline: Instant,
        asked: bool,
    ) -> Result<(), Reason> {
        let key = (record.client, record.resource);
        let grant = check(&world.policy, &record, world.now.unix)?;
        let (_, client) = world.peers.client(record.client).ok_or(Reason::Offline)?;
        let (connection, gateway) = world.peers.gateway(record.gateway).ok_or(Reason::Offline)?;
        let resource = world.policy.resources.get(&record.resource).ok_or(Reason::NotFound)?;
        let reference = world.ids.next().simple().to_string();
        let message = notices::create(world, &record, grant, client, gateway, resource, reference);
        let message = Box::new(message);
        world
            .outbox
            .gateway(connection, &gateway::FromPortal::CreateAuthorization(message.clone()));
        self.references.insert(message.reference.clone(), key);
        let sent_at = world.now.instant;
        let pending = Pending { record, message, connection, deadline, sent_at, asked };
        self.pending.insert(key, pending);
        Ok(())
    }

    /// A gateway confirms. False if nothing of that reference is expected of it.
    pub(super) fn confirm(
        &mut self,
        world: &mut World,
        connection: ConnectionId,
        reference: &str,
    ) -> bool {
        let Some(key) = self.references.get(reference).copied() else { return false };
        if self.pending.get(&key).is_none_or(|pending| pending.connection != connection) {
            return false;
        }
        let Some(Pending { record, .. }) = self.take(key) else { return false };
        let gateway = record.gateway;
        match check(&world.policy, &record, world.now.unix) {
            Ok(grant) => self.put(world, record, grant),
            // It ended while the gateway took its time.
            Err(reason) => {
                reject(world, gateway, key);
                fail(world, key, reason);
            }
        }
        self.pump(world, gateway);
        true
    }

    fn put(&mut self, world: &mut World, record: Authorization, grant: Grant) {
        let key = (record.client, record.resource);
        world.outbox.persist(Change::PutAuthorization(record.clone()));
        world.expires_at(grant.expires_at);
        notices::created(world, &record, grant);
        let live = Live { record, expires_at: grant.expires_at };
        let gateway = live.record.gateway;
        if let Some(before) = self.live.insert(key, live).filter(|b| b.record.gateway != gateway) {
            reject(world, before.record.gateway, key);
        }
    }

    /// A gateway that knows no relay was given some: what waits for it is sent again.
    pub(super) fn resend(&mut self, world: &mut World, connection: ConnectionId) {
        for pending in self.pending.values_mut().filter(|p| p.connection == connection) {
            pending.resend(world);
        }
    }

    /// A gateway is there. If it has restarted, what its clients had through it moves to its new key.
    pub(super) fn gateway_joined(&mut self, world: &mut World, id: GatewayId) {
        self.recreate(world, |record| record.gateway == id);
    }

    /// A client is there. What it had with another key has ended with that key.
    pub(super) fn client_joined(&mut self, world: &mut World, id: ClientId, key: PublicKey) {
        self.end(world, |record| record.client == id && record.client_key != key);
        self.recreate(world, |record| record.client == id);
    }

    /// A gateway is gone. Clients that wait for it get another one, or an answer.
    pub(super) fn gateway_left(&mut self, world: &mut World, id: GatewayId) {
        self.recreations.remove(&id);
        for key in self.pending_keys(|pending| pending.record.gateway == id) {
            let Some(pending) = self.take(key).filter(|pending| pending.asked) else { continue };
            let other = world
                .policy
                .resources
                .get(&key.1)
                .and_then(|resource| choose(world, key.0, resource, &[], self.gateway_of(key)));
            let started = other.ok_or(Reason::Offline).and_then(|(gateway, gateway_key)| {
                let record = Authorization { gateway, gateway_key, ..pending.record };
                self.start(world, record, pending.deadline, true)
            });
            if let Err(reason) = started {
                fail(world, key, reason);
            }
        }
    }

    /// Drops what gateways did not confirm in time.
    pub(super) fn handle_timeout(&mut self, world: &mut World) {
        let now = world.now.instant;
        for key in self.pending_keys(|pending| pending.deadline <= now) {
            self.abandon(world, key, Some(Reason::Offline));
        }
    }

    pub(super) fn next_timeout(&self) -> Option<Instant> {
        self.pending.values().map(|pending| pending.deadline).min()
    }

    /// Ends what the policy no longer allows, or what is about a resource that is another one now.
    /// Gives what ended; notes when the next one ends.
    pub(super) fn review(
        &mut self,
        world: &mut World,
        changed: &BTreeSet<ResourceId>,
    ) -> BTreeSet<Key> {
        let now = world.now.unix;
        for key in self.pending_keys(|_| true) {
            let Some(pending) = self.pending.get_mut(&key) else { continue };
            match check(&world.policy, &pending.record, now) {
                Ok(_) if changed.contains(&key.1) => self.abandon(world, key, None),
                Ok(grant) => pending.update(&world.policy, grant),
                Err(reason) => self.abandon(world, key, Some(reason)),
            }
        }
        let mut ended = BTreeSet::new();
        for (key, live) in &mut self.live {
            match check(&world.policy, &live.record, now) {
                Ok(grant) if !changed.contains(&key.1) => {
                    live.expires_at = grant.expires_at;
                    world.expires_at(grant.expires_at);
                }
                _ => {
                    ended.insert(*key);
                }
            }
        }
        for key in &ended {
            self.revoke(world, *key);
        }
        // Who has asked anew meanwhile waits for the answer to that.
        ended.retain(|key| !self.pending.contains_key(key));
        ended
    }

    /// Ends all of which this holds. Gives what ended.
    pub(super) fn end(
        &mut self,
        world: &mut World,
        which: impl Fn(&Authorization) -> bool,
    ) -> BTreeSet<Key> {
        for key in self.pending_keys(|pending| which(&pending.record)) {
            self.abandon(world, key, None);
        }
        let ended: BTreeSet<_> =
            self.live.iter().filter(|(_, live)| which(&live.record)).map(|(key, _)| *key).collect();
        for key in &ended {
            self.revoke(world, *key);
        }
        ended
    }

    /// Filters of a resource changed: tells the gateways through which it is reached.
    pub(super) fn update_filters(&self, world: &mut World, id: ResourceId) {
        let Some(resource) = world.policy.resources.get(&id) else { return };
        let message = gateway::FromPortal::ResourceUpdated(access::for_gateway(resource));
        let live = self.live.values().map(|live| &live.record);
        let pending = self.pending.values().map(|pending| &pending.record);
        let gateways: BTreeSet<_> = live
            .chain(pending)
            .filter(|record| record.resource == id)
            .filter_map(|record| world.peers.gateway(record.gateway))
            .map(|(connection, _)| connection)
            .collect();
        for connection in gateways {
            world.outbox.gateway(connection, &message);
        }
    }

    /// All that a gateway shall let through: for `init`.
    pub(super) fn snapshot(&self, gateway: GatewayId) -> Vec<common::Authorization> {
        self.live
            .values()
            .filter(|live| live.record.gateway == gateway)
            .map(|live| common::Authorization {
                client_id: live.record.client,
                resource_id: live.record.resource,
                expires_at: live.expires_at.map(UnixTime),
            })
            .collect()
    }

    /// Whether these two have anything to say to each other.
    pub(super) fn linked(&self, client: ClientId, gateway: GatewayId) -> bool {
        let all = (client, ResourceId::from_u128(0))..=(client, ResourceId::from_u128(u128::MAX));
        self.live.range(all.clone()).any(|(_, live)| live.record.gateway == gateway)
            || self.pending.range(all).any(|(_, pending)| pending.record.gateway == gateway)
    }

    /// Queues what is live but made with a key that its gateway no longer has, if the client is
    /// there to be told.
    fn recreate(&mut self, world: &mut World, which: impl Fn(&Authorization) -> bool) {
        let mut gateways = BTreeSet::new();
        for (key, live) in self.live.iter().filter(|(_, live)| which(&live.record)) {
            if is_stale(world, &live.record) {
                let queue = self.recreations.entry(live.record.gateway).or_default();
                if !queue.contains(key) {
                    queue.push_back(*key);
                }
                gateways.insert(live.record.gateway);
            }
        }
        for gateway in gateways {
            self.pump(world, gateway);
        }
    }

    /// Moves queued authorizations to a restarted gateway, some at a time.
    fn pump(&mut self, world: &mut World, gateway: GatewayId) {
        let moving = |pending: &Pending| pending.record.gateway == gateway && !pending.asked;
        let mut in_flight = self.pending.values().filter(|pending| moving(pending)).count();
        while in_flight < RECREATIONS_IN_FLIGHT {
            let Some(key) = self.recreations.get_mut(&gateway).and_then(VecDeque::pop_front) else {
                self.recreations.remove(&gateway);
                return;
            };
            let Some(live) = self.live.get(&key) else { continue };
            if self.pending.contains_key(&key) || !is_stale(world, &live.record) {
                continue;
            }
            let deadline = world.now.instant + CONFIRM_TIMEOUT;
            let Some((_, gateway)) = world.peers.gateway(gateway) else { continue };
            let record = Authorization { gateway_key: gateway.key, ..live.record.clone() };
            if self.start(world, record, deadline, false).is_ok() {
                in_flight += 1;
            }
        }
    }

    fn gateway_of(&self, key: Key) -> Option<GatewayId> {
        self.live.get(&key).map(|live| live.record.gateway)
    }

    fn pending_keys(&self, which: impl Fn(&Pending) -> bool) -> Vec<Key> {
        self.pending.iter().filter(|(_, pending)| which(pending)).map(|(key, _)| *key).collect()
    }

    fn take(&mut self, key: Key) -> Option<Pending> {
        let pending = self.pending.remove(&key)?;
        self.references.remove(&pending.message.reference);
        Some(pending)
    }

    /// Gives up waiting for a gateway. It may have the authorization all the same, so that is taken
    /// back, unless it was live before. A client that waits is told the reason, if there is one.
    fn abandon(&mut self, world: &mut World, key: Key, reason: Option<Reason>) {
        let Some(Pending { record, asked, .. }) = self.take(key) else { return };
        let stands = self.live.get(&key).is_some_and(|live| {
            let before = &live.record;
            before.gateway == record.gateway && before.gateway_key == record.gateway_key
        });
        if !stands {
            reject(world, record.gateway, key);
        }
        if let Some(reason) = reason.filter(|_| asked) {
            fail(world, key, reason);
        }
        self.pump(world, record.gateway);
    }

    fn revoke(&mut self, world: &mut World, key: Key) {
        let Some(live) = self.live.remove(&key) else { return };
        let (client, resource) = key;
        world.outbox.persist(Change::DeleteAuthorization { client, resource });
        let gateway = live.record.gateway;
        // A gateway that has been asked anew has replaced the old one already: this would end the new one.
        if self.pending.get(&key).is_none_or(|pending| pending.record.gateway != gateway) {
            reject(world, gateway, key);
        }
    }
}

impl Pending {
    /// The policy has changed under way: what is sent again shall say what holds now.
    fn update(&mut self, policy: &Policy, grant: Grant) {
        self.message.expires_at = grant.expires_at.map(UnixTime);
        if let Some(resource) = policy.resources.get(&self.record.resource) {
            self.message.resource = access::for_gateway(resource);
        }
    }

    fn resend(&mut self, world: &mut World) {
        if self.sent_at + RESEND_INTERVAL <= world.now.instant {
            self.sent_at = world.now.instant;
            let message = gateway::FromPortal::CreateAuthorization(self.message.clone());
            world.outbox.gateway(self.connection, &message);
        }
    }
}

/// A gateway that is there and serves the resource: one that the client is connected to, or has
/// the resource through, or the one that a stable hash gives.
fn choose(
    world: &World,
    client: ClientId,
    resource: &Resource,
    connected: &[GatewayId],
    current: Option<GatewayId>,
) -> Option<(GatewayId, PublicKey)> {
    let gateways = world.policy.gateways.values();
    gateways
        .filter(|gateway| resource.sites.contains(&gateway.site))
        .filter_map(|gateway| world.peers.gateway(gateway.id))
        .map(|(_, gateway)| (gateway.id, gateway.key))
        .min_by_key(|(id, _)| {
            (!connected.contains(id), current != Some(*id), rendezvous(client.0, id.0))
        })
}

/// Whether the policy allows it as it is.
fn check(policy: &Policy, record: &Authorization, now: u64) -> Result<Grant, Reason> {
    let resource = policy.resources.get(&record.resource).ok_or(Reason::NotFound)?;
    let gateway = policy.gateways.get(&record.gateway).ok_or(Reason::Offline)?;
    if !resource.sites.contains(&gateway.site) {
        return Err(Reason::Offline);
    }
    let session =
        Session { started_at: record.created_at, token_expires_at: record.token_expires_at };
    access::grant(policy, record.owner, record.resource, session, now).ok_or(Reason::Forbidden)
}

/// Whether the gateway has restarted since, and the client has not.
fn is_stale(world: &World, record: &Authorization) -> bool {
    let gateway = world.peers.gateway(record.gateway);
    let client = world.peers.client(record.client);
    gateway.is_some_and(|(_, gateway)| gateway.key != record.gateway_key)
        && client.is_some_and(|(_, client)| client.key == record.client_key)
}
