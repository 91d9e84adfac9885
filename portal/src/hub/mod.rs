//! The portal as a state machine: who is connected, what is authorized, what is under way.
//!
//! No sockets, no files, no clock, no randomness of its own: every call says what time it is, and
//! the same calls give the same outputs. After each call, drain [`Hub::poll_output`]:
//!
//! ```
//! # use connlib_portal::{hub::{Hub, Now, Output}, policy};
//! # let (policy, _) = policy::parse("").unwrap();
//! # let now = Now { instant: std::time::Instant::now(), unix: 0 };
//! let mut hub = Hub::new(policy, [0; 32], now);
//! hub.handle_timeout(now);
//! let wake_at = loop {
//!     match hub.poll_output() {
//!         Output::Send { to, text } => println!("{to}: {text}"),
//!         Output::Ping(_) | Output::Close { .. } | Output::Persist(_) => {}
//!         Output::Timeout(at) => break at,
//!     }
//! };
//! assert_eq!(wake_at, None);
//! ```

mod access;
mod authorizations;
mod candidates;
mod ingest;
mod init;
mod notices;
mod output;
mod peers;
mod relays;
mod resources;
mod world;

use std::collections::BTreeSet;
use std::time::Duration;

use connlib_portal_api::channel::{Disconnect, Frame, HEARTBEAT_TOPIC, Reply, event};
use connlib_portal_api::messages::client;
use connlib_portal_api::messages::common::Reason;
use connlib_portal_api::messages::gateway;
use connlib_portal_api::messages::relay::{self, RelayRole};
use connlib_portal_api::messages::{DecodeError, Role as _};
use connlib_portal_api::{GatewayId, ResourceId};
use uuid::Uuid;

pub use output::{CloseReason, Output};
pub use peers::{
    AlreadyConnected, ClientPeer, ConnectionId, Credential, GatewayPeer, Peer, RelayPeer,
};
pub use world::Now;

use authorizations::Authorizations;
use ingest::IngestSigner;
use output::Outbox;
use peers::{Connection, Peers};
use relays::Relays;
use world::{Ids, World};

use crate::policy::Policy;
use crate::store::{Authorization, Change, Relay, TokenId};

/// What ends by the wall clock is looked at this often, since that clock may jump (spec 1.11).
const WALL_CLOCK_INTERVAL: Duration = Duration::from_secs(60);

/// The portal.
#[derive(Debug)]
pub struct Hub {
    world: World,
    authorizations: Authorizations,
    relays: Relays,
}

impl Hub {
    /// A portal without peers. The seed is 32 random bytes, another one for each process.
    pub fn new(policy: Policy, seed: [u8; 32], now: Now) -> Self {
        let world = World {
            next_expiry: access::next_expiry(&policy, now.unix),
            policy,
            peers: Peers::default(),
            outbox: Outbox::default(),
            signer: IngestSigner::new(seed),
            ids: Ids::new(seed),
            now,
        };
        Self { world, authorizations: Authorizations::default(), relays: Relays::default() }
    }

    /// Takes over what an earlier process has persisted, as far as the policy still allows it.
    pub fn restore(&mut self, authorizations: Vec<Authorization>, relays: Vec<Relay>, now: Now) {
        self.world.now = now;
        self.authorizations.restore(authorizations);
        self.relays.restore(relays, now.instant);
        self.review(&BTreeSet::new());
    }

    /// The policy in force.
    pub fn policy(&self) -> &Policy {
        &self.world.policy
    }

    /// How many connections there are.
    pub fn connections(&self) -> usize {
        self.world.peers.iter().count()
    }

    /// The devices of a client that are connected.
    pub fn online_devices(&self, owner: Uuid) -> Vec<Uuid> {
        let device = |connection: &Connection| match &connection.peer {
            Peer::Client(peer) if peer.owner == owner => Some(peer.id.0),
            _ => None,
        };
        self.world.peers.iter().filter_map(|(_, connection)| device(connection)).collect()
    }

    /// A peer connects that may do so. A device's second connection replaces its first; that of a
    /// gateway only if it is the same process or the first one is dead.
    ///
    /// # Errors
    /// If another process is connected as this gateway.
    pub fn connect(
        &mut self,
        peer: Peer,
        credential: Credential,
        now: Now,
    ) -> Result<ConnectionId, AlreadyConnected> {
        self.world.now = now;
        if let Peer::Gateway(gateway) = &peer
            && let Some((first, key)) = self.world.peers.gateway_connection(gateway.id)
            && key != gateway.key
        {
            if self.world.peers.probe(first, now.instant) {
                self.world.outbox.ping(first);
            }
            return Err(AlreadyConnected);
        }
        let gateway = match &peer {
            Peer::Gateway(gateway) => Some(gateway.id),
            _ => None,
        };
        self.world.expires_at(credential.expires_at);
        let (id, replaced) = self.world.peers.insert(peer, credential, now.instant);
        if let Some(replaced) = replaced {
            self.world.outbox.close(replaced, CloseReason::Replaced);
            if let Some(gateway) = gateway {
                self.authorizations.gateway_left(&mut self.world, gateway);
            }
        }
        Ok(id)
    }

    /// A connection has ended by itself.
    pub fn handle_disconnect(&mut self, id: ConnectionId, now: Now) {
        self.world.now = now;
        self.remove(id);
    }

    /// A sign of life that is no text frame.
    pub fn handle_alive(&mut self, id: ConnectionId, now: Now) {
        self.world.now = now;
        self.world.peers.heard(id, now.instant);
    }

    /// A text frame.
    pub fn handle_text(&mut self, id: ConnectionId, text: &str, now: Now) {
        self.world.now = now;
        self.world.peers.heard(id, now.instant);
        let Some(connection) = self.world.peers.get(id) else { return };
        let (topic, joined) = (connection.topic(), connection.joined);
        let frame = match Frame::parse(text) {
            Ok(frame) => frame,
            Err(error) => return self.complain(id, &error, "malformed frame"),
        };
        match (&*frame.topic, &*frame.event) {
            (HEARTBEAT_TOPIC, event::HEARTBEAT) => {
                self.world.outbox.frame(id, &Frame::reply_ok(&frame));
            }
            (of, event::JOIN) if of == topic => self.join(id, &frame),
            (of, LEAVE) if of == topic => {
                self.world.outbox.frame(id, &Frame::reply_ok(&frame));
                self.end(id, CloseReason::Left);
            }
            (of, _) if of == topic && joined => self.message(id, frame),
            _ => {
                let reply = Frame::reply_error(&frame, Reply::UNMATCHED_TOPIC);
                self.world.outbox.frame(id, &reply);
            }
        }
    }

    /// A new policy: applied as a difference that every peer concerned is told.
    pub fn set_policy(&mut self, policy: Policy, now: Now) {
        self.world.now = now;
        let old = std::mem::replace(&mut self.world.policy, policy);
        let new = &self.world.policy;
        let (mut changed, mut refiltered) = (BTreeSet::new(), BTreeSet::new());
        for (id, resource) in &new.resources {
            match old.resources.get(id) {
                Some(before) if before.target != resource.target => changed.insert(*id),
                Some(before) if before.filters != resource.filters => refiltered.insert(*id),
                _ => false,
            };
        }
        let dns_changed = old.dns != new.dns;

        self.review(&changed);
        for id in refiltered {
            self.authorizations.update_filters(&mut self.world, id);
        }
        if dns_changed {
            let World { policy, peers, outbox, .. } = &mut self.world;
            for (id, connection) in peers.iter().filter(|(_, connection)| connection.joined) {
                if let Peer::Client(peer) = &connection.peer {
                    let changed =
                        client::ConfigChanged { interface: init::interface(policy, peer) };
                    outbox.client(id, &client::FromPortal::ConfigChanged(changed));
                }
            }
        }
        self.relays.review(&mut self.world);
    }

    /// Tokens were revoked: what was made with them ends at once.
    pub fn revoke_tokens(&mut self, revoked: &BTreeSet<TokenId>, now: Now) {
        self.world.now = now;
        self.sign_out(|token| revoked.contains(token));
        let ended = self.authorizations.end(&mut self.world, |a| revoked.contains(&a.token));
        resources::update(&mut self.world, &ended);
        self.relays.revoke(|token| revoked.contains(token), now.instant);
        self.relays.handle_timeout(&mut self.world);
    }

    /// Devices made room for others.
    pub fn forget_devices(&mut self, devices: &[Uuid], now: Now) {
        self.world.now = now;
        self.authorizations.end(&mut self.world, |a| devices.contains(&a.client.0));
    }

    /// Does what is due.
    pub fn handle_timeout(&mut self, now: Now) {
        self.world.now = now;
        for id in self.world.peers.overdue(now.instant) {
            let joined = self.world.peers.get(id).is_some_and(|connection| connection.joined);
            self.end(id, if joined { CloseReason::Silent } else { CloseReason::NotJoined });
        }
        self.authorizations.handle_timeout(&mut self.world);
        self.relays.handle_timeout(&mut self.world);
        if self.world.next_expiry.is_some_and(|at| at <= now.unix) {
            self.review(&BTreeSet::new());
        }
    }

    /// Ends all connections: peers come back once a portal is there again. Nothing is revoked.
    pub fn shut_down(&mut self, now: Now) {
        self.world.now = now;
        for id in self.world.peers.ids(|_| true) {
            self.world.peers.remove(id);
            self.world.outbox.close(id, CloseReason::Shutdown);
        }
    }

    /// What to do next; `Timeout` only when nothing else is queued.
    pub fn poll_output(&mut self) -> Output {
        if let Some(output) = self.world.outbox.pop() {
            return output;
        }
        let now = self.world.now;
        let expiry = self.world.next_expiry.map(|at| {
            let wait = Duration::from_secs(at.saturating_sub(now.unix));
            now.instant + wait.min(WALL_CLOCK_INTERVAL)
        });
        let timeouts = [
            expiry,
            self.world.peers.next_timeout(),
            self.authorizations.next_timeout(),
            self.relays.next_timeout(),
        ];
        Output::Timeout(timeouts.into_iter().flatten().min())
    }

    fn join(&mut self, id: ConnectionId, frame: &Frame) {
        let Some(connection) = self.world.peers.get_mut(id) else { return };
        let (peer, token) = (connection.peer.clone(), connection.credential.token.clone());
        let relay = match &peer {
            Peer::Relay(relay) => match serde_json::from_value(frame.payload.clone()) {
                Ok(relay::Join { stamp_secret }) => Some((relay, stamp_secret)),
                Err(_) => {
                    let reply = Frame::reply_error(frame, "invalid_stamp_secret");
                    self.world.outbox.frame(id, &reply);
                    return self.end(id, CloseReason::Left);
                }
            },
            _ => None,
        };
        connection.joined = true;
        self.world.outbox.frame(id, &Frame::reply_ok(frame));
        match &peer {
            Peer::Client(peer) => self.join_client(id, peer),
            Peer::Gateway(peer) => self.join_gateway(id, peer),
            Peer::Relay(_) => {}
        }
        if let Some((relay, stamp_secret)) = relay {
            let (relay_id, before) =
                self.relays.join(id, relay, &token, stamp_secret, &mut self.world);
            if let Some(connection) = self.world.peers.get_mut(id) {
                connection.relay_id = Some(relay_id);
            }
            self.world.outbox.message(id, RelayRole::TOPIC, &relay::FromPortal::Init);
            if let Some(before) = before {
                self.end(before, CloseReason::Replaced);
            }
        }
    }

    fn join_client(&mut self, id: ConnectionId, peer: &ClientPeer) {
        let World { policy, peers, outbox, now, .. } = &mut self.world;
        let Some(connection) = peers.get_mut(id) else { return };
        connection.resources = access::resources(policy, peer.owner, now.unix);
        let relays = self.relays.assign(policy, connection);
        let init = init::client(policy, peer, &connection.resources, relays);
        outbox.client(id, &client::FromPortal::Init(Box::new(init)));
        self.authorizations.client_joined(&mut self.world, peer.id, peer.key);
    }

    fn join_gateway(&mut self, id: ConnectionId, peer: &GatewayPeer) {
        let World { policy, peers, outbox, .. } = &mut self.world;
        let Some(connection) = peers.get_mut(id) else { return };
        let relays = self.relays.assign(policy, connection);
        let init = init::gateway(policy, peer, relays, self.authorizations.snapshot(peer.id));
        outbox.gateway(id, &gateway::FromPortal::Init(init));
        self.authorizations.gateway_joined(&mut self.world, peer.id);
    }

    fn message(&mut self, id: ConnectionId, frame: Frame) {
        let Some(connection) = self.world.peers.get(id) else { return };
        match connection.peer.clone() {
            Peer::Client(peer) => match frame.decode() {
                Ok(message) => self.client_message(id, &peer, message),
                Err(error) => self.misunderstand(id, &error),
            },
            Peer::Gateway(peer) => match frame.decode() {
                Ok(message) => self.gateway_message(id, peer.id, message),
                Err(error) => self.misunderstand(id, &error),
            },
            // It has nothing to say.
            Peer::Relay(_) => {}
        }
    }

    fn client_message(&mut self, id: ConnectionId, peer: &ClientPeer, message: client::ToPortal) {
        use client::ToPortal as M;
        match message {
            M::RequestAuthorization(request) => {
                let Some(connection) = self.world.peers.get(id) else { return };
                let credential = connection.credential.clone();
                self.authorizations.request(&mut self.world, peer, &credential, &request);
            }
            M::NewGatewayIceCandidates(message) => {
                let to = gateway::FromPortal::IceCandidates;
                candidates::to_gateway(&mut self.world, &self.authorizations, peer.id, message, to);
            }
            M::InvalidateGatewayIceCandidates(message) => {
                let to = gateway::FromPortal::InvalidateIceCandidates;
                candidates::to_gateway(&mut self.world, &self.authorizations, peer.id, message, to);
            }
            M::NoRelays => {
                self.answer_no_relays(id);
            }
            // We authorize no ICE-less link, so it does not matter who could have one.
            M::SetSnownetCapabilities(_) => {}
            // No policy here has device pools.
            M::ResolveDevicePoolDomain(query) => {
                let failed = client::DevicePoolDomainResolutionFailed {
                    resource_id: query.resource_id,
                    domain: query.domain,
                    reason: Reason::NotFound,
                };
                let failed = client::FromPortal::DevicePoolDomainResolutionFailed(failed);
                self.world.outbox.client(id, &failed);
            }
            M::NewClientIceCandidates(message) | M::InvalidateClientIceCandidates(message) => {
                let (client_id, reason) = (message.client_id, Reason::NotFound);
                let error = client::ClientIceCandidateError { client_id, reason };
                self.world.outbox.client(id, &client::FromPortal::ClientIceCandidateError(error));
            }
        }
    }

    fn gateway_message(&mut self, id: ConnectionId, peer: GatewayId, message: gateway::ToPortal) {
        use gateway::ToPortal as M;
        match message {
            M::AuthorizationCreated(created) => {
                if !self.authorizations.confirm(&mut self.world, id, &created.reference) {
                    tracing::debug!(connection = %id, "confirms what it was not asked for, or too late");
                }
            }
            M::BroadcastIceCandidates(message) => {
                let to = client::FromPortal::GatewayIceCandidates;
                candidates::to_clients(&mut self.world, &self.authorizations, peer, message, to);
            }
            M::BroadcastInvalidatedIceCandidates(message) => {
                let to = client::FromPortal::InvalidateGatewayIceCandidates;
                candidates::to_clients(&mut self.world, &self.authorizations, peer, message, to);
            }
            M::NoRelays => {
                if self.answer_no_relays(id) {
                    self.authorizations.resend(&mut self.world, id);
                }
            }
            M::SetSnownetCapabilities(_) => {}
        }
    }

    /// True if there was a relay to name.
    fn answer_no_relays(&mut self, id: ConnectionId) -> bool {
        let World { policy, peers, outbox, .. } = &mut self.world;
        peers.get_mut(id).is_some_and(|peer| self.relays.answer_no_relays(policy, id, peer, outbox))
    }

    /// Ends what the policy or the clock has ended, and tells everybody concerned.
    fn review(&mut self, changed: &BTreeSet<ResourceId>) {
        let now = self.world.now.unix;
        self.world.next_expiry = access::next_expiry(&self.world.policy, now);
        let ended = self.authorizations.review(&mut self.world, changed);
        self.sign_out_strangers();
        resources::update(&mut self.world, &ended);
        let tokens: Vec<_> =
            self.world.peers.iter().map(|(_, peer)| peer.credential.expires_at).collect();
        for expires_at in tokens {
            self.world.expires_at(expires_at);
        }
    }

    /// Ends connections whose token has expired or whose owner has left the policy.
    fn sign_out_strangers(&mut self) {
        let World { policy, peers, now, .. } = &self.world;
        let strangers = peers.ids(|connection| {
            let known = match &connection.peer {
                Peer::Client(peer) => policy.clients.contains_key(&peer.owner),
                Peer::Gateway(peer) => policy.gateways.contains_key(&peer.id),
                Peer::Relay(_) => true,
            };
            !known || connection.credential.expires_at.is_some_and(|at| at <= now.unix)
        });
        for id in strangers {
            self.sign_out_one(id);
        }
    }

    fn sign_out(&mut self, tokens: impl Fn(&TokenId) -> bool) {
        for id in self.world.peers.ids(|connection| tokens(&connection.credential.token)) {
            self.sign_out_one(id);
        }
    }

    fn sign_out_one(&mut self, id: ConnectionId) {
        if let Some(connection) = self.world.peers.get(id) {
            let frame = Frame::disconnect(connection.topic(), Disconnect::TOKEN_EXPIRED);
            self.world.outbox.frame(id, &frame);
            self.end(id, CloseReason::TokenEnded);
        }
    }

    /// Ends a connection from our side.
    fn end(&mut self, id: ConnectionId, reason: CloseReason) {
        self.world.outbox.close(id, reason);
        self.remove(id);
    }

    fn remove(&mut self, id: ConnectionId) {
        let Some(connection) = self.world.peers.remove(id) else { return };
        match connection.peer {
            Peer::Client(peer) => self.world.outbox.persist(Change::Seen(peer.id.0)),
            Peer::Gateway(peer) => {
                self.world.outbox.persist(Change::Seen(peer.id.0));
                self.authorizations.gateway_left(&mut self.world, peer.id);
            }
            Peer::Relay(_) => {
                if let Some(relay) = connection.relay_id {
                    self.relays.left(relay, id, self.world.now.instant);
                }
            }
        }
    }

    fn misunderstand(&mut self, id: ConnectionId, error: &DecodeError) {
        self.complain(id, error, "message not understood");
    }

    /// Logs once for a connection what a peer of another version might send time and again.
    fn complain(&mut self, id: ConnectionId, error: &dyn std::error::Error, what: &'static str) {
        let Some(connection) = self.world.peers.get_mut(id) else { return };
        if !std::mem::replace(&mut connection.complained, true) {
            tracing::info!(connection = %id, topic = connection.topic(), %error, "{what}, skipped");
        }
        tracing::debug!(connection = %id, ?error, "{what}");
    }
}

/// A peer leaves its topic.
const LEAVE: &str = "phx_leave";
