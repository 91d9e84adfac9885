//! Where packets go: to a gateway, or back to the application with an error; and what gateways say about them.

use std::collections::VecDeque;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use connlib_packet::control::{DomainStatus, Event as ControlEvent, NatStatus};
use connlib_packet::{IcmpError, plan};

use super::announcements::{Announced, Key};
use super::authorizations::{Access, Waiting};
use super::event::{ClientEvent, FailureReason};
use super::gateways::Gateway;
use super::routes::{Route, by_proxy_address};
use super::tunnel::ClientTunnel;
use crate::filter::Service;
use crate::ids::{GatewayId, ResourceId};
use crate::output::Output;
use crate::stats::DropReason;
use crate::token_bucket::TokenBucket;

/// Access that is refused by a gateway sooner than this after it was granted was not a matter of the past.
const REGRANT_PAUSE: Duration = Duration::from_secs(2);

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

    /// A packet that waited is routed anew; what it waits for now may be something else.
    pub(super) fn route_again(&mut self, packet: &[u8], now: Instant) {
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
        if !is_active {
            self.forget_flows();
            // Perhaps the name has no addresses, or the gateway knows nothing of an authorization that we rely on.
            if self.authorizations.doubt(key.resource, gateway, now) && !self.is_portal_away {
                self.announcements.put_off(&key, now);
                return self.ask_portal(key.resource);
            }
        }
        for packet in self.announcements.confirm(&key, is_active, now) {
            if is_active {
                self.route_again(&packet, now);
            } else {
                answer(&mut self.outputs, &mut self.errors, &packet, IcmpError::unreachable, now);
            }
        }
    }

    /// A gateway says that it does not let this through: what we believe to be granted may be a matter of the past. True
    /// if the portal is asked about that, and applications had better try again.
    pub(super) fn handle_prohibited(
        &mut self,
        gateway: GatewayId,
        destination: IpAddr,
        service: Service,
        now: Instant,
    ) -> bool {
        let route = if plan::is_proxy(destination) {
            let known = &self.resources;
            by_proxy_address(self.dns.stub(), destination, service, |id| {
                known.get(&id).map(|resource| &resource.filters)
            })
        } else {
            self.routes.by_address(destination, service, self.internet_active)
        };
        let Route::Resource(resource, _) = route else { return false };
        let is_old = self
            .authorizations
            .granted_since(resource)
            .is_some_and(|since| now >= since + REGRANT_PAUSE);
        let is_stale = is_old && self.authorizations.gateway(resource) == Some(gateway);
        if !is_stale || self.is_portal_away {
            return false;
        }
        self.authorizations.forget(resource);
        self.forget_flows();
        self.access(resource, now);
        true
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

    /// Tells an application what became of its packet.
    pub(super) fn answer(&mut self, packet: &[u8], error: IcmpError, now: Instant) {
        answer(&mut self.outputs, &mut self.errors, packet, |_| error, now);
    }

    pub(super) fn reject(
        &mut self,
        waiting: &Waiting,
        error: impl Fn(IpAddr) -> IcmpError,
        now: Instant,
    ) {
        for packet in &waiting.packets {
            answer(&mut self.outputs, &mut self.errors, packet, &error, now);
        }
        self.refuse_queries(waiting, now);
    }
}

/// What an application is told about a refusal.
pub(super) fn refusal(reason: FailureReason, destination: IpAddr) -> IcmpError {
    match reason {
        FailureReason::Forbidden => IcmpError::prohibited(),
        _ => IcmpError::unreachable(destination),
    }
}

pub(super) fn answer(
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
