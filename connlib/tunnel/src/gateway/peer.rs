//! All that a gateway knows of one client: one value without references to others.

mod rewrite;
#[cfg(test)]
mod tests;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::{Duration, Instant};

use connlib_dns::Name;
use connlib_packet::{Headers, IcmpError, Transport, TunPacket, plan};

use super::authorization::AuthorizedClient;
use super::nat::{Nat, Owner, SessionId};
use super::policy::{Policy, Verdict};
use super::session::{Direction, Tuple};
use super::translations::{Installed, Translations};
use crate::filter::Service;
use crate::ids::ResourceId;
use crate::stats::DropReason;
use crate::token_bucket::TokenBucket;

/// ICMP errors that a client gets at once, and one more each interval.
const ANSWERS: (u32, Duration) = (128, Duration::from_millis(10));

/// Control messages that are taken from a client at once, and one more each interval. A client that finds a restarted
/// gateway announces all its names.
const MESSAGES: (u32, Duration) = (4096, Duration::from_millis(2));

/// Our own addresses in the tunnel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Interface {
    pub(super) ipv4: Ipv4Addr,
    pub(super) ipv6: Ipv6Addr,
}

impl Interface {
    pub(super) fn has(interface: Option<Self>, address: IpAddr) -> bool {
        interface.is_some_and(|own| own.ipv4 == address || own.ipv6 == address)
    }
}

/// What is done with the packets of a flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Decision {
    /// They pass as they are.
    Pass,
    /// They pass with another address, and perhaps another port.
    Translate(SessionId),
}

/// Why a packet of the client's doesn't pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Refusal {
    pub(super) reason: DropReason,
    /// What the client is told.
    pub(super) answer: Option<IcmpError>,
}

/// A client, its authorizations, names and sessions.
#[derive(Debug)]
pub(super) struct Peer {
    pub(super) client: AuthorizedClient,
    pub(super) policy: Policy,
    translations: Translations,
    nat: Nat,
    answers: TokenBucket,
    messages: TokenBucket,
}

impl Peer {
    pub(super) fn new(client: AuthorizedClient, now: Instant) -> Self {
        Self {
            client,
            policy: Policy::default(),
            translations: Translations::new(),
            nat: Nat::new(),
            answers: TokenBucket::new(ANSWERS.0, ANSWERS.1, now),
            messages: TokenBucket::new(MESSAGES.0, MESSAGES.1, now),
        }
    }

    /// Whether one more ICMP error may go to the client.
    pub(super) fn may_be_answered(&mut self, now: Instant) -> bool {
        self.answers.take(now)
    }

    /// Whether one more control message is taken from the client.
    pub(super) fn may_ask(&mut self, now: Instant) -> bool {
        self.messages.take(now)
    }

    /// Decides about a packet from the client. At most `sessions` translated flows are kept.
    pub(super) fn admit(
        &mut self,
        headers: &Headers,
        own: Option<Interface>,
        sessions: usize,
        now: Instant,
    ) -> Result<Decision, Refusal> {
        let (source, destination) = (headers.source(), headers.destination());
        if destination.is_multicast() {
            return Err(Refusal::silent(DropReason::Multicast));
        }
        if matches!(headers.transport(), Transport::IcmpError(_)) {
            return Err(Refusal::silent(DropReason::IcmpError));
        }
        if !self.client.addresses().contains(&source) {
            return Err(Refusal::prohibited(DropReason::ForeignSource));
        }
        if Interface::has(own, destination) {
            return match is_for_gateway(headers.transport()) {
                true => Ok(Decision::Pass),
                false => Err(Refusal::prohibited(DropReason::NotAllowed)),
            };
        }
        if plan::is_tunnel(destination) {
            // No way from client to client through the kernel of a gateway.
            return Err(Refusal::prohibited(DropReason::NotAllowed));
        }
        if plan::is_proxy_or_sentinel(destination) {
            return self.admit_to_proxy(headers, sessions, now);
        }
        match self.policy.judge(destination, Some(Service::of_destination(headers))) {
            Verdict::Permitted => {
                if let Some(tuple) = Tuple::of_outgoing(headers) {
                    self.nat.make_way(tuple, now);
                }
                Ok(Decision::Pass)
            }
            Verdict::Prohibited => Err(Refusal::prohibited(DropReason::NotAllowed)),
            Verdict::Unreachable => Err(Refusal::unreachable(destination)),
        }
    }

    fn admit_to_proxy(
        &mut self,
        headers: &Headers,
        sessions: usize,
        now: Instant,
    ) -> Result<Decision, Refusal> {
        let unreachable = Refusal::unreachable(headers.destination());
        let translation = self.translations.find(headers.destination()).ok_or(unreachable)?;
        let service = Service::of_destination(headers);
        if !self.policy.permits_any(translation.resources(), Some(service)) {
            return Err(Refusal::prohibited(DropReason::NotAllowed));
        }
        let real = translation.real().ok_or(unreachable)?;
        let tuple = Tuple::of_outgoing(headers).ok_or(unreachable)?;
        let session = self.nat.open(tuple, real, headers.tcp_flags(), sessions, now);
        session.map(Decision::Translate).map_err(|_| unreachable)
    }

    /// Decides about a packet to the client. An ICMP error that passes has been translated.
    pub(super) fn release(
        &self,
        packet: &mut TunPacket<'_>,
        own: Option<Interface>,
        now: Instant,
    ) -> Result<Decision, DropReason> {
        let headers = *packet.headers();
        let source = headers.source();
        if matches!(headers.transport(), Transport::IcmpError(_)) {
            return self.release_error(packet, own, now);
        }
        if Interface::has(own, source) {
            return Ok(Decision::Pass);
        }
        if plan::is_tunnel(source) || plan::is_proxy_or_sentinel(source) {
            return Err(DropReason::ForeignSource);
        }
        if let Some(tuple) = Tuple::of_incoming(&headers) {
            match self.nat.owner(tuple, now) {
                Owner::Session(id, inside) => {
                    return match self.may_hear_of(inside, Some(Service::of_source(&headers))) {
                        true => Ok(Decision::Translate(id)),
                        false => Err(DropReason::NotAllowed),
                    };
                }
                Owner::Ended => return Err(DropReason::ExpiredSession),
                Owner::Nobody => {}
            }
        }
        match self.policy.judge(source, Some(Service::of_source(&headers))) {
            Verdict::Permitted => Ok(Decision::Pass),
            Verdict::Prohibited | Verdict::Unreachable => Err(DropReason::NotAllowed),
        }
    }

    /// An error about a packet of the client's: it may come from any router on the way. What the client never sent there
    /// is none of its business.
    fn release_error(
        &self,
        packet: &mut TunPacket<'_>,
        own: Option<Interface>,
        now: Instant,
    ) -> Result<Decision, DropReason> {
        let quoted = packet.quoted().ok_or(DropReason::Malformed)?;
        if !self.client.addresses().contains(&quoted.source()) {
            return Err(DropReason::NotAllowed);
        }
        let owner = Tuple::of_quoted(&quoted).map(|tuple| self.nat.owner(tuple, now));
        if let Some(Owner::Session(_, inside)) = owner {
            if !self.may_hear_of(inside, None) {
                return Err(DropReason::NotAllowed);
            }
            return match rewrite::error(packet, &quoted, inside) {
                Ok(()) => Ok(Decision::Pass),
                Err(_) => Err(DropReason::IcmpError),
            };
        }
        let (from, about) = (packet.headers().source(), quoted.destination());
        if Interface::has(own, about) {
            return Ok(Decision::Pass);
        }
        let is_foreign = plan::is_tunnel(from) && !Interface::has(own, from);
        if is_foreign || plan::is_tunnel(about) || plan::is_proxy_or_sentinel(about) {
            return Err(DropReason::NotAllowed);
        }
        match self.policy.judge(about, None) {
            Verdict::Permitted => Ok(Decision::Pass),
            Verdict::Prohibited | Verdict::Unreachable => Err(DropReason::NotAllowed),
        }
    }

    /// Whether the resource behind a session is still authorized, and permits the service.
    fn may_hear_of(&self, inside: Tuple, service: Option<Service>) -> bool {
        let translation = self.translations.find(inside.remote);
        translation.is_some_and(|to| self.policy.permits_any(to.resources(), service))
    }

    /// Puts the real address into a packet from the client, or the proxy address into one to it. False if the session is
    /// no more: decide anew.
    #[inline]
    pub(super) fn translate(
        &mut self,
        packet: &mut TunPacket<'_>,
        id: SessionId,
        direction: Direction,
        now: Instant,
    ) -> bool {
        let flags = packet.headers().tcp_flags();
        let Some(rewrite) = self.nat.pass(id, direction, flags, now) else { return false };
        let rewritten = match direction {
            Direction::Outgoing => rewrite::outgoing(packet, rewrite),
            Direction::Incoming => rewrite::incoming(packet, rewrite),
        };
        // INVARIANT: a session is of one family and protocol, so that the fields are there.
        debug_assert_eq!(rewritten, Ok(()));
        rewritten.is_ok()
    }

    /// Lets proxy addresses stand for the addresses of a name. False if the name is not part of this resource, or the
    /// client may not reach it (any more).
    pub(super) fn install(
        &mut self,
        resource: ResourceId,
        name: &Name,
        proxies: &[IpAddr],
        resolved: &[IpAddr],
    ) -> bool {
        if !self.policy.has_name(resource, name) {
            return false;
        }
        if self.translations.install(resource, name, proxies, resolved) == Installed::Renumbered {
            tracing::debug!(client = %self.client.id, "the client numbers its names anew");
            self.nat.clear();
        }
        true
    }

    /// When [`handle_timeout`](Self::handle_timeout) has something to do.
    pub(super) fn next_timeout(&self) -> Option<Instant> {
        [self.policy.next_expiry(), self.nat.next_timeout()].into_iter().flatten().min()
    }

    /// Ends what is over. True if it was an authorization.
    pub(super) fn handle_timeout(&mut self, now: Instant) -> bool {
        self.nat.handle_timeout(now);
        self.policy.next_expiry().is_some_and(|at| at <= now) && self.policy.expire(now)
    }
}

impl Refusal {
    fn silent(reason: DropReason) -> Self {
        Self { reason, answer: None }
    }

    fn prohibited(reason: DropReason) -> Self {
        Self { reason, answer: Some(IcmpError::prohibited()) }
    }

    fn unreachable(destination: IpAddr) -> Self {
        let answer = Some(IcmpError::unreachable(destination));
        Self { reason: DropReason::Unreachable, answer }
    }
}

/// What a gateway has to offer itself: its DNS server, and answers to pings.
fn is_for_gateway(transport: Transport) -> bool {
    match transport {
        Transport::IcmpEcho { .. } => true,
        other => other.destination_port() == Some(plan::GATEWAY_DNS_PORT),
    }
}
