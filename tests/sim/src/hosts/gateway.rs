//! The program around a gateway's tunnel.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

use connlib_dns::{Name, Query};
use connlib_link::{SendQueue, StreamServer};
use connlib_packet::plan::GATEWAY_DNS_PORT;
use connlib_packet::{EchoKind, Ecn, Headers, Offload, PacketBatch, Transport, TunPacket, build};
use connlib_tunnel::{
    AuthorizedResource, ClientId, Datagrams, GatewayConfig, GatewayEvent, GatewayTunnel, Output,
    ResolutionId, ResolveError, ResourceId,
};

use super::{Alarm, BATCH, Effect, flush};
use crate::internet::{Datagram, Node};
use crate::model::ProbeId;
use crate::portal::{Candidates, ToGateway, ToPortal, addresses};

pub(crate) struct GatewayHost {
    number: usize,
    tunnel: GatewayTunnel,
    pub(crate) alarm: Alarm,
    /// What this gateway was told to let through: nothing else may come out of it.
    pub(crate) told: BTreeMap<(ClientId, ResourceId), Told>,
    /// What this gateway's resolver has answered so far.
    pub(crate) resolved: BTreeMap<String, Vec<IpAddr>>,
    batch: PacketBatch,
    queue: SendQueue,
}

/// An authorization, as the gateway knows it.
#[derive(Debug, Clone)]
pub(crate) struct Told {
    pub(crate) resource: AuthorizedResource,
    pub(crate) expires_at: Option<Instant>,
}

impl GatewayHost {
    pub(crate) fn new(number: usize, seed: [u8; 32], now: Instant) -> Self {
        let config = GatewayConfig { seed, ..GatewayConfig::default() };
        Self {
            number,
            tunnel: GatewayTunnel::new(&config, now),
            alarm: Alarm::default(),
            told: BTreeMap::new(),
            resolved: BTreeMap::new(),
            batch: PacketBatch::new(BATCH, 256),
            queue: SendQueue::new(0),
        }
    }

    pub(crate) fn public_key(&self) -> [u8; 32] {
        self.tunnel.public_key()
    }

    pub(crate) fn set_addresses(
        &mut self,
        hosts: &[SocketAddr],
        now: Instant,
        out: &mut Vec<Effect>,
    ) {
        self.tunnel.set_local_addresses(hosts, now);
        self.drain(out);
    }

    pub(crate) fn wake(&mut self, now: Instant, out: &mut Vec<Effect>) {
        if !self.alarm.ring(now) {
            out.push(Effect::Violation(format!("gateway {} is woken without end", self.number)));
            self.alarm.at = None;
            return;
        }
        self.tunnel.handle_timeout(now);
        self.drain(out);
    }

    pub(crate) fn shut_down(&mut self, now: Instant, out: &mut Vec<Effect>) {
        self.tunnel.shutdown(now);
        self.drain(out);
    }

    /// A packet comes from the network behind us.
    pub(crate) fn handle_tun(
        &mut self,
        mut packet: Vec<u8>,
        cargo: Option<ProbeId>,
        now: Instant,
        out: &mut Vec<Effect>,
    ) {
        match TunPacket::parse(&mut packet, Offload::NONE) {
            Ok(packet) => self.tunnel.handle_tun(packet, &mut self.queue, now),
            Err(e) => out.push(Effect::Violation(format!("a resource's packet: {e}"))),
        }
        flush(&mut self.queue, cargo, out);
        self.drain(out);
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
            match self.serve(&packet) {
                Some(answer) => self.handle_tun(answer, None, now, out),
                None => out.push(Effect::Deliver(packet)),
            }
        }
        self.drain(out);
    }

    pub(crate) fn handle_stream_opened(
        &mut self,
        server: StreamServer,
        local: SocketAddr,
        now: Instant,
        out: &mut Vec<Effect>,
    ) {
        self.tunnel.handle_stream_opened(server, local, now);
        self.drain(out);
    }

    pub(crate) fn handle_stream_closed(
        &mut self,
        server: StreamServer,
        now: Instant,
        out: &mut Vec<Effect>,
    ) {
        self.tunnel.handle_stream_closed(server, now);
        self.drain(out);
    }

    pub(crate) fn handle_portal(
        &mut self,
        message: ToGateway,
        now: Instant,
        out: &mut Vec<Effect>,
    ) {
        match message {
            ToGateway::Init { authorizations, relays } => {
                let own = addresses(Node::Gateway(self.number));
                self.tunnel.set_interface(own.ipv4, own.ipv6);
                let lasting: BTreeMap<_, _> = authorizations
                    .iter()
                    .map(|entry| ((entry.client, entry.resource), entry.expires_at))
                    .collect();
                self.told.retain(|key, told| match lasting.get(key) {
                    Some(expires_at) => {
                        told.expires_at = *expires_at;
                        true
                    }
                    None => false,
                });
                self.tunnel.retain_authorizations(authorizations, now);
                self.tunnel.set_relays(&relays, now);
            }
            ToGateway::Relays(relays) => self.tunnel.set_relays(&relays, now),
            ToGateway::Create { reference, authorization } => {
                let told = Told {
                    resource: authorization.resource.clone(),
                    expires_at: authorization.expires_at,
                };
                let key = (authorization.client.id, authorization.resource.id);
                match self.tunnel.create_authorization(*authorization, now) {
                    Ok(()) => {
                        self.told.insert(key, told);
                        out.push(Effect::Portal(ToPortal::Confirm { reference }));
                    }
                    Err(e) => out.push(Effect::Violation(format!("refused a client: {e}"))),
                }
            }
            ToGateway::Reject { client, resource } => {
                self.told.remove(&(client, resource));
                self.tunnel.reject_access(client, resource, now);
            }
            ToGateway::Filters { resource, filters } => {
                for ((_, id), told) in &mut self.told {
                    if *id == resource {
                        told.resource.filters = filters.clone();
                    }
                }
                self.tunnel.update_resource_filters(resource, &filters);
            }
            ToGateway::Candidates { client, candidates } => {
                for candidate in &candidates.list {
                    match candidates.is_added {
                        true => self.tunnel.add_remote_candidate(client, candidate, now),
                        false => self.tunnel.remove_remote_candidate(client, candidate, now),
                    }
                }
            }
        }
        self.drain(out);
    }

    pub(crate) fn handle_resolved(
        &mut self,
        id: ResolutionId,
        name: &str,
        addresses: Option<Vec<IpAddr>>,
        now: Instant,
        out: &mut Vec<Effect>,
    ) {
        if let Some(addresses) = &addresses {
            self.resolved.entry(name.to_owned()).or_default().extend(addresses);
        }
        self.tunnel.handle_resolved(id, addresses.ok_or(ResolveError), now);
        self.drain(out);
    }

    /// Whether this gateway may let a packet to `destination` through, which the client knows by `name` if at all.
    pub(crate) fn may_pass(
        &self,
        client: ClientId,
        destination: IpAddr,
        name: Option<&Name>,
        service: connlib_tunnel::Service,
        now: Instant,
    ) -> bool {
        let of_client = self.told.iter().filter(|((owner, _), _)| *owner == client);
        of_client.map(|(_, told)| told).any(|told| {
            let is_covered = match (&told.resource.target, name) {
                (connlib_tunnel::Target::Cidr(net), None) => net.contains(&destination),
                (connlib_tunnel::Target::Dns(pattern), Some(name)) => {
                    pattern.matches(name)
                        && self
                            .resolved
                            .get(name.as_str())
                            .is_some_and(|known| known.contains(&destination))
                }
                (connlib_tunnel::Target::Internet, None) => true,
                _ => false,
            };
            let is_valid = told.expires_at.is_none_or(|at| now < at);
            is_covered && is_valid && told.resource.filters.permits(service)
        })
    }

    /// What this machine itself answers: DNS, and pings.
    fn serve(&self, packet: &[u8]) -> Option<Vec<u8>> {
        let own = addresses(Node::Gateway(self.number));
        let headers = Headers::parse(packet).ok()?;
        let (source, destination) = (headers.source(), headers.destination());
        if destination != IpAddr::from(own.ipv4) && destination != IpAddr::from(own.ipv6) {
            return None;
        }
        let payload = packet.get(headers.payload_offset()..)?;
        let mut answer = vec![0; packet.len() + 64];
        let len = match headers.transport() {
            Transport::IcmpEcho { kind: EchoKind::Request, identifier } => {
                let (kind, sequence) = (EchoKind::Reply, crate::site::sequence(packet, &headers));
                build::echo(&mut answer, destination, source, kind, identifier, sequence, payload)
            }
            Transport::Udp { destination: GATEWAY_DNS_PORT, .. } => {
                let message =
                    Query::parse(payload).ok()?.answer_empty(connlib_dns::ResponseCode::NoError);
                let (from, to) = (headers.destination_socket()?, headers.source_socket()?);
                build::udp(&mut answer, from, to, &message)
            }
            _ => return None,
        };
        answer.truncate(len.ok()?);
        Some(answer)
    }

    fn drain(&mut self, out: &mut Vec<Effect>) {
        loop {
            match self.tunnel.poll_output() {
                Output::Transmit(transmit) => {
                    out.push(Effect::Transmit(transmit, Ecn::NotEct, None));
                }
                Output::Stream(request) => out.push(Effect::Stream(request)),
                Output::TunPacket(packet) => out.push(Effect::Deliver(packet)),
                Output::Event(event) => self.handle_event(event, out),
                Output::Timeout(at) => {
                    self.alarm.at = Some(at);
                    return;
                }
            }
        }
    }

    fn handle_event(&mut self, event: GatewayEvent, out: &mut Vec<Effect>) {
        match event {
            GatewayEvent::NewCandidates { client, candidates } => {
                let candidates = Candidates { is_added: true, list: candidates };
                out.push(Effect::Portal(ToPortal::ToClient { client, candidates }));
            }
            GatewayEvent::InvalidatedCandidates { client, candidates } => {
                let candidates = Candidates { is_added: false, list: candidates };
                out.push(Effect::Portal(ToPortal::ToClient { client, candidates }));
            }
            GatewayEvent::NoRelays => out.push(Effect::Note("no relay works".into())),
            GatewayEvent::ResolveName { id, name } => {
                out.push(Effect::Resolve(id, name.as_str().to_owned()));
            }
            GatewayEvent::ClientConnected { client, path } => {
                out.push(Effect::Note(format!("{client} is connected by {path:?}")));
            }
            GatewayEvent::PathChanged { client, path } => {
                out.push(Effect::Note(format!("path to {client} is {path:?}")));
            }
            GatewayEvent::ClientGone { client, reason } => {
                out.push(Effect::Note(format!("{client} is gone: {reason}")));
            }
        }
    }
}
