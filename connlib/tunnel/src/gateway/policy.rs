//! What one client may reach.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Instant;

use connlib_dns::{Name, Pattern};
use connlib_packet::plan;
use ipnet::IpNet;
use prefix_trie::joint::JointPrefixMap;

use super::authorization::Target;
use crate::filter::{Filters, Service};
use crate::ids::ResourceId;

/// The resources of one client, indexed for look-ups by packet.
///
/// A packet passes if **any** resource that covers its destination permits it. The client may count on that when it
/// chooses one of several: resources whose filters permit the packet come first.
#[derive(Debug, Default)]
pub(super) struct Policy {
    resources: BTreeMap<ResourceId, Access>,
    networks: JointPrefixMap<IpNet, Vec<ResourceId>>,
    internet: Option<ResourceId>,
    next_expiry: Option<Instant>,
}

#[derive(Debug)]
struct Access {
    target: Target,
    filters: Filters,
    expires_at: Option<Instant>,
}

/// What is said about a packet to or from a remote address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    Permitted,
    Prohibited,
    /// Not part of the internet, and of no other resource.
    Unreachable,
}

impl Policy {
    /// Adds a resource or replaces it.
    pub(super) fn insert(
        &mut self,
        id: ResourceId,
        target: Target,
        filters: Filters,
        expires_at: Option<Instant>,
    ) {
        self.take(id);
        match &target {
            Target::Cidr(network) => {
                self.networks.entry(network.trunc()).or_default().push(id);
            }
            Target::Internet => self.internet = Some(id),
            Target::Dns(_) => {}
        }
        self.resources.insert(id, Access { target, filters, expires_at });
        self.note_expiry();
    }

    /// Removes a resource. False if there was none.
    pub(super) fn remove(&mut self, id: ResourceId) -> bool {
        let existed = self.take(id);
        self.note_expiry();
        existed
    }

    /// Removes all resources whose time is over. False if there were none.
    pub(super) fn expire(&mut self, now: Instant) -> bool {
        self.retain(|_, expires_at| expires_at.is_none_or(|at| now < at))
    }

    /// Keeps the resources for which `keep` says so; it may change when they expire. False if nothing was removed.
    pub(super) fn retain(
        &mut self,
        mut keep: impl FnMut(ResourceId, &mut Option<Instant>) -> bool,
    ) -> bool {
        let mut ended = Vec::new();
        for (id, access) in &mut self.resources {
            if !keep(*id, &mut access.expires_at) {
                ended.push(*id);
            }
        }
        for id in &ended {
            self.take(*id);
        }
        self.note_expiry();
        !ended.is_empty()
    }

    /// Replaces the filters of a resource. False if there is no such resource.
    pub(super) fn set_filters(&mut self, id: ResourceId, filters: Filters) -> bool {
        let access = self.resources.get_mut(&id);
        access.map(|access| access.filters = filters).is_some()
    }

    /// Replaces the end of an authorization. False if there is no such resource.
    pub(super) fn set_expiry(&mut self, id: ResourceId, expires_at: Option<Instant>) -> bool {
        let Some(access) = self.resources.get_mut(&id) else { return false };
        access.expires_at = expires_at;
        self.note_expiry();
        true
    }

    /// When the next resource expires.
    pub(super) fn next_expiry(&self) -> Option<Instant> {
        self.next_expiry
    }

    pub(super) fn len(&self) -> usize {
        self.resources.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.resources.is_empty()
    }

    pub(super) fn contains(&self, id: ResourceId) -> bool {
        self.resources.contains_key(&id)
    }

    /// Whether this is a DNS resource that the name belongs to.
    pub(super) fn has_name(&self, id: ResourceId, name: &Name) -> bool {
        match self.resources.get(&id).map(|access| &access.target) {
            Some(Target::Dns(pattern)) => Pattern::matches(pattern, name),
            _ => false,
        }
    }

    /// Whether any of these resources is authorized and permits the service. Without a service, filters are left aside.
    pub(super) fn permits_any(&self, ids: &[ResourceId], service: Option<Service>) -> bool {
        ids.iter()
            .filter_map(|id| self.resources.get(id))
            .any(|access| service.is_none_or(|service| access.filters.permits(service)))
    }

    /// Whether the client may exchange packets with `remote`, which is no address of the tunnel's.
    pub(super) fn judge(&self, remote: IpAddr, service: Option<Service>) -> Verdict {
        let mut is_covered = false;
        for (_, ids) in self.networks.cover(&IpNet::from(remote)) {
            is_covered = true;
            if self.permits_any(ids, service) {
                return Verdict::Permitted;
            }
        }
        match self.internet {
            Some(_) if is_internet(remote) => Verdict::Permitted,
            Some(_) if !is_covered => Verdict::Unreachable,
            _ => Verdict::Prohibited,
        }
    }

    fn take(&mut self, id: ResourceId) -> bool {
        let Some(access) = self.resources.remove(&id) else { return false };
        match access.target {
            Target::Cidr(network) => {
                let network = network.trunc();
                if let Some(ids) = self.networks.get_mut(&network) {
                    ids.retain(|other| *other != id);
                    if ids.is_empty() {
                        self.networks.remove(&network);
                    }
                }
            }
            Target::Internet if self.internet == Some(id) => {
                self.internet = self
                    .resources
                    .iter()
                    .find(|(_, access)| matches!(access.target, Target::Internet))
                    .map(|(id, _)| *id);
            }
            Target::Internet | Target::Dns(_) => {}
        }
        true
    }

    fn note_expiry(&mut self) {
        self.next_expiry = self.resources.values().filter_map(|access| access.expires_at).min();
    }
}

/// Whether an address belongs to the internet, as opposed to networks that a resource has to name.
fn is_internet(address: IpAddr) -> bool {
    if plan::is_tunnel(address) || plan::is_proxy_or_sentinel(address) {
        return false;
    }
    match address {
        IpAddr::V4(v4) => {
            let [a, b, ..] = v4.octets();
            // RFC 6890: this network, private, loopback, link-local, shared address space, multicast and class E.
            let is_shared = a == 100 && b & 0xc0 == 64;
            !(a == 0
                || v4.is_private()
                || v4.is_loopback()
                || v4.is_link_local()
                || is_shared
                || a >= 224)
        }
        IpAddr::V6(v6) => {
            !(v6.is_unspecified()
                || v6.is_loopback()
                || v6.to_ipv4_mapped().is_some()
                || v6.is_unique_local()
                || v6.is_unicast_link_local()
                || v6.is_multicast())
        }
    }
}
