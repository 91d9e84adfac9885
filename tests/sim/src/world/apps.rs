//! Packets between applications and hosts, and the model's view of them.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use connlib_dns::Name;
use connlib_packet::{Headers, Offload, Transport, TunPacket};
use connlib_tunnel::{ResourceId, Service};

use super::faults::LOSSES;
use super::{Happening, PORTAL_LATENCY, SITE_LATENCY, World, bounds};
use crate::app::{self, FlowId, Step};
use crate::internet::Node;
use crate::model::{Expected, ProbeId};
use crate::portal::{addresses, client_id, gateway_id};
use crate::{names, oracle, site};

/// From this port on, sources are those of applications that look names up.
const LOOK_UP_PORTS: std::ops::Range<u16> = 30_000..31_000;

/// How long a look-up may take: that of a name that no resource covers goes to a resolver.
const LOOK_UP: Duration = Duration::from_millis(100);

/// A client does not believe that access is over that it has had for less than this.
pub(super) const DISBELIEF: Duration = Duration::from_secs(2);

impl World {
    /// An application does what comes next, and again after a while.
    pub(super) fn tick(&mut self, id: FlowId) {
        let now = self.now;
        self.model.judge(now);
        let flow = &self.flows[id.0];
        if !flow.is_running {
            return;
        }
        let period = flow.spec.period;
        let asked = flow.asked.filter(|asked| now >= asked.at + LOOK_UP);
        if let (Some(asked), true) = (asked, self.model.is_settled(flow.spec.client, now)) {
            let at = asked.at - self.trace.start();
            let what =
                format!("{:?} was not told of {:?} that it asked for at {at:?}", id, flow.name());
            self.model.violations.push(what);
        }
        self.act(id);
        let jitter = self.random.duration(Duration::ZERO, period / 8);
        self.schedule(now + period * 15 / 16 + jitter, Happening::Tick(id));
    }

    fn act(&mut self, id: FlowId) {
        let now = self.now;
        let client = self.flows[id.0].spec.client;
        let resolver = self.clients[client].host.as_ref().and_then(|host| host.resolver());
        // Before it has an interface, nothing can be sent.
        let Some(resolver) = resolver else { return };
        let serial = self.next_probe();
        match self.flows[id.0].step(serial, now) {
            Step::Ask { message, port } => {
                let source = SocketAddr::new(self.own_address(client, resolver), port);
                let mut packet = vec![0; 1280];
                let server = SocketAddr::new(resolver, 53);
                let len = connlib_packet::build::udp(&mut packet, source, server, &message);
                packet.truncate(len.expect("room for it"));
                self.with_client(client, |host, out| host.handle_tun(packet, None, now, out));
            }
            Step::Send { to, port, service, flags } => {
                self.send_probe(id, ProbeId(serial), to, port, service, flags);
            }
            Step::Wait => {}
        }
    }

    fn send_probe(
        &mut self,
        id: FlowId,
        probe: ProbeId,
        to: IpAddr,
        port: u16,
        service: Service,
        flags: connlib_packet::TcpFlags,
    ) {
        let now = self.now;
        let flow = &self.flows[id.0];
        let (client, size) = (flow.spec.client, flow.spec.size);
        let source = SocketAddr::new(self.own_address(client, to), port);
        let packet = app::packet(probe, source, to, service, flags, size);
        let (expected, resource) = self.expect(id, service);
        let is_unaware = |id: &ResourceId| self.unaware.contains(&(client, *id));
        if let Some(resource) = resource.filter(is_unaware) {
            self.use_what_is_over(client, resource);
        }
        let sender = (source.ip(), port);
        let is_strict = self.is_strict(id);
        self.model.send(probe, id, client, sender, to, service, expected, is_strict, now);
        self.trace.note(now, &[8, u64::from(probe.0)], || {
            format!("{probe:?} of {id:?} to {to} {service:?}: {expected:?}, strict: {is_strict}")
        });
        self.with_client(client, |host, out| host.handle_tun(packet, Some(probe), now, out));
    }

    /// A client sends something by an authorization that has ended, and learns from the answer that it has to ask again;
    /// if there is one, and if it believes it.
    fn use_what_is_over(&mut self, client: usize, resource: ResourceId) {
        let now = self.now;
        let wire = self.wires.get(&Node::Client(client));
        let is_told =
            wire.is_some_and(|wire| wire.is_connected) && !self.to_be_told.contains(&client);
        let gateways = (0..self.gateways.len()).map(Node::Gateway);
        let is_cut_off = gateways.chain([Node::Client(client)]).any(|node| self.is_down(node));
        if !is_told || is_cut_off {
            return;
        }
        self.authorization_is_over(client);
        let granted_at = self.portal.granted_at(client, resource);
        if granted_at.is_none_or(|at| now >= at + DISBELIEF + PORTAL_LATENCY) {
            self.unaware.remove(&(client, resource));
            self.learning.push((now, client, resource));
        }
    }

    /// A host sends something, and again after a while.
    pub(super) fn push(&mut self, id: FlowId, period: Duration, until: Instant) {
        let now = self.now;
        if now >= until {
            return;
        }
        self.schedule(now + period, Happening::Push(id, period, until));
        let Some((host, port, service)) = self.flows[id.0].peer() else { return };
        let (outcome, resource) = self.expect(id, service);
        if outcome != Expected::Answer {
            return;
        }
        let policy = &self.portal.policy;
        let site = resource.and_then(|id| policy.resources.get(&id)).map(|resource| resource.site);
        let mut gateways = policy.gateways.iter();
        let gateway = gateways.find(|(_, of)| Some(**of) == site).map(|(id, _)| *id);
        let Some(gateway) = gateway.map(crate::portal::gateway_number) else { return };
        let probe = ProbeId(self.next_probe());
        let client = self.flows[id.0].spec.client;
        let own = SocketAddr::new(self.own_address(client, host.ip()), port);
        let packet = app::push(probe, host, own);
        // Without access of its own, the client is not asked.
        let strict = self.is_strict(id) && self.model.works(id, client);
        let expected = Expected::Answer;
        let sender = (own.ip(), port);
        self.model.send(probe, id, client, sender, host.ip(), service, expected, strict, now);
        self.model.push(probe);
        self.with_gateway(gateway, |host, out| host.handle_tun(packet, Some(probe), now, out));
    }

    /// What must become of what an application sends now.
    pub(super) fn expect(&self, id: FlowId, service: Service) -> (Expected, Option<ResourceId>) {
        let is_online = |site| {
            let gateways = &self.portal.policy.gateways;
            gateways.iter().any(|(gateway, of)| {
                let number = crate::portal::gateway_number(*gateway);
                *of == site && self.gateways[number].host.is_some()
            })
        };
        let spec = &self.flows[id.0].spec;
        oracle::expect(&self.portal.policy, &self.names, spec, service, is_online)
    }

    /// Whether what an application sends has to arrive: it has its access already, or can get it.
    fn is_strict(&self, id: FlowId) -> bool {
        let client = self.flows[id.0].spec.client;
        // A refusal that was right when the portal made it may still be under way, or be believed.
        let can_get_it = self.complete_since.is_some_and(|at| self.now >= at + bounds::RELINKED);
        let is_told = !self.to_be_told.contains(&client);
        let works = self.model.works(id, client);
        // What waits for a path is limited, and if handshakes get lost the path takes its time.
        let has_time = self.is_clean(client) || self.now >= self.flows[id.0].resumed_at + LOSSES;
        is_told && (works || can_get_it && has_time)
    }

    /// A packet comes out of a gateway.
    pub(super) fn let_out(&mut self, gateway: usize, mut packet: Vec<u8>) {
        let now = self.now;
        let Some(headers) = self.inspect(Node::Gateway(gateway), &mut packet) else { return };
        let probe = app::probe_of(&packet, &headers);
        let service = Service::of_destination(&headers);
        let destination = headers.destination();
        let owner = (0..self.clients.len()).find(|number| {
            let own = addresses(Node::Client(*number));
            headers.source() == IpAddr::from(own.ipv4) || headers.source() == IpAddr::from(own.ipv6)
        });
        let sent = probe.and_then(|id| self.model.probe(id));
        let (Some(client), Some(id), Some(sent)) = (owner, probe, sent) else {
            // A query on its way to a resolver behind the gateway.
            return;
        };
        let flow = sent.flow;
        let name = self.flows[flow.0].name().and_then(|name| name.parse::<Name>().ok());
        let may_pass = self.gateways[gateway].host.as_ref().is_some_and(|host| {
            host.may_pass(client_id(client), destination, name.as_ref(), service, now)
        });
        let is_right = client == sent.client
            && service == sent.service
            && (name.is_some() || destination == sent.destination);
        self.trace.note(now, &[9, u64::from(id.0), gateway as u64], || {
            format!("gateway {gateway} lets {id:?} out to {destination}")
        });
        if !may_pass {
            self.model.violate(id, &format!("gateway {gateway} let it out to {destination}"));
        }
        if !is_right {
            self.model.violate(id, "delivered to the wrong host");
        }
        if !app::is_whole(&packet, &headers) {
            self.model.violate(id, "damaged on the way");
        }
        let (_, resource) = self.expect(flow, service);
        let policy = &self.portal.policy;
        let site = resource.and_then(|id| policy.resources.get(&id)).map(|resource| resource.site);
        let of = policy.gateways.get(&gateway_id(gateway)).copied();
        if self.model.is_settled(client, now) && site.is_some() && site != of {
            self.model.violate(id, "came to the wrong site");
        }
        self.model.deliver(id, destination);
        if let Some(answer) = site::answer(&packet) {
            let generation = self.gateways[gateway].generation;
            let reply = Happening::Reply(gateway, generation, answer, Some(id));
            self.schedule(now + SITE_LATENCY, reply);
        }
    }

    /// A packet comes to the applications of a client.
    pub(super) fn receive(&mut self, client: usize, mut packet: Vec<u8>) {
        let now = self.now;
        let Some(headers) = self.inspect(Node::Client(client), &mut packet) else { return };
        if headers.destination() != self.own_address(client, headers.destination()) {
            let what = format!("client {client} got a packet for {}", headers.destination());
            return self.model.violations.push(what);
        }
        match headers.transport() {
            Transport::Udp { source: 53, destination } if LOOK_UP_PORTS.contains(&destination) => {
                let answer = packet.get(headers.payload_offset()..).and_then(names::parse);
                let flow = self.flows.get_mut(usize::from(destination - LOOK_UP_PORTS.start));
                let (Some(answer), Some(flow)) = (answer, flow) else { return };
                self.trace.note(now, &[10, answer.addresses.len() as u64], || {
                    format!("{:?} is told {answer:?}", flow.id)
                });
                if flow.handle_answer(&answer, now) {
                    let id = flow.id;
                    self.act(id);
                }
            }
            Transport::IcmpError(error) => {
                let quoted = connlib_packet::Quoted::parse(&headers, &packet);
                let probe = app::probe_quoted(&packet, &headers);
                let (Some(quoted), Some(id)) = (quoted, probe) else { return };
                let Some(sent) = self.model.probe(id) else { return };
                let port = match quoted.transport() {
                    Transport::IcmpEcho { identifier, .. } => Some(identifier),
                    other => other.source_port(),
                };
                let is_right = (quoted.source(), port) == (sent.source.0, Some(sent.source.1))
                    && quoted.destination() == sent.destination;
                let flow = sent.flow;
                if !is_right {
                    self.model.violate(id, &format!("the error quotes another packet: {quoted:?}"));
                }
                self.trace.note(now, &[11, u64::from(id.0)], || format!("{id:?}: {error:?}"));
                self.model.refuse(id, error);
                self.flows[flow.0].fail(id);
            }
            _ => {
                let probe = app::probe_of(&packet, &headers);
                let sent = probe.and_then(|id| self.model.probe(id));
                let (Some(id), Some(sent)) = (probe, sent) else {
                    let what =
                        format!("client {client} got a packet that is no answer: {headers:?}");
                    return self.model.violations.push(what);
                };
                let port = match headers.transport() {
                    Transport::IcmpEcho { identifier, .. } => Some(identifier),
                    other => other.destination_port(),
                };
                let is_right = headers.source() == sent.destination
                    && port == Some(sent.source.1)
                    && client == sent.client;
                let flow = sent.flow;
                if !is_right {
                    self.model.violate(id, &format!("the answer is not for it: {headers:?}"));
                }
                if !app::is_whole(&packet, &headers) {
                    self.model.violate(id, "its answer was damaged on the way");
                }
                self.trace.note(now, &[12, u64::from(id.0)], || format!("{id:?} is answered"));
                self.model.answer(id, now);
                self.flows[flow.0].settle(id);
            }
        }
    }

    /// Whatever comes out of the code is a whole packet with right checksums.
    fn inspect(&mut self, node: Node, bytes: &mut [u8]) -> Option<Headers> {
        match TunPacket::parse(bytes, Offload::NONE) {
            Ok(packet) if packet.is_intact() => Some(*packet.headers()),
            Ok(packet) => {
                let what = format!("{node:?} emits a wrong checksum: {:?}", packet.headers());
                self.model.violations.push(what);
                None
            }
            Err(e) => {
                self.model.violations.push(format!("{node:?} emits what is no packet: {e}"));
                None
            }
        }
    }

    fn own_address(&self, client: usize, like: IpAddr) -> IpAddr {
        let own = addresses(Node::Client(client));
        if like.is_ipv4() { own.ipv4.into() } else { own.ipv6.into() }
    }

    fn next_probe(&mut self) -> u32 {
        self.probes += 1;
        // 1 is what hosts number their own segments by.
        self.probes + 1
    }
}
