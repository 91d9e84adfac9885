//! The way of a packet through a client.

use std::net::IpAddr;
use std::time::Instant;

use connlib_link::{Datagram, Opened, PeerId, SealError, SendQueue};
use connlib_packet::{
    Ecn, Headers, IcmpError, Offload, PacketBatch, Transport, TunPacket, Unreachable, control, plan,
};

use super::routing::{Outbound, Verdict};
use super::tunnel::ClientTunnel;
use crate::datagrams::Datagrams;
use crate::filter::Service;
use crate::ids::GatewayId;
use crate::stats::DropReason;

/// Room that a link needs in a slot besides the datagram's own length: a handshake message of its own.
const MIN_SLOT: usize = 148;

impl ClientTunnel {
    /// Takes a packet, or a super-packet, from the TUN device. What is to be sent goes to `queue`, which has room for a
    /// super-packet (see [`SendQueue::is_full`]).
    pub fn handle_tun(&mut self, packet: TunPacket<'_>, queue: &mut SendQueue, now: Instant) {
        let headers = *packet.headers();
        if let Some(outbound) = self.outbound.find(0, &headers) {
            return self.seal(outbound, packet, queue, now);
        }
        let destination = headers.destination();
        if let Err(reason) = self.check_origin(&headers) {
            // A connection from before there was a tunnel, for example: it has to be made anew.
            if reason == DropReason::ForeignSource {
                self.answer(packet.bytes(), IcmpError::prohibited(), now);
            }
            return self.stats.count(reason);
        }
        if plan::is_sentinel(destination) {
            return self.handle_sentinel(packet, now);
        }
        if matches!(headers.transport(), Transport::IcmpError(_)) {
            // A gateway could not translate it.
            return self.stats.count(DropReason::IcmpError);
        }
        match self.route(destination, Service::of_destination(&headers), now) {
            Verdict::Send(outbound) => {
                self.outbound.insert(0, &headers, outbound);
                self.seal(outbound, packet, queue, now);
            }
            Verdict::AwaitAuthorization(resource) => {
                each_segment(packet, |segment| self.authorizations.keep_packet(resource, segment));
            }
            Verdict::AwaitConfirmation(key) => {
                each_segment(packet, |segment| self.announcements.keep_packet(&key, segment));
            }
            Verdict::Reject(error, reason) => {
                self.stats.count(reason);
                self.answer(packet.bytes(), error, now);
            }
        }
    }

    fn check_origin(&self, headers: &Headers) -> Result<(), DropReason> {
        let destination = headers.destination();
        let interface = self.interface.as_ref().ok_or(DropReason::Unreachable)?;
        let is_ours = |ip: IpAddr| ip == interface.ipv4 || ip == interface.ipv6;
        if destination.is_multicast() {
            return Err(DropReason::Multicast);
        }
        // This also stops applications that forge control messages: those come from nobody.
        if !is_ours(headers.source()) {
            return Err(DropReason::ForeignSource);
        }
        if is_ours(destination) {
            return Err(DropReason::Unreachable);
        }
        Ok(())
    }

    fn seal(
        &mut self,
        outbound: Outbound,
        packet: TunPacket<'_>,
        queue: &mut SendQueue,
        now: Instant,
    ) {
        if outbound.by_name {
            self.dns.touch(packet.headers().destination(), now);
        }
        if packet.longest_segment() > usize::from(plan::MTU)
            && packet.headers().tcp_flags().is_none()
        {
            self.stats.count(DropReason::TooBig);
            let error = IcmpError::PacketTooBig { mtu: plan::MTU.into() };
            return self.answer(packet.bytes(), error, now);
        }
        match self.node.seal(outbound.gateway.into(), packet, queue, now) {
            Ok(()) => self.stats.packets_out += 1,
            Err(SealError::UnknownPeer) => {
                self.stats.count(DropReason::UnknownPeer);
                self.forget_flows();
            }
            Err(SealError::QueueFull) => self.stats.count(DropReason::Overflow),
            Err(SealError::NoPath) => self.stats.count(DropReason::NoPath),
            Err(SealError::ExceedsMtu(_)) => self.stats.count(DropReason::TooBig),
        }
    }

    /// Sentinels answer DNS and nothing else.
    fn handle_sentinel(&mut self, packet: TunPacket<'_>, now: Instant) {
        let headers = *packet.headers();
        let sockets = (headers.source_socket(), headers.destination_socket());
        match (headers.transport(), sockets) {
            (Transport::Udp { destination: 53, .. }, (Some(source), Some(server)))
                if packet.offload().segmentation.is_none() =>
            {
                self.dns.handle_udp(source, server, packet.payload(), now);
            }
            (Transport::Tcp { destination: 53, .. }, _) => {
                each_segment(packet, |segment| self.dns.handle_tcp(segment, now));
            }
            _ => {
                self.stats.count(DropReason::Unreachable);
                self.answer(packet.bytes(), IcmpError::Unreachable(Unreachable::Port), now);
            }
        }
    }

    /// Takes datagrams from a socket. Packets for applications go to `batch`.
    pub fn handle_datagrams(
        &mut self,
        datagrams: Datagrams<'_>,
        batch: &mut PacketBatch,
        now: Instant,
    ) {
        let Datagrams { local, remote, ecn, .. } = datagrams;
        for payload in datagrams.payloads() {
            let Some(slot) = batch.reserve(payload.len().max(MIN_SLOT)) else {
                self.stats.count(DropReason::Overflow);
                continue;
            };
            match self.node.open(Datagram { local, remote, payload }, slot, now) {
                Opened::Packet { peer, len } => {
                    let is_wanted = slot
                        .get_mut(..len)
                        .is_some_and(|packet| self.accept(peer, packet, ecn, now));
                    if is_wanted {
                        batch.commit(len);
                        self.stats.packets_in += 1;
                    }
                }
                Opened::Handled => {}
                Opened::Dropped => self.stats.count(DropReason::NotAuthentic),
            }
        }
    }

    /// Whether a packet from a gateway is for an application.
    fn accept(&mut self, peer: PeerId, bytes: &mut [u8], ecn: Ecn, now: Instant) -> bool {
        let Ok(mut packet) = TunPacket::parse(bytes, Offload::NONE) else {
            self.stats.count(DropReason::Malformed);
            return false;
        };
        packet.apply_outer_ecn(ecn);
        let headers = *packet.headers();
        let Some(slot) = self.gateways.slot(peer) else {
            self.stats.count(DropReason::UnknownPeer);
            return false;
        };
        if self.inbound.find(slot, &headers).is_some() {
            return true;
        }
        let id = GatewayId::from(peer);
        if control::is_control(packet.bytes()) {
            self.handle_control(id, packet.bytes(), now);
            return false;
        }
        if let Err(reason) = self.check_inbound(id, &headers) {
            self.stats.count(reason);
            return false;
        }
        if let Transport::IcmpError(IcmpError::Unreachable(Unreachable::Prohibited)) =
            headers.transport()
            && let Some(quoted) = packet.quoted()
            && self.handle_prohibited(id, quoted.destination(), service_of(quoted.transport()), now)
        {
            self.stats.count(DropReason::NotAllowed);
            return false;
        }
        self.inbound.insert(slot, &headers, ());
        true
    }

    fn check_inbound(&self, id: GatewayId, headers: &Headers) -> Result<(), DropReason> {
        let gateway = self.gateways.get(id).ok_or(DropReason::UnknownPeer)?;
        let interface = self.interface.as_ref().ok_or(DropReason::Unreachable)?;
        let destination = headers.destination();
        if destination != interface.ipv4 && destination != interface.ipv6 {
            return Err(DropReason::Unreachable);
        }
        if self.may_send(gateway, headers.source()) {
            Ok(())
        } else {
            Err(DropReason::ForeignSource)
        }
    }
}

fn each_segment(packet: TunPacket<'_>, mut keep: impl FnMut(&[u8])) {
    if let Ok(mut segments) = packet.segments(plan::MTU) {
        while let Some(segment) = segments.next_segment() {
            keep(segment);
        }
    }
}

fn service_of(transport: Transport) -> Service {
    match transport {
        Transport::Tcp { destination, .. } => Service::Tcp(destination),
        Transport::Udp { destination, .. } => Service::Udp(destination),
        Transport::IcmpEcho { .. } | Transport::IcmpError(_) => Service::Icmp,
        Transport::Other { .. } => Service::Other,
    }
}
