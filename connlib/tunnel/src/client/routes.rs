//! Which resource a packet is for.
//!
//! **Precedence.** Among all resources that cover a destination, those whose filters permit the packet come first; of
//! these the one with the more specific pattern or the longer prefix; of these the one with the greater id. The
//! internet resource comes last. A gateway decides by the same rule.

use std::collections::BTreeSet;
use std::net::IpAddr;

use connlib_dns::{Name, StubResolver};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use prefix_trie::PrefixMap;

use super::resource::{Resource, Target};
use crate::filter::{Filters, Service};
use crate::ids::ResourceId;

/// Look-up tables from destinations to resources.
#[derive(Debug, Default)]
pub(super) struct Routes {
    v4: PrefixMap<Ipv4Net, Vec<Entry>>,
    v6: PrefixMap<Ipv6Net, Vec<Entry>>,
    internet: BTreeSet<ResourceId>,
}

#[derive(Debug, Clone)]
struct Entry {
    resource: ResourceId,
    filters: Filters,
}

/// Where a packet goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Route {
    /// To this resource, under this name if it was reached by one.
    Resource(ResourceId, Option<Name>),
    /// Resources cover it, but no filter permits it.
    Prohibited,
    /// No resource covers it.
    None,
}

impl Routes {
    pub(super) fn insert(&mut self, resource: &Resource) {
        let entry = || Entry { resource: resource.id, filters: resource.filters.clone() };
        match resource.target {
            Target::Cidr(IpNet::V4(net)) => add(self.v4.entry(net.trunc()).or_default(), entry()),
            Target::Cidr(IpNet::V6(net)) => add(self.v6.entry(net.trunc()).or_default(), entry()),
            Target::Internet => drop(self.internet.insert(resource.id)),
            Target::Dns { .. } => {}
        }
    }

    pub(super) fn remove(&mut self, resource: &Resource) {
        match resource.target {
            Target::Cidr(IpNet::V4(net)) => {
                let net = net.trunc();
                let entries = self.v4.get_mut(&net);
                if entries.is_some_and(|entries| drop_entry(entries, resource.id)) {
                    self.v4.remove(&net);
                }
            }
            Target::Cidr(IpNet::V6(net)) => {
                let net = net.trunc();
                let entries = self.v6.get_mut(&net);
                if entries.is_some_and(|entries| drop_entry(entries, resource.id)) {
                    self.v6.remove(&net);
                }
            }
            Target::Internet => drop(self.internet.remove(&resource.id)),
            Target::Dns { .. } => {}
        }
    }

    /// The networks of all CIDR resources.
    pub(super) fn networks(&self) -> impl Iterator<Item = IpNet> {
        let v4 = self.v4.keys().copied().map(IpNet::V4);
        v4.chain(self.v6.keys().copied().map(IpNet::V6))
    }

    pub(super) fn has_internet(&self) -> bool {
        !self.internet.is_empty()
    }

    /// The CIDR resource, or the internet resource, that a packet to `destination` is for.
    pub(super) fn by_address(
        &self,
        destination: IpAddr,
        service: Service,
        internet_active: bool,
    ) -> Route {
        let mut covered = false;
        let mut best = None;
        // From the shortest prefix to the longest, so that the last one that permits is the best.
        let mut consider = |entries: &Vec<Entry>| {
            covered = true;
            best = entries
                .iter()
                .find(|entry| entry.filters.permits(service))
                .map(|entry| entry.resource)
                .or(best);
        };
        match destination {
            IpAddr::V4(ip) => {
                self.v4.cover_values(&Ipv4Net::from(ip)).for_each(&mut consider);
            }
            IpAddr::V6(ip) => {
                self.v6.cover_values(&Ipv6Net::from(ip)).for_each(&mut consider);
            }
        }
        match (best, self.internet.last().copied().filter(|_| internet_active)) {
            (Some(resource), _) => Route::Resource(resource, None),
            (None, _) if covered => Route::Prohibited,
            (None, Some(internet)) => Route::Resource(internet, None),
            (None, None) => Route::None,
        }
    }

    /// Whether one of these resources covers an address that packets come from.
    pub(super) fn covers(
        &self,
        source: IpAddr,
        mut granted: impl FnMut(ResourceId) -> bool,
    ) -> bool {
        let mut any = |entries: &Vec<Entry>| entries.iter().any(|entry| granted(entry.resource));
        let by_network = match source {
            IpAddr::V4(ip) => self.v4.cover_values(&Ipv4Net::from(ip)).any(&mut any),
            IpAddr::V6(ip) => self.v6.cover_values(&Ipv6Net::from(ip)).any(&mut any),
        };
        by_network || self.internet.iter().any(|id| granted(*id))
    }
}

/// The DNS resource that a packet to a proxy address is for.
pub(super) fn by_proxy_address<'a>(
    stub: &StubResolver,
    destination: IpAddr,
    service: Service,
    filters: impl Fn(ResourceId) -> Option<&'a Filters>,
) -> Route {
    let Some(name) = stub.proxies().name_of(destination) else { return Route::None };
    let mut covered = false;
    for resource in stub.resources_of(name) {
        let id = ResourceId(resource.id);
        covered = true;
        if filters(id).is_some_and(|filters| filters.permits(service)) {
            return Route::Resource(id, Some(name.clone()));
        }
    }
    if covered { Route::Prohibited } else { Route::None }
}

/// The greatest id first.
fn add(entries: &mut Vec<Entry>, entry: Entry) {
    let at = entries.partition_point(|other| other.resource > entry.resource);
    entries.insert(at, entry);
}

/// Whether none is left.
fn drop_entry(entries: &mut Vec<Entry>, resource: ResourceId) -> bool {
    entries.retain(|entry| entry.resource != resource);
    entries.is_empty()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::filter::Filter;

    fn cidr(id: u128, net: &str, filters: &[Filter]) -> Resource {
        Resource {
            id: ResourceId::from_u128(id),
            name: String::new(),
            address_description: None,
            sites: Vec::new(),
            target: Target::Cidr(net.parse().unwrap()),
            filters: filters.iter().copied().collect(),
        }
    }

    const WEB: Filter = Filter::Tcp { first: 80, last: 80 };
    const SSH: Filter = Filter::Tcp { first: 22, last: 22 };

    #[test]
    fn a_filter_that_permits_comes_before_a_longer_prefix_and_that_before_a_greater_id() {
        let mut routes = Routes::default();
        for resource in [
            cidr(9, "10.0.0.0/8", &[]),
            cidr(1, "10.1.0.0/16", &[WEB]),
            cidr(2, "10.1.0.0/16", &[WEB, SSH]),
            cidr(3, "10.1.1.0/24", &[SSH]),
            cidr(4, "10.2.0.0/16", &[WEB]),
            cidr(5, "10.2.0.0/16", &[SSH]),
            cidr(6, "192.168.0.0/16", &[WEB]),
            cidr(7, "fd00::/16", &[]),
        ] {
            routes.insert(&resource);
        }
        let to = |ip: &str, port| routes.by_address(ip.parse().unwrap(), Service::Tcp(port), false);
        let is = |id| Route::Resource(ResourceId::from_u128(id), None);
        assert_eq!(to("10.1.1.1", 22), is(3));
        assert_eq!(to("10.1.1.1", 80), is(2));
        assert_eq!(to("10.1.1.1", 443), is(9));
        assert_eq!(to("10.2.0.1", 80), is(4));
        assert_eq!(to("192.168.1.1", 22), Route::Prohibited);
        assert_eq!(to("172.16.0.1", 22), Route::None);
        assert_eq!(to("fd00::1", 1), is(7));
    }

    #[test]
    fn removing_a_resource_leaves_the_others_of_its_network() {
        let mut routes = Routes::default();
        let (one, two) = (cidr(1, "10.0.0.0/8", &[]), cidr(2, "10.0.0.0/8", &[]));
        routes.insert(&one);
        routes.insert(&two);
        routes.remove(&two);
        let to =
            |routes: &Routes| routes.by_address("10.0.0.1".parse().unwrap(), Service::Icmp, false);
        assert_eq!(to(&routes), Route::Resource(one.id, None));
        routes.remove(&one);
        assert_eq!(to(&routes), Route::None);
        assert_eq!(routes.networks().count(), 0);
    }

    #[test]
    fn the_internet_is_the_last_resort_and_only_when_it_is_wanted() {
        let mut routes = Routes::default();
        let mut internet = cidr(1, "10.0.0.0/8", &[]);
        internet.target = Target::Internet;
        routes.insert(&internet);
        routes.insert(&cidr(2, "10.0.0.0/8", &[WEB]));
        let to =
            |ip: &str, active| routes.by_address(ip.parse().unwrap(), Service::Tcp(22), active);
        assert_eq!(to("1.1.1.1", true), Route::Resource(internet.id, None));
        assert_eq!(to("1.1.1.1", false), Route::None);
        assert_eq!(to("10.0.0.1", true), Route::Prohibited);
    }
}
