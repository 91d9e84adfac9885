//! The program around a client's tunnel.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

use connlib_dns::{QueryId, Upstream};
use connlib_link::{SendQueue, StreamServer};
use connlib_packet::{Headers, Offload, PacketBatch, TunPacket, build};
use connlib_tunnel::client::{
    ClientConfig, ClientEvent, ClientTunnel, DnsQuery, ResourceState, TunConfig,
};
use connlib_tunnel::{Datagrams, GatewayId, Output};

use super::{Alarm, BATCH, Effect, flush};
use crate::internet::{Datagram, Node};
use crate::model::ProbeId;
use crate::portal::{Candidates, ToClient, ToPortal, addresses};

/// Source ports of queries that go through the tunnel.
const QUERY_PORTS: u16 = 50_000;

pub(crate) struct ClientHost {
    number: usize,
    tunnel: ClientTunnel,
    pub(crate) alarm: Alarm,
    pub(crate) tun: Option<TunConfig>,
    resources: Vec<ResourceState>,
    connected: BTreeMap<GatewayId, bool>,
    queries: BTreeMap<u16, (QueryId, Upstream)>,
    next_query_port: u16,
    batch: PacketBatch,
    queue: SendQueue,
}

impl ClientHost {
    pub(crate) fn new(number: usize, seed: [u8; 32], now: Instant) -> Self {
        let config = ClientConfig { seed, ..ClientConfig::default() };
        Self {
            number,
            tunnel: ClientTunnel::new(config, now),
            alarm: Alarm::default(),
            tun: None,
            resources: Vec::new(),
            connected: BTreeMap::new(),
            queries: BTreeMap::new(),
            next_query_port: QUERY_PORTS,
            batch: PacketBatch::new(BATCH, 256),
            queue: SendQueue::new(0),
        }
    }

    pub(crate) fn public_key(&self) -> [u8; 32] {
        self.tunnel.public_key()
    }

    /// The DNS server that applications ask.
    pub(crate) fn resolver(&self) -> Option<IpAddr> {
        self.tun.as_ref()?.dns_servers.first().copied()
    }

    pub(crate) fn is_connected(&self, gateway: GatewayId) -> bool {
        self.connected.get(&gateway).copied().unwrap_or_default()
    }

    pub(crate) fn set_addresses(
        &mut self,
        hosts: &[SocketAddr],
        now: Instant,
        out: &mut Vec<Effect>,
    ) {
        self.tunnel.set_local_addresses(hosts, now);
        self.tunnel.handle_network_change(now);
        self.drain(now, out);
    }

    pub(crate) fn wake(&mut self, now: Instant, out: &mut Vec<Effect>) {
        if !self.alarm.ring(now) {
            out.push(Effect::Violation(format!("client {} is woken without end", self.number)));
            self.alarm.at = None;
            return;
        }
        self.tunnel.handle_timeout(now);
        self.drain(now, out);
    }

    pub(crate) fn shut_down(&mut self, now: Instant, out: &mut Vec<Effect>) {
        self.tunnel.shutdown(now);
        self.drain(now, out);
    }

    /// An application sends a packet.
    pub(crate) fn handle_tun(
        &mut self,
        mut packet: Vec<u8>,
        cargo: Option<ProbeId>,
        now: Instant,
        out: &mut Vec<Effect>,
    ) {
        match TunPacket::parse(&mut packet, Offload::NONE) {
            Ok(packet) => self.tunnel.handle_tun(packet, &mut self.queue, now),
            Err(e) => out.push(Effect::Violation(format!("an application's packet: {e}"))),
        }
        flush(&mut self.queue, cargo, out);
        self.drain(now, out);
    }

    pub(crate) fn handle_datagram(
        &mut self,
        datagram: &Datagram,
        now: Instant,
        out: &mut Vec<Effect>,
    ) {
        let Datagram { source, destination, payload, ecn, .. } = datagram;
        let mut datagrams = Datagrams::one(*destination, *source, payload);
        datagrams.ecn = *ecn;
        self.tunnel.handle_datagrams(datagrams, &mut self.batch, now);
        let packets: Vec<_> = self.batch.packets().map(<[u8]>::to_vec).collect();
        self.batch.clear();
        for packet in packets {
            self.deliver(packet, now, out);
        }
        self.drain(now, out);
    }

    pub(crate) fn handle_stream_opened(
        &mut self,
        server: StreamServer,
        local: SocketAddr,
        now: Instant,
        out: &mut Vec<Effect>,
    ) {
        self.tunnel.handle_stream_opened(server, local, now);
        self.drain(now, out);
    }

    pub(crate) fn handle_stream_closed(
        &mut self,
        server: StreamServer,
        now: Instant,
        out: &mut Vec<Effect>,
    ) {
        self.tunnel.handle_stream_closed(server, now);
        self.drain(now, out);
    }

    pub(crate) fn handle_portal(&mut self, message: ToClient, now: Instant, out: &mut Vec<Effect>) {
        match message {
            ToClient::Init { interface, resources, relays } => {
                self.tunnel.set_interface(interface, now);
                self.tunnel.set_resources(resources, now);
                self.tunnel.set_relays(&relays, now);
                self.tunnel.handle_portal_connected(now);
            }
            ToClient::Relays(relays) => self.tunnel.set_relays(&relays, now),
            ToClient::ResourceChanged(resource) => self.tunnel.upsert_resource(resource, now),
            ToClient::ResourceRemoved(resource) => self.tunnel.remove_resource(resource, now),
            ToClient::Created { resource, gateway, keys } => {
                self.tunnel.handle_authorization_created(resource, gateway, keys, now);
            }
            ToClient::Failed { resource, reason } => {
                self.tunnel.handle_authorization_failed(resource, reason, now);
            }
            ToClient::Candidates { gateway, candidates } => {
                for candidate in &candidates.list {
                    match candidates.is_added {
                        true => self.tunnel.add_remote_candidate(gateway, candidate, now),
                        false => self.tunnel.remove_remote_candidate(gateway, candidate, now),
                    }
                }
            }
        }
        self.drain(now, out);
    }

    pub(crate) fn handle_portal_lost(&mut self, now: Instant, out: &mut Vec<Effect>) {
        self.tunnel.handle_portal_lost();
        self.drain(now, out);
    }

    pub(crate) fn set_internet_active(
        &mut self,
        active: bool,
        now: Instant,
        out: &mut Vec<Effect>,
    ) {
        self.tunnel.set_internet_resource_active(active, now);
        self.drain(now, out);
    }

    pub(crate) fn handle_answer(
        &mut self,
        query: &DnsQuery,
        answer: Option<Vec<u8>>,
        now: Instant,
        out: &mut Vec<Effect>,
    ) {
        match answer {
            Some(message) => {
                self.tunnel.handle_dns_response(query.id, &query.server, &message, now);
            }
            None => self.tunnel.handle_dns_failure(query.id, now),
        }
        self.drain(now, out);
    }

    fn deliver(&mut self, packet: Vec<u8>, now: Instant, out: &mut Vec<Effect>) {
        let headers = Headers::parse(&packet).ok();
        let port = headers.and_then(|headers| headers.transport().destination_port());
        if let Some((id, server)) = port.and_then(|port| self.queries.get(&port).cloned())
            && let Some(headers) = headers
        {
            let message = &packet[headers.payload_offset()..];
            self.tunnel.handle_dns_response(id, &server, message, now);
            return;
        }
        out.push(Effect::Deliver(packet));
    }

    fn drain(&mut self, now: Instant, out: &mut Vec<Effect>) {
        loop {
            match self.tunnel.poll_output(now) {
                Output::Transmit(transmit) => {
                    out.push(Effect::Transmit(transmit, connlib_packet::Ecn::NotEct, None));
                }
                Output::Stream(request) => out.push(Effect::Stream(request)),
                Output::TunPacket(packet) => out.push(Effect::Deliver(packet)),
                Output::Event(event) => self.handle_event(event, now, out),
                Output::Timeout(at) => {
                    self.alarm.at = Some(at);
                    return;
                }
            }
        }
    }

    fn handle_event(&mut self, event: ClientEvent, now: Instant, out: &mut Vec<Effect>) {
        match event {
            ClientEvent::RequestAuthorization { resource, preferred_gateways } => {
                let preferred = preferred_gateways;
                out.push(Effect::Portal(ToPortal::Request { resource, preferred }));
            }
            ClientEvent::NewCandidates { gateway, candidates } => {
                let candidates = Candidates { is_added: true, list: candidates };
                out.push(Effect::Portal(ToPortal::ToGateway { gateway, candidates }));
            }
            ClientEvent::InvalidatedCandidates { gateway, candidates } => {
                let candidates = Candidates { is_added: false, list: candidates };
                out.push(Effect::Portal(ToPortal::ToGateway { gateway, candidates }));
            }
            ClientEvent::NoRelays => out.push(Effect::Note("no relay works".into())),
            ClientEvent::TunConfig(config) => {
                if self.tun.as_ref() == Some(&config) {
                    out.push(Effect::Violation("an interface that did not change".into()));
                }
                self.tun = Some(config);
            }
            ClientEvent::Resources(resources) => {
                if self.resources == resources {
                    out.push(Effect::Violation("resources that did not change".into()));
                }
                self.resources = resources;
            }
            ClientEvent::GatewayConnected { gateway, path } => {
                self.connected.insert(gateway, true);
                out.push(Effect::Note(format!("connected to {gateway} by {path:?}")));
            }
            ClientEvent::GatewayPathChanged { gateway, path } => {
                out.push(Effect::Note(format!("path to {gateway} is {path:?}")));
            }
            ClientEvent::GatewayDisconnected { gateway, failure } => {
                self.connected.insert(gateway, false);
                out.push(Effect::Note(format!("lost {gateway}: {failure:?}")));
            }
            ClientEvent::AuthorizationFailed { resource, reason } => {
                out.push(Effect::Note(format!("no access to {resource}: {reason:?}")));
            }
            ClientEvent::DnsQuery(query) if query.through_tunnel => self.ask(query, now, out),
            ClientEvent::DnsQuery(query) => out.push(Effect::Query(query)),
            ClientEvent::DnsQueryFinished(id) => self.queries.retain(|_, (other, _)| *other != id),
        }
    }

    /// A query that goes through the tunnel, by a socket of its own.
    fn ask(&mut self, query: DnsQuery, now: Instant, out: &mut Vec<Effect>) {
        let Upstream::Do53(server) = query.server else { return };
        let known = self.queries.iter().find(|(_, (id, _))| *id == query.id);
        let port = known.map(|(port, _)| *port).unwrap_or_else(|| {
            self.next_query_port = (self.next_query_port + 1).max(QUERY_PORTS);
            self.next_query_port
        });
        self.queries.insert(port, (query.id, query.server.clone()));
        let own = addresses(Node::Client(self.number));
        let ip: IpAddr = if server.is_ipv4() { own.ipv4.into() } else { own.ipv6.into() };
        let mut packet = vec![0; query.message.len() + 64];
        let source = SocketAddr::new(ip, port);
        let len = build::udp(&mut packet, source, server, &query.message).expect("room");
        packet.truncate(len);
        self.handle_tun(packet, None, now, out);
    }
}
