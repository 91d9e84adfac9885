//! The DNS servers that applications see: sentinels that answer over UDP and TCP.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::Instant;

use connlib_dns::{
    Assignment, Client, Handled, Output, ProxyAddresses, Query, QueryId, Resolver, StubResolver,
    TcpOutput, TcpServer, Transmit, Transport, Upstream, UpstreamConfig,
};
use connlib_packet::build;

/// The resolver with what carries its answers to applications.
pub(super) struct Dns {
    resolver: Resolver,
    tcp: TcpServer,
    timeout: Option<Instant>,
    outputs: VecDeque<DnsOutput>,
}

/// What DNS wants of the tunnel.
#[derive(Debug)]
pub(super) enum DnsOutput {
    /// A resolver has to be asked.
    Ask(Transmit),
    /// That is over.
    Finished(QueryId),
    /// A packet for an application.
    Packet(Vec<u8>),
    /// A name of a resource came into use.
    Assigned(Assignment),
    /// A gateway of a resource has to answer this.
    AskGateway { client: Client, query: Query, resource: uuid::Uuid },
}

impl Dns {
    pub(super) fn new(seed: [u8; 32], now: Instant) -> Self {
        let [a, b, c, d, e, f, g, h, ..] = seed;
        Self {
            resolver: Resolver::new(seed, ProxyAddresses::default()),
            tcp: TcpServer::new(u64::from_le_bytes([a, b, c, d, e, f, g, h]), now),
            timeout: None,
            outputs: VecDeque::new(),
        }
    }

    pub(super) fn set_upstreams(&mut self, config: &UpstreamConfig, now: Instant) {
        if self.resolver.set_upstreams(config) {
            self.tcp.set_addresses(self.resolver.sentinels().iter().map(|(ip, _)| ip), now);
        }
        self.drain(now);
    }

    pub(super) fn upsert_resource(&mut self, resource: connlib_dns::Resource) {
        self.resolver.upsert_resource(resource);
    }

    pub(super) fn remove_resource(&mut self, id: uuid::Uuid) {
        self.resolver.remove_resource(id);
    }

    /// The resources and the names that have proxy addresses.
    pub(super) fn stub(&self) -> &StubResolver {
        self.resolver.stub()
    }

    /// The addresses of the servers that applications see, in order of preference.
    pub(super) fn sentinels(&self) -> impl Iterator<Item = std::net::IpAddr> {
        self.resolver.sentinels().iter().map(|(ip, _)| ip)
    }

    /// Notes that a packet went to a proxy address, so that its name keeps it.
    pub(super) fn touch(&mut self, address: std::net::IpAddr, now: Instant) {
        self.resolver.touch(address, now);
    }

    /// Takes the payload of a UDP packet to a sentinel.
    pub(super) fn handle_udp(
        &mut self,
        source: SocketAddr,
        server: SocketAddr,
        payload: &[u8],
        now: Instant,
    ) {
        let client = Client { server, source, transport: Transport::Udp };
        self.handle_query(client, payload, now);
        self.drain(now);
    }

    /// Takes a TCP packet to a sentinel.
    pub(super) fn handle_tcp(&mut self, packet: &[u8], now: Instant) {
        self.tcp.handle_packet(packet, now);
        self.drain(now);
    }

    pub(super) fn handle_response(
        &mut self,
        id: QueryId,
        from: &Upstream,
        message: &[u8],
        now: Instant,
    ) {
        if let Err(e) = self.resolver.handle_response(id, from, message, now) {
            tracing::debug!(error = %e, "ignored a DNS response");
        }
        self.drain(now);
    }

    pub(super) fn handle_failure(&mut self, id: QueryId, now: Instant) {
        self.resolver.handle_failure(id);
        self.drain(now);
    }

    pub(super) fn forward_to_gateway(
        &mut self,
        client: Client,
        query: Query,
        gateway: SocketAddr,
        now: Instant,
    ) {
        self.resolver.forward_to_gateway(client, query, gateway, now);
        self.drain(now);
    }

    pub(super) fn refuse(&mut self, client: Client, query: &Query, now: Instant) {
        self.resolver.refuse(client, query);
        self.drain(now);
    }

    /// Gives up what is under way.
    pub(super) fn reset(&mut self, now: Instant) {
        self.resolver.reset();
        self.drain(now);
    }

    pub(super) fn handle_timeout(&mut self, now: Instant) {
        self.resolver.handle_timeout(now);
        self.tcp.handle_timeout(now);
        self.drain(now);
    }

    pub(super) fn next_timeout(&self) -> Option<Instant> {
        self.timeout
    }

    pub(super) fn poll_output(&mut self) -> Option<DnsOutput> {
        self.outputs.pop_front()
    }

    fn handle_query(&mut self, client: Client, message: &[u8], now: Instant) {
        match self.resolver.handle_query(client, message, now) {
            Ok(Handled::Answered(assignment)) => {
                self.outputs.extend(assignment.map(DnsOutput::Assigned));
            }
            Ok(Handled::Forwarded) => {}
            Ok(Handled::AskGateway { resource, query }) => {
                self.outputs.push_back(DnsOutput::AskGateway { client, query, resource });
            }
            Ok(Handled::Unassigned) => self.tcp.reject(client, now),
            Err(e) => {
                tracing::debug!(error = %e, "dropped a malformed DNS query");
                self.tcp.reject(client, now);
            }
        }
    }

    /// Takes over all that the parts have to say.
    fn drain(&mut self, now: Instant) {
        let resolver_timeout = loop {
            match self.resolver.poll_output() {
                Output::Transmit(transmit) => self.outputs.push_back(DnsOutput::Ask(transmit)),
                Output::Finished(id) => self.outputs.push_back(DnsOutput::Finished(id)),
                Output::Answer { to, message } => self.answer(to, &message, now),
                Output::Timeout(at) => match self.poll_tcp(now) {
                    // A query by TCP may have led to more.
                    Some(()) => {}
                    None => break at,
                },
            }
        };
        self.timeout = [resolver_timeout, self.timeout].into_iter().flatten().min();
    }

    /// Takes one output of the TCP server; its timeout is kept.
    fn poll_tcp(&mut self, now: Instant) -> Option<()> {
        match self.tcp.poll_output() {
            TcpOutput::Packet(packet) => self.outputs.push_back(DnsOutput::Packet(packet)),
            TcpOutput::Query { client, message } => self.handle_query(client, &message, now),
            TcpOutput::Timeout(at) => {
                self.timeout = at;
                return None;
            }
        }
        Some(())
    }

    fn answer(&mut self, to: Client, message: &[u8], now: Instant) {
        if to.transport == Transport::Tcp {
            return self.tcp.answer(to, message, now);
        }
        let mut packet = vec![0; message.len() + 64];
        match build::udp(&mut packet, to.server, to.source, message) {
            Ok(len) => {
                packet.truncate(len);
                self.outputs.push_back(DnsOutput::Packet(packet));
            }
            Err(e) => tracing::debug!(error = %e, "could not answer a DNS query"),
        }
    }
}
