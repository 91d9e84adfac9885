//! The state machine of a gateway.

use std::collections::{HashMap, VecDeque};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::{Duration, Instant};

use connlib_link::{
    Datagram, Node, NodeConfig, Opened, Path, Relay, SealError, SendQueue, StreamServer, Upsert,
};
use connlib_packet::{Ecn, Offload, PacketBatch, TunPacket, control, plan};

use super::authorization::{Authorization, AuthorizeError, Retained};
use super::config::{self, GatewayConfig};
use super::event::{GatewayEvent, Gone};
use super::names::Names;
use super::peer::{Decision, Interface, Refusal};
use super::peers::Peers;
use super::resolutions::{ResolutionId, ResolveError};
use super::session::Direction;
use crate::datagrams::Datagrams;
use crate::filter::Filters;
use crate::flow_cache::FlowCache;
use crate::ids::{ClientId, ResourceId};
use crate::output::Output;
use crate::stats::{DropReason, Stats};

/// A gateway: the clients, what each may reach, and the translation of their packets.
pub struct GatewayTunnel {
    node: Node,
    interface: Option<Interface>,
    max_clients: usize,
    peers: Peers,
    names: Names,
    from_clients: FlowCache<Decision>,
    to_clients: FlowCache<(usize, Decision)>,
    events: VecDeque<GatewayEvent>,
    stats: Stats,
}

impl GatewayTunnel {
    /// A gateway with a key of its own, without clients and addresses.
    pub fn new(config: &GatewayConfig, now: Instant) -> Self {
        let node = NodeConfig { seed: config.seed, max_links: config.max_clients };
        Self {
            node: Node::new(node, now),
            interface: None,
            max_clients: config.max_clients,
            peers: Peers::default(),
            names: Names::new(),
            from_clients: FlowCache::new(),
            to_clients: FlowCache::new(),
            events: VecDeque::new(),
            stats: Stats::default(),
        }
    }

    /// The WireGuard key that clients know this gateway by.
    pub fn public_key(&self) -> [u8; 32] {
        self.node.public_key()
    }

    /// Replaces our own addresses in the tunnel.
    pub fn set_interface(&mut self, ipv4: Ipv4Addr, ipv6: Ipv6Addr) {
        self.interface = Some(Interface { ipv4, ipv6 });
        self.forget_decisions();
    }

    /// Replaces the addresses of this machine's interfaces, each with the port of our socket.
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

    /// Lets a client reach a resource, and makes sure that there is a link to it. The same again changes nothing but
    /// the filters and the end.
    pub fn create_authorization(
        &mut self,
        authorization: Authorization,
        now: Instant,
    ) -> Result<(), AuthorizeError> {
        let link = authorization.link();
        let Authorization { client, resource, expires_at, .. } = authorization;
        self.evict_owners(client.id, client.addresses(), now);
        match self.peers.slot(client.id).and_then(|slot| self.peers.get(slot)) {
            Some(peer) if peer.policy.contains(resource.id) => {}
            Some(peer) if peer.policy.len() >= config::MAX_RESOURCES => {
                return Err(AuthorizeError::TooManyResources);
            }
            Some(_) => {}
            None => self.make_room(now)?,
        }
        if self.node.upsert(link, now) == Upsert::Refused {
            return Err(AuthorizeError::TooManyClients);
        }
        let slot = self.peers.upsert(client, now);
        if let Some(peer) = self.peers.get_mut(slot) {
            peer.policy.insert(resource.id, resource.target, resource.filters, expires_at);
        }
        self.peers.settle(slot);
        self.forget_decisions();
        tracing::debug!(client = %client.id, resource = %resource.id, "authorized");
        Ok(())
    }

    /// Takes an authorization back. Without any, the client's link ends as well.
    pub fn reject_access(&mut self, client: ClientId, resource: ResourceId, now: Instant) {
        let Some(slot) = self.peers.slot(client) else { return };
        let Some(peer) = self.peers.get_mut(slot) else { return };
        if peer.policy.remove(resource) {
            tracing::debug!(%client, %resource, "authorization taken back");
            self.handle_policy_change(slot, now);
        }
    }

    /// Ends all authorizations that are not among `lasting`, which is all that the portal knows, and corrects when the
    /// others end.
    pub fn retain_authorizations(
        &mut self,
        lasting: impl IntoIterator<Item = Retained>,
        now: Instant,
    ) {
        let lasting: HashMap<_, _> = lasting
            .into_iter()
            .map(|retained| ((retained.client, retained.resource), retained.expires_at))
            .collect();
        for slot in self.peers.slots() {
            let Some(peer) = self.peers.get_mut(slot) else { continue };
            let client = peer.client.id;
            peer.policy.retain(|resource, expires_at| {
                let Some(until) = lasting.get(&(client, resource)) else { return false };
                *expires_at = *until;
                true
            });
            self.handle_policy_change(slot, now);
        }
    }

    /// Replaces the filters of a resource for all clients that may reach it.
    pub fn update_resource_filters(&mut self, resource: ResourceId, filters: &Filters) {
        for slot in self.peers.slots() {
            if let Some(peer) = self.peers.get_mut(slot) {
                peer.policy.set_filters(resource, filters.clone());
            }
        }
        self.forget_decisions();
    }

    /// Changes when an authorization ends. Does nothing if there is none.
    pub fn update_expiry(
        &mut self,
        client: ClientId,
        resource: ResourceId,
        expires_at: Option<Instant>,
    ) {
        let Some(slot) = self.peers.slot(client) else { return };
        if let Some(peer) = self.peers.get_mut(slot) {
            peer.policy.set_expiry(resource, expires_at);
        }
        self.peers.settle(slot);
    }

    /// Takes a candidate of a client's, an SDP attribute. Unknown clients and malformed candidates are ignored.
    pub fn add_remote_candidate(&mut self, client: ClientId, candidate: &str, now: Instant) {
        self.node.add_remote_candidate(client.into(), candidate, now);
    }

    /// Forgets a candidate of a client's, an SDP attribute.
    pub fn remove_remote_candidate(&mut self, client: ClientId, candidate: &str, now: Instant) {
        self.node.remove_remote_candidate(client.into(), candidate, now);
    }

    /// Answers [`GatewayEvent::ResolveName`]: the addresses of both families, none if the name has none. An answer that
    /// comes too late is ignored.
    pub fn handle_resolved(
        &mut self,
        id: ResolutionId,
        addresses: Result<Vec<IpAddr>, ResolveError>,
        now: Instant,
    ) {
        self.names.handle_resolved(id, addresses, &mut self.peers, &mut self.node, now);
    }

    /// How many clients have an authorization.
    pub fn clients(&self) -> usize {
        self.peers.len()
    }

    /// The path to a client, if it is connected.
    pub fn path(&self, client: ClientId) -> Option<Path> {
        self.node.path(client.into())
    }

    /// Round-trip time to a client, as the checks of its path measure it.
    pub fn round_trip(&self, client: ClientId) -> Option<Duration> {
        self.node.round_trip(client.into())
    }

    /// What was counted so far.
    pub fn stats(&self) -> Stats {
        self.stats
    }

    /// Takes datagrams from a socket. What comes out for the TUN device is added to `batch`, which has room for the run
    /// and 148 bytes more; packets that find no room are lost.
    pub fn handle_datagrams(
        &mut self,
        datagrams: Datagrams<'_>,
        batch: &mut PacketBatch,
        now: Instant,
    ) {
        self.handle_deadlines(now);
        let Datagrams { local, remote, ecn, .. } = datagrams;
        for payload in datagrams.payloads() {
            let Some(slot) = batch.reserve(payload.len().max(config::MIN_SLOT)) else {
                self.stats.count(DropReason::Overflow);
                continue;
            };
            match self.node.open(Datagram { local, remote, payload }, slot, now) {
                Opened::Packet { peer, len } => {
                    if self.handle_packet(peer.into(), ecn, &mut slot[..len], now) {
                        batch.commit(len);
                    }
                }
                Opened::Handled => {}
                Opened::Dropped => self.stats.count(DropReason::NotAuthentic),
            }
        }
    }

    /// Takes a packet from the TUN device. What goes to a client is added to `queue`.
    pub fn handle_tun(&mut self, packet: TunPacket<'_>, queue: &mut SendQueue, now: Instant) {
        self.handle_deadlines(now);
        match self.release(packet, queue, now) {
            Ok(()) => self.stats.packets_out += 1,
            Err(reason) => self.stats.count(reason),
        }
    }

    /// Does what is due at `now`.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.node.handle_timeout(now);
        self.handle_deadlines(now);
        self.names.handle_timeout(&mut self.peers, &mut self.node, now);
    }

    /// Says goodbye to all clients and forgets them. What is to be sent leaves by
    /// [`poll_output`](Self::poll_output).
    pub fn shutdown(&mut self, now: Instant) {
        for slot in self.peers.slots() {
            self.say_goodbye(slot, now);
            self.peers.remove(slot);
            self.peers.settle(slot);
        }
        self.node.clear();
        self.node.release_relays(now);
        self.forget_decisions();
    }

    /// What is to be done next; call it until it returns [`Output::Timeout`].
    pub fn poll_output(&mut self) -> Output<GatewayEvent> {
        loop {
            let event = self.events.pop_front().or_else(|| self.names.poll_event());
            if let Some(event) = event {
                return Output::Event(event);
            }
            match self.node.poll_output() {
                connlib_link::Output::Transmit(transmit) => return Output::Transmit(transmit),
                connlib_link::Output::Stream(request) => return Output::Stream(request),
                connlib_link::Output::Event(event) => {
                    self.events.extend(GatewayEvent::of_link(event));
                }
                connlib_link::Output::Timeout(at) => {
                    let others = [self.peers.next_timeout(), self.names.next_timeout()];
                    return Output::Timeout(others.into_iter().flatten().fold(at, Instant::min));
                }
            }
        }
    }

    /// A packet that has come out of a client's link. True if it is to be written to the TUN device.
    #[inline]
    fn handle_packet(&mut self, id: ClientId, ecn: Ecn, bytes: &mut [u8], now: Instant) -> bool {
        let Some(slot) = self.peers.slot(id) else {
            self.stats.count(DropReason::UnknownPeer);
            return false;
        };
        if let Some(event) = control::Event::decode(bytes) {
            self.handle_control(slot, event, now);
            return false;
        }
        let Ok(mut packet) = TunPacket::parse(bytes, Offload::NONE) else {
            self.stats.count(DropReason::Malformed);
            return false;
        };
        match self.admit(slot, &mut packet, now) {
            Ok(()) => {
                packet.apply_outer_ecn(ecn);
                self.stats.packets_in += 1;
                true
            }
            Err(refusal) => {
                self.refuse(slot, &packet, refusal, now);
                false
            }
        }
    }

    #[inline]
    fn admit(
        &mut self,
        slot: usize,
        packet: &mut TunPacket<'_>,
        now: Instant,
    ) -> Result<(), Refusal> {
        let headers = *packet.headers();
        if let Some(decision) = self.from_clients.find(slot, &headers)
            && self.apply(slot, decision, Direction::Outgoing, packet, now)
        {
            return Ok(());
        }
        let sessions = config::sessions_per_client(self.peers.len());
        let Some(peer) = self.peers.get_mut(slot) else {
            return Err(Refusal { reason: DropReason::UnknownPeer, answer: None });
        };
        let decision = peer.admit(&headers, self.interface, sessions, now)?;
        self.peers.settle(slot);
        self.from_clients.insert(slot, &headers, decision);
        match self.apply(slot, decision, Direction::Outgoing, packet, now) {
            true => Ok(()),
            false => Err(Refusal { reason: DropReason::ExpiredSession, answer: None }),
        }
    }

    fn refuse(&mut self, slot: usize, packet: &TunPacket<'_>, refusal: Refusal, now: Instant) {
        self.stats.count(refusal.reason);
        let Some(peer) = self.peers.get_mut(slot) else { return };
        tracing::trace!(client = %peer.client.id, reason = ?refusal.reason, "packet refused");
        if let Some(error) = refusal.answer
            && peer.may_be_answered(now)
        {
            let mut answer = [0; plan::MTU as usize];
            if let Some(len) = packet.answer(error, &mut answer) {
                // Without a link the client could not have sent the packet.
                let _ = self.node.send(peer.client.id.into(), &answer[..len], now);
            }
        }
    }

    fn release(
        &mut self,
        mut packet: TunPacket<'_>,
        queue: &mut SendQueue,
        now: Instant,
    ) -> Result<(), DropReason> {
        let headers = *packet.headers();
        let cached = self.to_clients.find(0, &headers).filter(|(slot, decision)| {
            self.apply(*slot, *decision, Direction::Incoming, &mut packet, now)
        });
        let slot = match cached {
            Some((slot, _)) => slot,
            None => {
                let slot = self.peers.slot_of_address(headers.destination());
                let slot = slot.ok_or(DropReason::UnknownPeer)?;
                let peer = self.peers.get(slot).ok_or(DropReason::UnknownPeer)?;
                let decision = peer.release(&mut packet, self.interface, now)?;
                if !self.apply(slot, decision, Direction::Incoming, &mut packet, now) {
                    return Err(DropReason::ExpiredSession);
                }
                self.to_clients.insert(0, &headers, (slot, decision));
                slot
            }
        };
        let peer = self.peers.get(slot).ok_or(DropReason::UnknownPeer)?;
        self.node.seal(peer.client.id.into(), packet, queue, now).map_err(|error| match error {
            SealError::UnknownPeer => DropReason::UnknownPeer,
            SealError::QueueFull => DropReason::Overflow,
            SealError::NoPath => DropReason::NoPath,
            SealError::ExceedsMtu(_) => DropReason::TooBig,
        })
    }

    /// Does to a packet what was decided about its flow. False: decide anew.
    #[inline]
    fn apply(
        &mut self,
        slot: usize,
        decision: Decision,
        direction: Direction,
        packet: &mut TunPacket<'_>,
        now: Instant,
    ) -> bool {
        match (decision, self.peers.get_mut(slot)) {
            (_, None) => false,
            (Decision::Pass, Some(_)) => true,
            (Decision::Translate(id), Some(peer)) => peer.translate(packet, id, direction, now),
        }
    }

    fn handle_control(
        &mut self,
        slot: usize,
        event: Result<control::Event, control::DecodeError>,
        now: Instant,
    ) {
        let Some(peer) = self.peers.get_mut(slot) else { return };
        if !peer.may_ask(now) {
            self.stats.count(DropReason::RateLimited);
            return;
        }
        let client = peer.client.id;
        match event {
            Ok(control::Event::AssignedIps(assigned)) => {
                self.names.handle_assigned(client, assigned, &mut self.peers, &mut self.node, now);
            }
            Ok(control::Event::Goodbye) => self.remove(slot, Gone::Goodbye, now),
            Ok(other) => {
                self.stats.count(DropReason::Control);
                tracing::debug!(%client, ?other, "ignored a control message");
            }
            Err(error) => {
                self.stats.count(DropReason::Control);
                tracing::debug!(%client, %error, "ignored a control message");
            }
        }
    }

    fn handle_deadlines(&mut self, now: Instant) {
        while let Some(slot) = self.peers.pop_due(now) {
            let Some(peer) = self.peers.get_mut(slot) else { continue };
            if peer.handle_timeout(now) {
                tracing::info!(client = %peer.client.id, "authorizations expired");
                self.handle_policy_change(slot, now);
            } else {
                self.peers.settle(slot);
            }
        }
    }

    /// Some authorization of this client has changed or ended.
    fn handle_policy_change(&mut self, slot: usize, now: Instant) {
        if self.peers.get(slot).is_some_and(|peer| peer.policy.is_empty()) {
            self.remove(slot, Gone::Unauthorized, now);
        }
        self.peers.settle(slot);
        self.forget_decisions();
    }

    /// The portal has given addresses to a client that others have so far.
    fn evict_owners(&mut self, client: ClientId, addresses: [IpAddr; 2], now: Instant) {
        for address in addresses {
            let Some(slot) = self.peers.slot_of_address(address) else { continue };
            if self.peers.get(slot).is_some_and(|peer| peer.client.id != client) {
                self.remove(slot, Gone::AddressReassigned, now);
            }
        }
    }

    fn make_room(&mut self, now: Instant) -> Result<(), AuthorizeError> {
        if self.peers.len() < self.max_clients {
            return Ok(());
        }
        let has_no_link = |slot: &usize| {
            let peer = self.peers.get(*slot);
            peer.is_some_and(|peer| !self.node.has_link(peer.client.id.into()))
        };
        let displaced = self.peers.slots().into_iter().find(has_no_link);
        self.remove(displaced.ok_or(AuthorizeError::TooManyClients)?, Gone::Displaced, now);
        Ok(())
    }

    /// Forgets a client and all that belongs to it.
    fn remove(&mut self, slot: usize, reason: Gone, now: Instant) {
        if reason != Gone::Goodbye {
            self.say_goodbye(slot, now);
        }
        let Some(peer) = self.peers.remove(slot) else { return };
        let client = peer.client.id;
        if self.node.has_link(client.into()) {
            self.node.remove(client.into());
            self.events.push_back(GatewayEvent::ClientGone { client, reason });
        }
        self.peers.settle(slot);
        self.forget_decisions();
        tracing::debug!(%client, %reason, "forgot a client");
    }

    fn say_goodbye(&mut self, slot: usize, now: Instant) {
        if let Some(peer) = self.peers.get(slot)
            && let Ok(goodbye) = control::Event::Goodbye.encode()
        {
            // A client without a link has none to end.
            let _ = self.node.send(peer.client.id.into(), &goodbye, now);
        }
    }

    fn forget_decisions(&mut self) {
        self.from_clients.clear();
        self.to_clients.clear();
    }
}
