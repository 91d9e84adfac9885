//! The client's tunnel: what the parts do together.

use std::collections::{BTreeMap, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use connlib_dns::{Assignment, Client, Query, QueryId, Transmit, Upstream, UpstreamConfig};
use connlib_link::{
    Event as LinkEvent, LinkConfig, Node, NodeConfig, Output as LinkOutput, Role, Upsert,
};
use connlib_packet::control::{DomainStatus, Event as ControlEvent, NatStatus};
use connlib_packet::{IcmpError, plan};
use ipnet::IpNet;

use super::announcements::{self, Announced, Announcements, Key};
use super::authorizations::{self, Access, Authorizations, Waiting};
use super::dns::{Dns, DnsOutput};
use super::event::{
    ClientEvent, DnsQuery, FailureReason, ResourceState, ResourceStatus, TunConfig,
};
use super::gateways::{Gateway, Gateways};
use super::resource::{Interface, Resource, Target};
use super::routes::{Route, Routes, by_proxy_address};
use crate::filter::Service;
use crate::flow_cache::FlowCache;
use crate::ids::{GatewayId, ResourceId};
use crate::keys::LinkKeys;
use crate::output::Output;
use crate::stats::{DropReason, Stats};
use crate::token_bucket::TokenBucket;

/// Access that is refused by a gateway sooner than this after it was granted was not a matter of the past.
const REGRANT_PAUSE: Duration = Duration::from_secs(2);

/// A gateway that was not heard for so long may be another one by now.
const SILENT_AFTER: Duration = Duration::from_secs(3);

/// ICMP errors that applications get: a burst, and then one per interval.
const ERROR_BURST: u32 = 64;
const ERROR_INTERVAL: Duration = Duration::from_millis(10);

/// Settings of a [`ClientTunnel`].
#[derive(Debug, Clone, Copy, Default)]
pub struct ClientConfig {
    /// Seed of everything random: 32 bytes from the operating system.
    pub seed: [u8; 32],
    /// Whether the internet resource is wanted, if there is one.
    pub internet_resource_active: bool,
}

/// A client's tunnel: the state machine between applications and gateways.
pub struct ClientTunnel {
    pub(super) node: Node,
    pub(super) interface: Option<Interface>,
    system_resolvers: Vec<SocketAddr>,
    pub(super) dns: Dns,
    resources: BTreeMap<ResourceId, Resource>,
    pub(super) routes: Routes,
    internet_active: bool,
    pub(super) authorizations: Authorizations,
    pub(super) announcements: Announcements,
    pub(super) gateways: Gateways,
    pub(super) outbound: FlowCache<Outbound>,
    pub(super) inbound: FlowCache<()>,
    outputs: VecDeque<Output<ClientEvent>>,
    last_config: Option<TunConfig>,
    last_resources: Vec<ResourceState>,
    errors: TokenBucket,
    is_portal_away: bool,
    pub(super) stats: Stats,
}

/// Where the packets of a flow go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Outbound {
    pub(super) gateway: GatewayId,
    pub(super) by_name: bool,
}

/// What is to be done with a packet of an application.
#[derive(Debug)]
pub(super) enum Verdict {
    Send(Outbound),
    /// Keep it until the portal has answered.
    AwaitAuthorization(ResourceId),
    /// Keep it until the gateway has confirmed the name.
    AwaitConfirmation(Key),
    /// Tell the application.
    Reject(IcmpError, DropReason),
}

impl ClientTunnel {
    /// A tunnel with a key of its own and without an interface.
    pub fn new(config: ClientConfig, now: Instant) -> Self {
        let mut dns_seed = config.seed;
        // Two generators of one seed must not repeat each other.
        dns_seed[0] ^= 0x80;
        Self {
            node: Node::new(NodeConfig { seed: config.seed, ..NodeConfig::default() }, now),
            interface: None,
            system_resolvers: Vec::new(),
            dns: Dns::new(dns_seed, now),
            resources: BTreeMap::new(),
            routes: Routes::default(),
            internet_active: config.internet_resource_active,
            authorizations: Authorizations::default(),
            announcements: Announcements::default(),
            gateways: Gateways::default(),
            outbound: FlowCache::new(),
            inbound: FlowCache::new(),
            outputs: VecDeque::new(),
            last_config: None,
            last_resources: Vec::new(),
            errors: TokenBucket::new(ERROR_BURST, ERROR_INTERVAL, now),
            is_portal_away: false,
            stats: Stats::default(),
        }
    }

    /// The WireGuard key that gateways know this client by.
    pub fn public_key(&self) -> [u8; 32] {
        self.node.public_key()
    }

    /// What was counted so far.
    pub fn stats(&self) -> Stats {
        self.stats
    }

    /// Replaces the addresses that this machine's interfaces have, each with the port of our socket.
    pub fn set_local_addresses(&mut self, hosts: &[SocketAddr], now: Instant) {
        self.node.set_local_addresses(hosts, now);
    }

    /// Replaces the servers that are asked for our server-reflexive addresses.
    pub fn set_stun_servers(&mut self, servers: &[SocketAddr], now: Instant) {
        self.node.set_stun_servers(servers, now);
    }

    /// Takes over what the portal says about our interface.
    pub fn set_interface(&mut self, interface: Interface, now: Instant) {
        if self.interface.as_ref() == Some(&interface) {
            return;
        }
        let addresses = |interface: &Interface| (interface.ipv4, interface.ipv6);
        let is_readdressed =
            self.interface.as_ref().is_some_and(|old| addresses(old) != addresses(&interface));
        self.interface = Some(interface);
        if is_readdressed {
            // Gateways expect packets from the old addresses.
            self.leave_all(now);
        }
        self.forget_flows();
        self.update_dns(now);
    }

    /// Takes over the resolvers of the system, ours left out.
    pub fn set_system_resolvers(&mut self, resolvers: Vec<SocketAddr>, now: Instant) {
        if self.system_resolvers != resolvers {
            self.system_resolvers = resolvers;
            self.update_dns(now);
        }
    }

    /// Turns the internet resource on or off.
    pub fn set_internet_resource_active(&mut self, active: bool, now: Instant) {
        if self.internet_active != active {
            self.internet_active = active;
            let is_internet = |resource: &&Resource| resource.target == Target::Internet;
            let internet: Vec<_> =
                self.resources.values().filter(is_internet).map(|resource| resource.id).collect();
            for id in internet.into_iter().filter(|_| !active) {
                let waiting = self.authorizations.forget(id);
                self.refuse_queries(&waiting, now);
            }
            self.forget_flows();
            self.leave_unused_gateways(now);
            self.publish();
        }
    }

    /// Gives up queries that are under way, as the network is another one.
    pub fn handle_network_change(&mut self, now: Instant) {
        self.dns.reset(now);
    }

    /// Replaces all resources; those that stay as they are go on undisturbed.
    pub fn set_resources(&mut self, resources: Vec<Resource>, now: Instant) {
        let stays = |id: &ResourceId| resources.iter().any(|resource| resource.id == *id);
        let gone: Vec<ResourceId> =
            self.resources.keys().filter(|id| !stays(id)).copied().collect();
        for id in gone {
            self.remove(id, now);
        }
        for resource in resources {
            self.insert(resource, now);
        }
        self.leave_unused_gateways(now);
        self.publish();
    }

    /// Adds or replaces a resource.
    pub fn upsert_resource(&mut self, resource: Resource, now: Instant) {
        self.insert(resource, now);
        self.leave_unused_gateways(now);
        self.publish();
    }

    /// Removes a resource.
    pub fn remove_resource(&mut self, id: ResourceId, now: Instant) {
        self.remove(id, now);
        self.leave_unused_gateways(now);
        self.publish();
    }

    fn insert(&mut self, resource: Resource, now: Instant) {
        if let Some(known) = self.resources.get(&resource.id) {
            if known.is_addressed_like(&resource) {
                self.resources.insert(resource.id, resource);
                return;
            }
            self.remove(resource.id, now);
        }
        if let Some(dns) = resource.dns() {
            self.dns.upsert_resource(dns);
        }
        self.routes.insert(&resource);
        self.resources.insert(resource.id, resource);
        self.forget_flows();
    }

    fn remove(&mut self, id: ResourceId, now: Instant) {
        let Some(resource) = self.resources.remove(&id) else { return };
        self.routes.remove(&resource);
        self.dns.remove_resource(id.0);
        let waiting = self.authorizations.forget(id);
        self.refuse_queries(&waiting, now);
        self.announcements.forget(|key| key.resource == id);
        self.forget_flows();
    }

    /// The portal is away: access that we have is kept, as nobody could give it again.
    pub fn handle_portal_lost(&mut self) {
        self.is_portal_away = true;
    }

    /// The portal is there (again): what it has not answered is asked once more.
    pub fn handle_portal_connected(&mut self, now: Instant) {
        self.is_portal_away = false;
        self.authorizations.ask_all(now);
        self.handle_timeout(now);
        self.ask_about_silent_gateways(now);
    }

    /// A gateway may have restarted while the portal could not tell us: for one that has been silent the answer brings
    /// its new key; for any other it changes nothing.
    fn ask_about_silent_gateways(&mut self, now: Instant) {
        for gateway in self.gateways.ids() {
            let last_heard = self.node.last_heard(gateway.into());
            let is_silent = last_heard.is_some_and(|at| now >= at + SILENT_AFTER);
            let resource = self.authorizations.through(gateway).next();
            if let Some(resource) = resource.filter(|_| is_silent) {
                self.ask_portal(resource);
            }
        }
    }

    /// There is access to a resource through this gateway. Also takes an answer that was not asked for: a gateway that
    /// restarted has a new key, and its clients move over at once.
    pub fn handle_authorization_created(
        &mut self,
        resource: ResourceId,
        gateway: Gateway,
        keys: LinkKeys,
        now: Instant,
    ) {
        if !self.resources.contains_key(&resource) {
            tracing::debug!(%resource, "access to a resource that is not ours");
            return;
        }
        let id = gateway.id;
        let config = LinkConfig {
            peer: id.into(),
            role: Role::Controlling,
            remote_public_key: gateway.public_key,
            preshared_key: keys.preshared_key,
            local: keys.client_ice,
            remote: keys.gateway_ice,
        };
        let upsert = self.node.upsert(config, now);
        if upsert == Upsert::Refused {
            return self.handle_authorization_failed(resource, FailureReason::Other, now);
        }
        let is_link_new = upsert != Upsert::Reused;
        let previous = self.authorizations.gateway(resource);
        if is_link_new {
            // The other end has lost all that it knew of us: other access through it is asked for anew.
            self.authorizations.forget_gateway(id);
        }
        let is_void = |key: &Key| match key.resource == resource {
            true => key.gateway != id,
            false => key.gateway == id && is_link_new,
        };
        let mut packets = self.announcements.forget(is_void);
        let is_new = is_link_new || previous != Some(id);
        self.announcements.announce_again(id, resource, is_new, now);
        self.gateways.upsert(gateway, is_link_new);
        self.forget_flows();
        let waiting = self.authorizations.grant(resource, id, now);
        packets.extend(waiting.packets);
        for packet in packets {
            self.route_again(&packet, now);
        }
        for (client, query) in waiting.queries {
            self.ask_gateway(client, query, resource, now);
        }
        if let Some(previous) = previous.filter(|previous| *previous != id) {
            self.leave_if_unused(previous, now);
        }
        self.publish();
    }

    /// There is no access to a resource.
    pub fn handle_authorization_failed(
        &mut self,
        resource: ResourceId,
        reason: FailureReason,
        now: Instant,
    ) {
        let gateway = self.authorizations.gateway(resource);
        let waiting = self.authorizations.refuse(resource, reason, now);
        self.give_up(resource, reason, &waiting, now);
        if let Some(gateway) = gateway.filter(|_| self.authorizations.gateway(resource).is_none()) {
            self.announcements.forget(|key| key.resource == resource);
            self.forget_flows();
            self.leave_if_unused(gateway, now);
        }
    }

    fn give_up(
        &mut self,
        resource: ResourceId,
        reason: FailureReason,
        waiting: &Waiting,
        now: Instant,
    ) {
        self.reject(waiting, |destination| refusal(reason, destination), now);
        self.event(ClientEvent::AuthorizationFailed { resource, reason });
        self.publish();
    }

    /// Takes a candidate of a gateway's.
    pub fn add_remote_candidate(&mut self, gateway: GatewayId, candidate: &str, now: Instant) {
        self.node.add_remote_candidate(gateway.into(), candidate, now);
    }

    /// Forgets a candidate of a gateway's.
    pub fn remove_remote_candidate(&mut self, gateway: GatewayId, candidate: &str, now: Instant) {
        self.node.remove_remote_candidate(gateway.into(), candidate, now);
    }

    /// Takes what a resolver answered.
    pub fn handle_dns_response(
        &mut self,
        id: QueryId,
        from: &Upstream,
        message: &[u8],
        now: Instant,
    ) {
        self.dns.handle_response(id, from, message, now);
    }

    /// Takes the news that nothing will come back for a query.
    pub fn handle_dns_failure(&mut self, id: QueryId, now: Instant) {
        self.dns.handle_failure(id, now);
    }

    /// Says goodbye to all gateways. Send what comes out, and no more.
    pub fn shutdown(&mut self, now: Instant) {
        self.leave_all(now);
    }

    fn leave_all(&mut self, now: Instant) {
        for gateway in self.gateways.ids() {
            self.leave(gateway, now);
        }
    }

    /// Does what is due at `now`.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.node.handle_timeout(now);
        self.dns.handle_timeout(now);
        while let Some(due) = self.authorizations.pop_due(now) {
            match due {
                authorizations::Due::Ask(resource) => self.ask_portal(resource),
                authorizations::Due::GaveUp(resource, waiting) => {
                    self.give_up(resource, FailureReason::Timeout, &waiting, now);
                }
                authorizations::Due::Forgotten => self.publish(),
            }
        }
        let gateways = &self.gateways;
        while let Some(due) = self.announcements.pop_due(now, |id| gateways.is_connected(id)) {
            match due {
                announcements::Due::Send(gateway, frame) => {
                    // A link that is gone takes its announcements with it.
                    let _ = self.node.send(gateway.into(), &frame, now);
                }
                announcements::Due::GaveUp(packets) => {
                    let packets = packets.into();
                    let waiting = Waiting { packets, queries: Vec::new() };
                    for packet in &waiting.packets {
                        answer(
                            &mut self.outputs,
                            &mut self.errors,
                            packet,
                            IcmpError::unreachable,
                            now,
                        );
                    }
                }
            }
        }
    }

    /// What is to be done next; call it until it returns [`Output::Timeout`].
    pub fn poll_output(&mut self, now: Instant) -> Output<ClientEvent> {
        loop {
            if let Some(output) = self.outputs.pop_front() {
                return output;
            }
            if let Some(output) = self.dns.poll_output() {
                self.handle_dns_output(output, now);
                continue;
            }
            match self.node.poll_output() {
                LinkOutput::Transmit(transmit) => return Output::Transmit(transmit),
                LinkOutput::Event(event) => self.handle_link_event(event, now),
                LinkOutput::Timeout(at) => {
                    let others = [
                        self.authorizations.next_timeout(),
                        self.announcements.next_timeout(),
                        self.dns.next_timeout(),
                    ];
                    return Output::Timeout(others.into_iter().flatten().fold(at, Instant::min));
                }
            }
        }
    }

    fn handle_link_event(&mut self, event: LinkEvent, now: Instant) {
        match event {
            LinkEvent::NewCandidates { peer, candidates } => {
                self.event(ClientEvent::NewCandidates { gateway: peer.into(), candidates });
            }
            LinkEvent::InvalidatedCandidates { peer, candidates } => {
                self.event(ClientEvent::InvalidatedCandidates { gateway: peer.into(), candidates });
            }
            LinkEvent::Connected { peer, path } => {
                let gateway = peer.into();
                self.gateways.set_connected(gateway);
                self.announcements.hurry(gateway, now);
                self.event(ClientEvent::GatewayConnected { gateway, path });
                self.publish();
            }
            LinkEvent::PathChanged { peer, path } => {
                self.event(ClientEvent::GatewayPathChanged { gateway: peer.into(), path });
            }
            LinkEvent::Failed { peer, failure } => self.forget_gateway(peer.into(), Some(failure)),
        }
    }

    /// Takes a message of the control protocol.
    pub(super) fn handle_control(&mut self, gateway: GatewayId, packet: &[u8], now: Instant) {
        match ControlEvent::decode(packet) {
            Some(Ok(ControlEvent::DomainStatus(status))) => {
                self.handle_domain_status(gateway, &status, now);
            }
            Some(Ok(ControlEvent::Goodbye)) => {
                self.node.remove(gateway.into());
                self.forget_gateway(gateway, None);
            }
            Some(Ok(_)) => self.stats.count(DropReason::Control),
            Some(Err(e)) => {
                tracing::debug!(%gateway, error = %e, "malformed control message");
                self.stats.count(DropReason::Control);
            }
            None => self.stats.count(DropReason::Control),
        }
    }

    fn handle_domain_status(&mut self, gateway: GatewayId, status: &DomainStatus, now: Instant) {
        let Ok(name) = status.domain.parse() else {
            self.stats.count(DropReason::Control);
            return;
        };
        let key = Key { gateway, resource: ResourceId(status.resource), name };
        let is_active = status.status == NatStatus::Active;
        let packets = self.announcements.confirm(&key, is_active, now);
        if !is_active {
            self.forget_flows();
        }
        // Perhaps the name has no addresses, or the gateway knows nothing of an authorization that we rely on.
        if !is_active && self.authorizations.doubt(key.resource, gateway, now) {
            self.ask_portal(key.resource);
        }
        for packet in packets {
            if is_active {
                self.route_again(&packet, now);
            } else {
                answer(&mut self.outputs, &mut self.errors, &packet, IcmpError::unreachable, now);
            }
        }
    }

    /// A gateway denies access that we rely on: if that is a matter of the past, traffic asks anew.
    fn forget_stale_access(&mut self, resource: ResourceId, gateway: GatewayId, now: Instant) {
        let is_old = self
            .authorizations
            .granted_since(resource)
            .is_some_and(|since| now >= since + REGRANT_PAUSE);
        let is_stale = is_old && self.authorizations.gateway(resource) == Some(gateway);
        if is_stale && !self.is_portal_away {
            self.authorizations.forget(resource);
            self.forget_flows();
        }
    }

    /// What is to be done with a packet that goes to `destination`.
    pub(super) fn route(&mut self, destination: IpAddr, service: Service, now: Instant) -> Verdict {
        if let Some(gateway) = self.gateways.by_address(destination) {
            return Verdict::Send(Outbound { gateway, by_name: false });
        }
        let route = if plan::is_proxy(destination) {
            let resources = &self.resources;
            by_proxy_address(self.dns.stub(), destination, service, |id| {
                resources.get(&id).map(|resource| &resource.filters)
            })
        } else if plan::is_tunnel(destination) {
            Route::None
        } else {
            self.routes.by_address(destination, service, self.internet_active)
        };
        let (resource, name) = match route {
            Route::Resource(resource, name) => (resource, name),
            Route::Prohibited => {
                return Verdict::Reject(IcmpError::prohibited(), DropReason::NotAllowed);
            }
            Route::None => {
                let error = IcmpError::unreachable(destination);
                return Verdict::Reject(error, DropReason::Unreachable);
            }
        };
        let gateway = match self.access(resource, now) {
            Access::Granted(gateway) => gateway,
            Access::Pending { .. } => return Verdict::AwaitAuthorization(resource),
            Access::Refused(reason) => {
                return Verdict::Reject(refusal(reason, destination), DropReason::NotAllowed);
            }
        };
        let Some(name) = name else {
            return Verdict::Send(Outbound { gateway, by_name: false });
        };
        self.route_by_name(Key { gateway, resource, name }, destination, now)
    }

    fn route_by_name(&mut self, key: Key, destination: IpAddr, now: Instant) -> Verdict {
        let stub = self.dns.stub();
        let addresses = || {
            let stack = stub.resource(key.resource.0).map(|resource| resource.ip_stack);
            let proxies = stub.proxies().of(&key.name);
            proxies.map(|set| set.addresses(stack.unwrap_or_default())).unwrap_or_default()
        };
        match self.announcements.announce(&key, addresses, now) {
            Announced::Yes => Verdict::Send(Outbound { gateway: key.gateway, by_name: true }),
            Announced::Wait(frame) => {
                if let Some(frame) = frame {
                    let _ = self.node.send(key.gateway.into(), &frame, now);
                }
                Verdict::AwaitConfirmation(key)
            }
            Announced::Refused => {
                Verdict::Reject(IcmpError::unreachable(destination), DropReason::Unreachable)
            }
        }
    }

    /// The access to a resource for which there is traffic; asks the portal if that is due.
    fn access(&mut self, resource: ResourceId, now: Instant) -> Access {
        let access = self.authorizations.access(resource, now);
        if access == (Access::Pending { ask: true }) {
            self.ask_portal(resource);
        }
        access
    }

    fn ask_portal(&mut self, resource: ResourceId) {
        let preferred_gateways = self.gateways.preferred(self.authorizations.gateway(resource));
        self.event(ClientEvent::RequestAuthorization { resource, preferred_gateways });
    }

    /// A packet that waited is routed anew; what it waits for now may be something else.
    fn route_again(&mut self, packet: &[u8], now: Instant) {
        let Ok(headers) = connlib_packet::Headers::parse(packet) else { return };
        let service = Service::of_destination(&headers);
        match self.route(headers.destination(), service, now) {
            Verdict::Send(outbound) => {
                let _ = self.node.send(outbound.gateway.into(), packet, now);
            }
            Verdict::AwaitAuthorization(resource) => {
                self.authorizations.keep_packet(resource, packet);
            }
            Verdict::AwaitConfirmation(key) => self.announcements.keep_packet(&key, packet),
            Verdict::Reject(error, reason) => {
                self.stats.count(reason);
                answer(&mut self.outputs, &mut self.errors, packet, |_| error, now);
            }
        }
    }

    /// A gateway says that it does not let this through: what we believe to be granted is a matter of the past.
    pub(super) fn handle_prohibited(
        &mut self,
        gateway: GatewayId,
        destination: IpAddr,
        service: Service,
        now: Instant,
    ) {
        let route = if plan::is_proxy(destination) {
            let known = &self.resources;
            by_proxy_address(self.dns.stub(), destination, service, |id| {
                known.get(&id).map(|resource| &resource.filters)
            })
        } else {
            self.routes.by_address(destination, service, self.internet_active)
        };
        if let Route::Resource(resource, _) = route {
            self.forget_stale_access(resource, gateway, now);
        }
    }

    /// Whether a gateway may send packets from this address.
    pub(super) fn may_send(&self, gateway: &Gateway, source: IpAddr) -> bool {
        let granted = |id: ResourceId| self.authorizations.gateway(id) == Some(gateway.id);
        if gateway.has_address(source) {
            return true;
        }
        if plan::is_proxy(source) {
            let stub = self.dns.stub();
            return stub.proxies().name_of(source).is_some_and(|name| {
                stub.resources_of(name).iter().any(|resource| granted(ResourceId(resource.id)))
            });
        }
        !plan::is_tunnel(source) && self.routes.covers(source, granted)
    }

    fn handle_dns_output(&mut self, output: DnsOutput, now: Instant) {
        match output {
            DnsOutput::Ask(transmit) => self.ask_resolver(transmit),
            DnsOutput::Finished(id) => self.event(ClientEvent::DnsQueryFinished(id)),
            DnsOutput::Packet(packet) => self.outputs.push_back(Output::TunPacket(packet)),
            DnsOutput::Assigned(assignment) => self.note_assignment(&assignment, now),
            DnsOutput::AskGateway { client, query, resource } => {
                self.ask_gateway(client, query, resource.into(), now);
            }
        }
    }

    /// A name is in use: gateways that know it resolve it anew.
    fn note_assignment(&mut self, assignment: &Assignment, now: Instant) {
        if let Some(released) = &assignment.released {
            self.announcements.forget(|key| key.name == *released);
            self.forget_flows();
        }
        for (resource, _) in &assignment.resources {
            let resource = ResourceId(*resource);
            let Some(gateway) = self.authorizations.gateway(resource) else { continue };
            let key = Key { gateway, resource, name: assignment.name.clone() };
            if let Some(frame) = self.announcements.refresh(&key, now) {
                let _ = self.node.send(gateway.into(), &frame, now);
            }
        }
    }

    fn ask_gateway(&mut self, client: Client, query: Query, resource: ResourceId, now: Instant) {
        match self.access(resource, now) {
            Access::Granted(gateway) => match self.gateways.get(gateway) {
                Some(gateway) => {
                    let server = gateway.dns_server(client.server.ip());
                    self.dns.forward_to_gateway(client, query, server, now);
                }
                None => self.dns.refuse(client, &query, now),
            },
            Access::Pending { .. } => {
                if !self.authorizations.keep_query(resource, client, &query) {
                    self.dns.refuse(client, &query, now);
                }
            }
            Access::Refused(_) => self.dns.refuse(client, &query, now),
        }
    }

    fn ask_resolver(&mut self, transmit: Transmit) {
        let query = DnsQuery {
            through_tunnel: self.reaches_through_tunnel(&transmit.server),
            id: transmit.query,
            server: transmit.server,
            transport: transmit.transport,
            message: transmit.message,
        };
        self.event(ClientEvent::DnsQuery(query));
    }

    /// Whether a resolver is asked through the tunnel: gateways are, and what the portal prescribes if a resource lets
    /// DNS through to it.
    fn reaches_through_tunnel(&self, server: &Upstream) -> bool {
        let Upstream::Do53(address) = server else { return false };
        if plan::is_tunnel(address.ip()) {
            return true;
        }
        let is_prescribed =
            self.interface.as_ref().is_some_and(|interface| interface.do53.contains(&address.ip()));
        let service = Service::Udp(address.port());
        let route = self.routes.by_address(address.ip(), service, self.internet_active);
        is_prescribed && matches!(route, Route::Resource(..))
    }

    /// Tells an application what became of its packet.
    pub(super) fn answer(&mut self, packet: &[u8], error: IcmpError, now: Instant) {
        answer(&mut self.outputs, &mut self.errors, packet, |_| error, now);
    }

    fn reject(&mut self, waiting: &Waiting, error: impl Fn(IpAddr) -> IcmpError, now: Instant) {
        for packet in &waiting.packets {
            answer(&mut self.outputs, &mut self.errors, packet, &error, now);
        }
        self.refuse_queries(waiting, now);
    }

    fn refuse_queries(&mut self, waiting: &Waiting, now: Instant) {
        for (client, query) in &waiting.queries {
            self.dns.refuse(*client, query, now);
        }
    }

    /// Says goodbye to gateways that give access to nothing any more.
    fn leave_unused_gateways(&mut self, now: Instant) {
        for gateway in self.gateways.ids() {
            self.leave_if_unused(gateway, now);
        }
    }

    fn leave_if_unused(&mut self, gateway: GatewayId, now: Instant) {
        if self.authorizations.through(gateway).next().is_none() {
            self.leave(gateway, now);
        }
    }

    fn leave(&mut self, gateway: GatewayId, now: Instant) {
        if self.gateways.is_connected(gateway)
            && let Ok(frame) = ControlEvent::Goodbye.encode()
        {
            let _ = self.node.send(gateway.into(), &frame, now);
        }
        self.node.remove(gateway.into());
        self.forget_gateway(gateway, None);
    }

    fn forget_gateway(&mut self, gateway: GatewayId, failure: Option<connlib_link::Failure>) {
        self.authorizations.forget_gateway(gateway);
        self.announcements.forget(|key| key.gateway == gateway);
        self.forget_flows();
        if self.gateways.remove(gateway).is_some() {
            self.event(ClientEvent::GatewayDisconnected { gateway, failure });
        }
        self.publish();
    }

    pub(super) fn forget_flows(&mut self) {
        self.outbound.clear();
        self.inbound.clear();
    }

    fn update_dns(&mut self, now: Instant) {
        let (do53, doh) = match &self.interface {
            Some(interface) => (interface.do53.clone(), interface.doh.clone()),
            None => (Vec::new(), Vec::new()),
        };
        let system = self.system_resolvers.clone();
        self.dns.set_upstreams(&UpstreamConfig { do53, doh, system }, now);
        self.publish();
    }

    /// Tells the host how things are, if they have changed.
    fn publish(&mut self) {
        if let Some(config) = self.tun_config()
            && self.last_config.as_ref() != Some(&config)
        {
            self.last_config = Some(config.clone());
            self.event(ClientEvent::TunConfig(config));
        }
        let resources = self.resource_states();
        if self.last_resources != resources {
            self.last_resources.clone_from(&resources);
            self.event(ClientEvent::Resources(resources));
        }
    }

    fn tun_config(&self) -> Option<TunConfig> {
        let interface = self.interface.as_ref()?;
        let mut routes: Vec<IpNet> = vec![
            plan::TUNNEL_V4.into(),
            plan::TUNNEL_V6.into(),
            plan::PROXY_V4.into(),
            plan::PROXY_V6.into(),
            plan::SENTINEL_V4.into(),
            plan::SENTINEL_V6.into(),
        ];
        routes.extend(self.routes.networks());
        if self.internet_active && self.routes.has_internet() {
            routes.push(IpNet::V4(ipnet::Ipv4Net::default()));
            routes.push(IpNet::V6(ipnet::Ipv6Net::default()));
        }
        routes.sort_unstable();
        routes.dedup();
        Some(TunConfig {
            ipv4: interface.ipv4,
            ipv6: interface.ipv6,
            dns_servers: self.dns.sentinels().collect(),
            search_domain: interface.search_domain.clone(),
            routes,
        })
    }

    fn resource_states(&self) -> Vec<ResourceState> {
        let status = |id: ResourceId| match self.authorizations.gateway(id) {
            Some(gateway) if self.gateways.is_connected(gateway) => ResourceStatus::Online,
            _ if self.authorizations.is_offline(id) => ResourceStatus::Offline,
            _ => ResourceStatus::Unknown,
        };
        let wanted =
            |resource: &&Resource| self.internet_active || resource.target != Target::Internet;
        let state = |resource: &Resource| ResourceState {
            status: status(resource.id),
            resource: resource.clone(),
        };
        self.resources.values().filter(wanted).map(state).collect()
    }

    fn event(&mut self, event: ClientEvent) {
        self.outputs.push_back(Output::Event(event));
    }
}

/// What an application is told about a refusal.
fn refusal(reason: FailureReason, destination: IpAddr) -> IcmpError {
    match reason {
        FailureReason::Forbidden => IcmpError::prohibited(),
        _ => IcmpError::unreachable(destination),
    }
}

fn answer(
    outputs: &mut VecDeque<Output<ClientEvent>>,
    errors: &mut TokenBucket,
    packet: &[u8],
    error: impl Fn(IpAddr) -> IcmpError,
    now: Instant,
) {
    let Ok(headers) = connlib_packet::Headers::parse(packet) else { return };
    if !errors.take(now) {
        return;
    }
    let mut out = vec![0; usize::from(plan::MTU)];
    if let Some(len) = error(headers.destination()).answer(packet, &mut out) {
        out.truncate(len);
        outputs.push_back(Output::TunPacket(out));
    }
}
