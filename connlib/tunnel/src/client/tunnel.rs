//! The client's tunnel: what the parts do together.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use connlib_link::{
    Event as LinkEvent, Node, NodeConfig, Output as LinkOutput, Relay, StreamServer,
};
use connlib_packet::control::Event as ControlEvent;
use connlib_packet::{IcmpError, plan};
use ipnet::IpNet;

use super::announcements::{self, Announcements};
use super::authorizations::{self, Authorizations};
use super::dns::Dns;
use super::event::{ClientEvent, FailureReason, ResourceState, ResourceStatus, TunConfig};
use super::gateways::Gateways;
use super::resource::{Interface, Resource, Target};
use super::routes::Routes;
use super::routing::{Outbound, answer};
use crate::flow_cache::FlowCache;
use crate::ids::{GatewayId, ResourceId};
use crate::output::Output;
use crate::stats::Stats;
use crate::token_bucket::TokenBucket;

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
    pub(super) system_resolvers: Vec<SocketAddr>,
    pub(super) dns: Dns,
    pub(super) resources: BTreeMap<ResourceId, Resource>,
    pub(super) routes: Routes,
    pub(super) internet_active: bool,
    pub(super) authorizations: Authorizations,
    pub(super) announcements: Announcements,
    pub(super) gateways: Gateways,
    pub(super) outbound: FlowCache<Outbound>,
    pub(super) inbound: FlowCache<()>,
    pub(super) outputs: VecDeque<Output<ClientEvent>>,
    last_config: Option<TunConfig>,
    last_resources: Vec<ResourceState>,
    pub(super) errors: TokenBucket,
    pub(super) is_portal_away: bool,
    pub(super) stats: Stats,
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

    /// Replaces the servers that are asked for our server-reflexive addresses, and relay for us if they do that.
    pub fn set_relays(&mut self, relays: &[Relay], now: Instant) {
        self.node.set_relays(relays, now);
    }

    /// A stream that was asked for is connected, and has this address of ours.
    pub fn handle_stream_opened(&mut self, server: StreamServer, local: SocketAddr, now: Instant) {
        self.node.handle_stream_opened(server, local, now);
    }

    /// A stream that was asked for is gone, or could not be had.
    pub fn handle_stream_closed(&mut self, server: StreamServer, now: Instant) {
        self.node.handle_stream_closed(server, now);
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
            let is_same = known.is_addressed_like(&resource);
            if is_same && known.filters == resource.filters {
                self.resources.insert(resource.id, resource);
                return;
            }
            match is_same {
                // Its gateways are told as well: access goes on.
                true => self.routes.remove(known),
                false => self.remove(resource.id, now),
            }
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

    /// Takes a candidate of a gateway's.
    pub fn add_remote_candidate(&mut self, gateway: GatewayId, candidate: &str, now: Instant) {
        self.node.add_remote_candidate(gateway.into(), candidate, now);
    }

    /// Forgets a candidate of a gateway's.
    pub fn remove_remote_candidate(&mut self, gateway: GatewayId, candidate: &str, now: Instant) {
        self.node.remove_remote_candidate(gateway.into(), candidate, now);
    }

    /// Says goodbye to all gateways. Send what comes out, and no more.
    pub fn shutdown(&mut self, now: Instant) {
        self.leave_all(now);
        self.node.release_relays(now);
    }

    pub(super) fn leave_all(&mut self, now: Instant) {
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
                authorizations::Due::Confirm(resource, gateway) => {
                    if self.is_silent(gateway, now) {
                        self.ask_portal(resource);
                    }
                }
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
                    for packet in &packets {
                        let (outputs, errors) = (&mut self.outputs, &mut self.errors);
                        answer(outputs, errors, packet, IcmpError::unreachable, now);
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
                LinkOutput::Stream(request) => return Output::Stream(request),
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
            LinkEvent::Silent { peer } => self.ask_about(peer.into()),
            LinkEvent::NoRelays => self.event(ClientEvent::NoRelays),
            LinkEvent::Failed { peer, failure } => self.forget_gateway(peer.into(), Some(failure)),
        }
    }

    /// Says goodbye to gateways that give access to nothing any more.
    fn leave_unused_gateways(&mut self, now: Instant) {
        for gateway in self.gateways.ids() {
            self.leave_if_unused(gateway, now);
        }
    }

    pub(super) fn leave_if_unused(&mut self, gateway: GatewayId, now: Instant) {
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

    pub(super) fn forget_gateway(
        &mut self,
        gateway: GatewayId,
        failure: Option<connlib_link::Failure>,
    ) {
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

    /// Tells the host how things are, if they have changed.
    pub(super) fn publish(&mut self) {
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

    pub(super) fn event(&mut self, event: ClientEvent) {
        self.outputs.push_back(Output::Event(event));
    }
}
