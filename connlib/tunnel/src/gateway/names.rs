//! The control protocol's part about names: what clients announce, and what they are told.

use std::collections::{HashSet, VecDeque};
use std::net::IpAddr;
use std::time::Instant;

use connlib_dns::Name;
use connlib_link::Node;
use connlib_packet::control::{self, AssignedIps, DomainStatus, NatStatus};
use connlib_packet::plan;

use super::event::GatewayEvent;
use super::peers::Peers;
use super::resolutions::{Announcement, Answer, Finished, ResolutionId, Resolutions, ResolveError};
use crate::ids::{ClientId, ResourceId};

/// Turns announcements into requests to the host, and the host's answers into translations.
#[derive(Debug)]
pub(super) struct Names {
    resolutions: Resolutions,
    events: VecDeque<GatewayEvent>,
}

impl Names {
    pub(super) fn new() -> Self {
        Self { resolutions: Resolutions::new(), events: VecDeque::new() }
    }

    /// A client says which proxy addresses stand for a name.
    pub(super) fn handle_assigned(
        &mut self,
        client: ClientId,
        assigned: AssignedIps,
        peers: &mut Peers,
        node: &mut Node,
        now: Instant,
    ) {
        let AssignedIps { resource, domain, proxy_ips } = assigned;
        let name = domain.parse::<Name>();
        let resource = ResourceId(resource);
        let announcement = Announcement { client, resource, domain, proxies: proxy_ips };
        let is_authorized = |name: &Name| {
            let peer = peers.slot(client).and_then(|slot| peers.get(slot));
            peer.is_some_and(|peer| peer.policy.has_name(resource, name))
        };
        let Some(name) = name.ok().filter(is_authorized).filter(|_| are_valid(&announcement))
        else {
            tracing::debug!(%client, %resource, "refused an announcement of proxy addresses");
            return tell(&announcement, NatStatus::Inactive, node, now);
        };
        if let Some(addresses) = self.resolutions.known(&name, now) {
            return install(&name, &announcement, Some(&addresses), peers, node, now);
        }
        match self.resolutions.ask(&name, announcement, now) {
            Answer::Ask(id) => self.events.push_back(GatewayEvent::ResolveName { id, name }),
            Answer::Waiting => {}
            Answer::Refused => tracing::debug!(%client, "too many names are being resolved"),
        }
    }

    /// The host has resolved a name, or failed to.
    pub(super) fn handle_resolved(
        &mut self,
        id: ResolutionId,
        addresses: Result<Vec<IpAddr>, ResolveError>,
        peers: &mut Peers,
        node: &mut Node,
        now: Instant,
    ) {
        if let Some(finished) = self.resolutions.finish(id, addresses, now) {
            conclude(&finished, peers, node, now);
        }
    }

    /// Gives up on requests that the host has not answered.
    pub(super) fn handle_timeout(&mut self, peers: &mut Peers, node: &mut Node, now: Instant) {
        while let Some(finished) = self.resolutions.pop_timed_out(now) {
            conclude(&finished, peers, node, now);
        }
    }

    pub(super) fn next_timeout(&self) -> Option<Instant> {
        self.resolutions.next_timeout()
    }

    /// What the host is to do.
    pub(super) fn poll_event(&mut self) -> Option<GatewayEvent> {
        self.events.pop_front()
    }
}

fn conclude(finished: &Finished, peers: &mut Peers, node: &mut Node, now: Instant) {
    for announcement in &finished.announcements {
        let addresses = finished.addresses.as_deref();
        install(&finished.name, announcement, addresses, peers, node, now);
    }
}

/// Whether these are proxy addresses, each one once.
fn are_valid(announcement: &Announcement) -> bool {
    let proxies = &announcement.proxies;
    let mut seen = HashSet::new();
    matches!(proxies.len(), 4 | 8)
        && proxies.iter().all(|proxy| plan::is_proxy(*proxy) && seen.insert(proxy))
}

/// A name without addresses is active as well: its proxy addresses are unreachable then, and applications told so.
fn install(
    name: &Name,
    announcement: &Announcement,
    addresses: Option<&[IpAddr]>,
    peers: &mut Peers,
    node: &mut Node,
    now: Instant,
) {
    let Some(slot) = peers.slot(announcement.client) else { return };
    let Some(peer) = peers.get_mut(slot) else { return };
    let Announcement { resource, proxies, .. } = announcement;
    let is_active =
        addresses.is_some_and(|addresses| peer.install(*resource, name, proxies, addresses));
    let status = if is_active { NatStatus::Active } else { NatStatus::Inactive };
    tell(announcement, status, node, now);
}

fn tell(announcement: &Announcement, status: NatStatus, node: &mut Node, now: Instant) {
    let event = control::Event::DomainStatus(DomainStatus {
        resource: announcement.resource.0,
        domain: announcement.domain.clone(),
        status,
    });
    // A domain that is too long to be sent back was not sent by a client of ours; a client without a link asks again.
    if let Ok(packet) = event.encode() {
        let _ = node.send(announcement.client.into(), &packet, now);
    }
}
