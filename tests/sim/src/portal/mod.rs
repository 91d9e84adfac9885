//! A portal that keeps to the wire's semantics: authorizations with acknowledgements, keys that are stable for each pair
//! of keys, candidates passed on, and what happens to all of that when peers come and go.

mod messages;
mod policy;

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use connlib_tunnel::client::{FailureReason, Gateway, Interface};
use connlib_tunnel::{
    Authorization, AuthorizedClient, ClientId, GatewayId, IceCredentials, LinkKeys, Relay,
    ResourceId, Retained,
};

use uuid::Uuid;

use crate::hosts::RelayHost;
use crate::internet::{Node, STUN_V4, STUN_V6};
pub(crate) use messages::{Candidates, FromPortal, ToClient, ToGateway, ToPortal};
pub(crate) use policy::Addresses;
pub(crate) use policy::Policy;
pub use policy::ResourceSpec;

/// How long a gateway may take to confirm.
const CONFIRM_TIMEOUT: Duration = Duration::from_secs(15);
/// A client that asks again within this time does not make the gateway be asked again.
const RESEND_INTERVAL: Duration = Duration::from_secs(1);

/// The id of a client, by its number.
pub fn client_id(number: usize) -> ClientId {
    ClientId::from_u128(0xc000 + number as u128)
}

/// The id of a gateway, by its number.
pub fn gateway_id(number: usize) -> GatewayId {
    GatewayId::from_u128(0x6000 + number as u128)
}

/// The number behind an id.
pub(crate) fn client_number(id: ClientId) -> usize {
    (id.0.as_u128() - 0xc000) as usize
}

/// The number behind an id.
pub(crate) fn gateway_number(id: GatewayId) -> usize {
    (id.0.as_u128() - 0x6000) as usize
}

/// A client's or gateway's addresses in the tunnel.
pub(crate) fn addresses(node: Node) -> Addresses {
    match node {
        Node::Client(number) => Addresses::numbered(0x100 + number as u16),
        Node::Gateway(number) => Addresses::numbered(0x200 + number as u16),
        Node::Stun | Node::Relay(_) => unreachable!("it has none"),
    }
}

type PublicKey = [u8; 32];
type Key = (usize, ResourceId);

/// The portal's state.
#[derive(Debug, Default)]
pub(crate) struct Portal {
    pub(crate) policy: Policy,
    relays: BTreeSet<usize>,
    /// How often their credentials were renewed.
    renewals: u64,
    /// The peers that are connected, with the keys that they announced.
    present: BTreeMap<Node, PublicKey>,
    live: BTreeMap<Key, Live>,
    pending: BTreeMap<Key, Pending>,
    granted_at: BTreeMap<Key, Instant>,
    last_reference: u64,
    outbox: Vec<(Node, FromPortal)>,
}

#[derive(Debug, Clone)]
struct Live {
    gateway: usize,
    gateway_key: PublicKey,
    client_key: PublicKey,
    expires_at: Option<Instant>,
}

#[derive(Debug)]
struct Pending {
    live: Live,
    reference: u64,
    message: Box<Authorization>,
    deadline: Instant,
    sent_at: Instant,
    /// Whether the client waits for it; otherwise it is a move to a restarted gateway.
    is_asked: bool,
}

impl Portal {
    /// What is to be sent.
    pub(crate) fn take_outbox(&mut self) -> Vec<(Node, FromPortal)> {
        std::mem::take(&mut self.outbox)
    }

    /// Whether a peer is connected.
    pub(crate) fn is_present(&self, node: Node) -> bool {
        self.present.contains_key(&node)
    }

    /// When a client was last told that it has access.
    pub(crate) fn granted_at(&self, client: usize, resource: ResourceId) -> Option<Instant> {
        self.granted_at.get(&(client, resource)).copied()
    }

    /// A peer has connected, under this key.
    pub(crate) fn join(&mut self, node: Node, key: PublicKey, now: Instant) {
        self.present.insert(node, key);
        match node {
            Node::Client(client) => {
                // What it had with another key has ended with that key.
                self.end(|(owner, _), live| owner == client && live.client_key != key);
                let resources =
                    self.policy.resources_of(client).map(ResourceSpec::for_client).collect();
                let Addresses { ipv4, ipv6 } = addresses(node);
                let (do53, doh) = (vec![[192, 0, 2, 53].into()], Vec::new());
                let interface = Interface { ipv4, ipv6, do53, doh, search_domain: None };
                let relays = self.relays(node);
                self.tell_client(client, ToClient::Init { interface, resources, relays });
                self.recreate(|(owner, _), _| owner == client, now);
            }
            Node::Gateway(gateway) => {
                let snapshot = self
                    .live
                    .iter()
                    .filter(|(_, live)| live.gateway == gateway)
                    .map(|((client, resource), live)| Retained {
                        client: client_id(*client),
                        resource: *resource,
                        expires_at: live.expires_at,
                    })
                    .collect();
                let relays = self.relays(node);
                let message = ToGateway::Init { authorizations: snapshot, relays };
                self.tell_gateway(gateway, message);
                self.recreate(|_, live| live.gateway == gateway, now);
            }
            Node::Stun | Node::Relay(_) => {}
        }
    }

    /// Replaces the relays that peers are told of.
    pub(crate) fn set_relays(&mut self, relays: BTreeSet<usize>) {
        self.relays = relays;
        self.tell_of_relays();
    }

    /// Gives peers other credentials for the relays.
    pub(crate) fn renew_credentials(&mut self) {
        self.renewals += 1;
        self.tell_of_relays();
    }

    fn tell_of_relays(&mut self) {
        for node in self.present.keys().copied().collect::<Vec<_>>() {
            let relays = self.relays(node);
            match node {
                Node::Client(client) => self.tell_client(client, ToClient::Relays(relays)),
                Node::Gateway(gateway) => self.tell_gateway(gateway, ToGateway::Relays(relays)),
                Node::Stun | Node::Relay(_) => {}
            }
        }
    }

    /// What a peer is told of relays: its credentials are for its key alone.
    fn relays(&self, node: Node) -> Vec<Relay> {
        let stun = Relay {
            id: Uuid::from_u128(0x57),
            addresses: vec![STUN_V4, STUN_V6],
            credentials: None,
        };
        let key = self.present.get(&node).copied().unwrap_or_default();
        let relays =
            self.relays.iter().map(|number| RelayHost::announced(*number, key, self.renewals));
        [stun].into_iter().chain(relays).collect()
    }

    /// A peer's connection is gone.
    pub(crate) fn leave(&mut self, node: Node, now: Instant) {
        self.present.remove(&node);
        let Node::Gateway(gateway) = node else { return };
        let waiting: Vec<Key> = self
            .pending
            .iter()
            .filter(|(_, pending)| pending.live.gateway == gateway)
            .map(|(key, _)| *key)
            .collect();
        for key in waiting {
            let is_asked = self.pending.remove(&key).is_some_and(|pending| pending.is_asked);
            if is_asked {
                self.request(key.0, key.1, &[], now);
            }
        }
    }

    pub(crate) fn handle(&mut self, from: Node, message: ToPortal, now: Instant) {
        match (from, message) {
            (Node::Client(client), ToPortal::Request { resource, preferred }) => {
                self.request(client, resource, &preferred, now);
            }
            (Node::Client(client), ToPortal::ToGateway { gateway, candidates }) => {
                let gateway = gateway_number(gateway);
                if self.is_linked(client, gateway) {
                    let client = client_id(client);
                    self.tell_gateway(gateway, ToGateway::Candidates { client, candidates });
                }
            }
            (Node::Gateway(gateway), ToPortal::ToClient { client, candidates }) => {
                let client = client_number(client);
                if self.is_linked(client, gateway) {
                    let gateway = gateway_id(gateway);
                    self.tell_client(client, ToClient::Candidates { gateway, candidates });
                }
            }
            (Node::Gateway(gateway), ToPortal::Confirm { reference }) => {
                self.confirm(gateway, reference, now);
            }
            _ => {}
        }
    }

    /// A client may use a resource from now on, for so long at a time.
    pub(crate) fn grant(&mut self, client: usize, resource: ResourceId, lasts: Option<Duration>) {
        self.policy.grants.insert((client, resource), lasts);
        if let Some(spec) = self.policy.resources.get(&resource) {
            self.tell_client(client, ToClient::ResourceChanged(spec.for_client()));
        }
    }

    /// A client may not use a resource any more.
    pub(crate) fn revoke(&mut self, client: usize, resource: ResourceId) {
        self.policy.grants.remove(&(client, resource));
        self.pending.remove(&(client, resource));
        self.end(|key, _| key == (client, resource));
        self.tell_client(client, ToClient::ResourceRemoved(resource));
    }

    /// Ends an authorization; the client may ask for it anew.
    pub(crate) fn end_authorization(&mut self, client: usize, resource: ResourceId) {
        self.end(|key, _| key == (client, resource));
    }

    /// Replaces a resource's filters.
    pub(crate) fn set_filters(&mut self, spec: ResourceSpec) {
        let resource = spec.id;
        self.policy.resources.insert(resource, spec.clone());
        let users: Vec<(usize, usize)> = self
            .live
            .iter()
            .filter(|((_, id), _)| *id == resource)
            .map(|((client, _), live)| (*client, live.gateway))
            .collect();
        for (_, gateway) in users {
            let filters = spec.filters.iter().copied().collect();
            self.tell_gateway(gateway, ToGateway::Filters { resource, filters });
        }
        let clients: Vec<usize> = self
            .policy
            .grants
            .keys()
            .filter(|(_, id)| *id == resource)
            .map(|(client, _)| *client)
            .collect();
        for client in clients {
            self.tell_client(client, ToClient::ResourceChanged(spec.for_client()));
        }
    }

    pub(crate) fn next_timeout(&self) -> Option<Instant> {
        let deadlines = self.pending.values().map(|pending| pending.deadline);
        deadlines.chain(self.live.values().filter_map(|live| live.expires_at)).min()
    }

    pub(crate) fn handle_timeout(&mut self, now: Instant) {
        self.live.retain(|_, live| live.expires_at.is_none_or(|at| now < at));
        let late: Vec<Key> = self
            .pending
            .iter()
            .filter(|(_, pending)| pending.deadline <= now)
            .map(|(key, _)| *key)
            .collect();
        for key in late {
            if let Some(pending) = self.pending.remove(&key) {
                self.reject(pending.live.gateway, key);
                if pending.is_asked {
                    self.fail(key, FailureReason::Offline);
                }
            }
        }
    }

    fn request(
        &mut self,
        client: usize,
        resource: ResourceId,
        preferred: &[GatewayId],
        now: Instant,
    ) {
        let key = (client, resource);
        if let Some(pending) = self.pending.get_mut(&key) {
            pending.is_asked = true;
            if pending.sent_at + RESEND_INTERVAL <= now {
                pending.sent_at = now;
                let (gateway, reference) = (pending.live.gateway, pending.reference);
                let authorization = pending.message.clone();
                self.tell_gateway(gateway, ToGateway::Create { reference, authorization });
            }
            return;
        }
        if !self.policy.resources.contains_key(&resource) {
            return self.fail(key, FailureReason::NotFound);
        }
        if !self.policy.grants.contains_key(&key) {
            return self.fail(key, FailureReason::Forbidden);
        }
        let current = self.live.get(&key).map(|live| live.gateway);
        match self.choose(resource, preferred, current) {
            Some(gateway) => self.start(key, gateway, true, now),
            None => self.fail(key, FailureReason::Offline),
        }
    }

    /// A gateway of the resource's site that is there: one that the client is connected to, or has it through.
    fn choose(
        &self,
        resource: ResourceId,
        preferred: &[GatewayId],
        current: Option<usize>,
    ) -> Option<usize> {
        let site = self.policy.resources.get(&resource)?.site;
        self.policy
            .gateways
            .iter()
            .filter(|(_, of)| **of == site)
            .map(|(id, _)| *id)
            .filter(|id| self.is_present(Node::Gateway(gateway_number(*id))))
            .min_by_key(|id| (!preferred.contains(id), current != Some(gateway_number(*id)), *id))
            .map(gateway_number)
    }

    fn start(&mut self, key: Key, gateway: usize, is_asked: bool, now: Instant) {
        let (client, resource) = key;
        let Some(spec) = self.policy.resources.get(&resource) else { return };
        let Some(lasts) = self.policy.grants.get(&key) else { return };
        let Some(client_key) = self.present.get(&Node::Client(client)).copied() else { return };
        let Some(gateway_key) = self.present.get(&Node::Gateway(gateway)).copied() else { return };
        let Addresses { ipv4, ipv6 } = addresses(Node::Client(client));
        let expires_at = lasts.map(|lasts| now + lasts);
        let message = Box::new(Authorization {
            client: AuthorizedClient { id: client_id(client), public_key: client_key, ipv4, ipv6 },
            keys: link_keys(client_key, gateway_key),
            resource: spec.for_gateway(),
            expires_at,
        });
        self.last_reference += 1;
        let reference = self.last_reference;
        let authorization = message.clone();
        self.tell_gateway(gateway, ToGateway::Create { reference, authorization });
        let live = Live { gateway, gateway_key, client_key, expires_at };
        let deadline = now + CONFIRM_TIMEOUT;
        let pending = Pending { live, reference, message, deadline, sent_at: now, is_asked };
        self.pending.insert(key, pending);
    }

    fn confirm(&mut self, gateway: usize, reference: u64, now: Instant) {
        let found = self.pending.iter().find(|(_, pending)| pending.reference == reference);
        let Some(key) = found.map(|(key, _)| *key) else { return };
        let Some(Pending { live, .. }) = self.pending.remove(&key) else { return };
        let (client, resource) = key;
        if !self.policy.grants.contains_key(&key) || live.expires_at.is_some_and(|at| at <= now) {
            self.reject(gateway, key);
            return self.fail(key, FailureReason::Forbidden);
        }
        if self.present.get(&Node::Client(client)) == Some(&live.client_key)
            && let Some(site) = self.policy.gateways.get(&gateway_id(gateway))
        {
            let Addresses { ipv4, ipv6 } = addresses(Node::Gateway(gateway));
            let public_key = live.gateway_key;
            let id = gateway_id(gateway);
            let keys = link_keys(live.client_key, live.gateway_key);
            let gateway = Gateway { id, public_key, ipv4, ipv6, site: *site };
            self.tell_client(client, ToClient::Created { resource, gateway, keys });
            self.granted_at.insert(key, now);
        }
        if let Some(before) = self.live.insert(key, live).filter(|live| live.gateway != gateway) {
            self.reject(before.gateway, key);
        }
    }

    /// What is live but made with a key that its gateway no longer has is moved to the new one.
    fn recreate(&mut self, which: impl Fn(Key, &Live) -> bool, now: Instant) {
        let stale: Vec<(Key, usize)> = self
            .live
            .iter()
            .filter(|(key, live)| which(**key, live) && self.is_stale(**key, live))
            .map(|(key, live)| (*key, live.gateway))
            .collect();
        for (key, gateway) in stale {
            if !self.pending.contains_key(&key) {
                self.start(key, gateway, false, now);
            }
        }
    }

    fn is_stale(&self, (client, _): Key, live: &Live) -> bool {
        let gateway_key = self.present.get(&Node::Gateway(live.gateway));
        gateway_key.is_some_and(|key| *key != live.gateway_key)
            && self.present.get(&Node::Client(client)) == Some(&live.client_key)
    }

    fn end(&mut self, which: impl Fn(Key, &Live) -> bool) {
        let ended: Vec<(Key, usize)> = self
            .live
            .iter()
            .filter(|(key, live)| which(**key, live))
            .map(|(key, live)| (*key, live.gateway))
            .collect();
        for (key, gateway) in ended {
            self.live.remove(&key);
            self.reject(gateway, key);
        }
    }

    fn is_linked(&self, client: usize, gateway: usize) -> bool {
        let live = self.live.iter().map(|((owner, _), live)| (*owner, live.gateway));
        let pending = self.pending.iter().map(|((owner, _), p)| (*owner, p.live.gateway));
        live.chain(pending).any(|pair| pair == (client, gateway))
    }

    fn reject(&mut self, gateway: usize, (client, resource): Key) {
        self.tell_gateway(gateway, ToGateway::Reject { client: client_id(client), resource });
    }

    fn fail(&mut self, (client, resource): Key, reason: FailureReason) {
        self.tell_client(client, ToClient::Failed { resource, reason });
    }

    fn tell_client(&mut self, client: usize, message: ToClient) {
        self.send(Node::Client(client), FromPortal::Client(message));
    }

    fn tell_gateway(&mut self, gateway: usize, message: ToGateway) {
        self.send(Node::Gateway(gateway), FromPortal::Gateway(message));
    }

    /// Messages to peers that aren't there are lost.
    fn send(&mut self, to: Node, message: FromPortal) {
        if self.is_present(to) {
            self.outbox.push((to, message));
        }
    }
}

/// What a client and a gateway share: the same as long as both keep their keys.
fn link_keys(client: PublicKey, gateway: PublicKey) -> LinkKeys {
    let mix = |label: u64| {
        let mut state = label;
        for byte in client.iter().chain(&gateway) {
            state = (state ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3).rotate_left(23);
        }
        state
    };
    let words: Vec<[u8; 8]> = (1..=4).map(|label| mix(label).to_le_bytes()).collect();
    let mut preshared_key = [0; 32];
    preshared_key.copy_from_slice(&words.concat());
    let ice = |label: u64| IceCredentials {
        username: format!("{:08x}", mix(label) as u32),
        password: format!("{:016x}{:016x}", mix(label + 10), mix(label + 20)),
    };
    LinkKeys { preshared_key, client_ice: ice(100), gateway_ice: ice(200) }
}
