//! DNS: what the resolver wants of the tunnel.

use std::net::SocketAddr;
use std::time::Instant;

use connlib_dns::{Assignment, Client, Query, QueryId, Transmit, Upstream, UpstreamConfig};
use connlib_packet::plan;

use super::announcements::Key;
use super::authorizations::{Access, Waiting};
use super::dns::DnsOutput;
use super::event::{ClientEvent, DnsQuery};
use super::routes::Route;
use super::tunnel::ClientTunnel;
use crate::filter::Service;
use crate::ids::ResourceId;
use crate::output::Output;

impl ClientTunnel {
    /// Takes over the resolvers of the system, ours left out.
    pub fn set_system_resolvers(&mut self, resolvers: Vec<SocketAddr>, now: Instant) {
        if self.system_resolvers != resolvers {
            self.system_resolvers = resolvers;
            self.update_dns(now);
        }
    }

    /// Gives up queries that are under way, as the network is another one.
    pub fn handle_network_change(&mut self, now: Instant) {
        self.dns.reset(now);
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

    pub(super) fn handle_dns_output(&mut self, output: DnsOutput, now: Instant) {
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

    pub(super) fn ask_gateway(
        &mut self,
        client: Client,
        query: Query,
        resource: ResourceId,
        now: Instant,
    ) {
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

    pub(super) fn refuse_queries(&mut self, waiting: &Waiting, now: Instant) {
        for (client, query) in &waiting.queries {
            self.dns.refuse(*client, query, now);
        }
    }

    pub(super) fn update_dns(&mut self, now: Instant) {
        let (do53, doh) = match &self.interface {
            Some(interface) => (interface.do53.clone(), interface.doh.clone()),
            None => (Vec::new(), Vec::new()),
        };
        let system = self.system_resolvers.clone();
        self.dns.set_upstreams(&UpstreamConfig { do53, doh, system }, now);
        self.publish();
    }
}
