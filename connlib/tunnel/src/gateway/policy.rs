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

#[cfg(test)]
mod tests {
    use super::super::packets::ip;
    use super::Verdict::{Permitted, Prohibited, Unreachable};
    use super::*;
    use crate::filter::Filter;
    use std::time::Duration;

    const WEB: Service = Service::Tcp(443);
    const SSH: Service = Service::Tcp(22);

    fn id(number: u128) -> ResourceId {
        ResourceId::from_u128(number)
    }

    fn cidr(text: &str) -> Target {
        Target::Cidr(text.parse().unwrap())
    }

    fn dns(text: &str) -> Target {
        Target::Dns(text.parse().unwrap())
    }

    fn web_only() -> Filters {
        [Filter::Tcp { first: 443, last: 443 }].into_iter().collect()
    }

    #[test]
    fn table() {
        type Case = (Vec<(Target, Filters)>, Vec<(&'static str, Service, Verdict)>);
        let all = || Filters::ALL;
        let cases: [Case; 6] = [
            (vec![], vec![("10.0.0.1", WEB, Prohibited), ("8.8.8.8", WEB, Prohibited)]),
            (
                vec![(cidr("10.0.0.0/24"), all()), (cidr("fd01::/64"), all())],
                vec![
                    ("10.0.0.255", Service::Other, Permitted),
                    ("10.0.1.0", WEB, Prohibited),
                    ("fd01::1", Service::Icmp, Permitted),
                    ("fd02::1", WEB, Prohibited),
                ],
            ),
            (
                vec![(cidr("10.0.0.0/24"), web_only())],
                vec![("10.0.0.1", WEB, Permitted), ("10.0.0.1", SSH, Prohibited)],
            ),
            (
                // One that permits is enough, whatever its prefix.
                vec![(cidr("10.0.0.0/8"), all()), (cidr("10.0.0.0/24"), web_only())],
                vec![("10.0.0.1", SSH, Permitted), ("10.9.0.1", SSH, Permitted)],
            ),
            (
                vec![(Target::Internet, all()), (cidr("10.0.0.0/24"), web_only())],
                vec![
                    ("8.8.8.8", SSH, Permitted),
                    ("2001:4860:4860::8888", SSH, Permitted),
                    ("10.0.0.1", WEB, Permitted),
                    ("10.0.0.1", SSH, Prohibited),
                    ("10.0.1.1", SSH, Unreachable),
                    ("192.168.1.1", WEB, Unreachable),
                    ("fd02::1", WEB, Unreachable),
                ],
            ),
            (
                vec![(dns("*.test"), all())],
                vec![("10.0.0.1", WEB, Prohibited), ("8.8.8.8", WEB, Prohibited)],
            ),
        ];
        for (resources, expectations) in cases {
            let mut policy = Policy::default();
            for (number, (target, filters)) in resources.into_iter().enumerate() {
                policy.insert(id(number as u128), target, filters, None);
            }
            for (address, service, verdict) in expectations {
                assert_eq!(
                    policy.judge(ip(address), Some(service)),
                    verdict,
                    "{policy:?} {address} {service:?}"
                );
            }
        }
    }

    #[test]
    fn the_internet_is_what_is_not_reserved() {
        for (address, expected) in [
            ("0.1.2.3", false),
            ("1.1.1.1", true),
            ("9.255.255.255", true),
            ("10.0.0.0", false),
            ("100.63.255.255", true),
            ("100.64.0.1", false),
            ("100.127.255.255", false),
            ("100.128.0.0", true),
            ("127.0.0.1", false),
            ("169.254.169.254", false),
            ("172.16.0.1", false),
            ("172.32.0.1", true),
            ("192.168.0.1", false),
            ("223.255.255.255", true),
            ("224.0.0.1", false),
            ("240.0.0.1", false),
            ("255.255.255.255", false),
            ("::", false),
            ("::1", false),
            ("::ffff:8.8.8.8", false),
            ("2001:db8::1", true),
            ("fd00:2021:1111::1", false),
            ("fe80::1", false),
            ("ff02::1", false),
        ] {
            assert_eq!(is_internet(ip(address)), expected, "{address}");
        }
    }

    #[test]
    fn a_removed_resource_leaves_nothing_behind() {
        let mut policy = Policy::default();
        policy.insert(id(1), cidr("10.0.0.0/8"), Filters::ALL, None);
        policy.insert(id(2), cidr("10.1.2.3/8"), web_only(), None);
        policy.insert(id(3), Target::Internet, Filters::ALL, None);
        policy.insert(id(4), Target::Internet, Filters::ALL, None);
        assert_eq!(policy.judge(ip("10.0.0.1"), Some(SSH)), Permitted);
        assert!(policy.remove(id(1)));
        assert_eq!(policy.judge(ip("10.0.0.1"), Some(SSH)), Prohibited);
        assert_eq!(policy.judge(ip("10.0.0.1"), Some(WEB)), Permitted);
        assert!(policy.remove(id(4)));
        assert_eq!(policy.judge(ip("8.8.8.8"), Some(SSH)), Permitted);
        assert!(policy.remove(id(3)) && policy.remove(id(2)));
        assert!(!policy.remove(id(2)));
        assert_eq!(policy.judge(ip("8.8.8.8"), Some(SSH)), Prohibited);
        assert_eq!(policy.judge(ip("10.0.0.1"), Some(WEB)), Prohibited);
        assert!(policy.is_empty() && policy.networks.is_empty());
    }

    #[test]
    fn the_same_resource_again_replaces_it() {
        let mut policy = Policy::default();
        policy.insert(id(1), cidr("10.0.0.0/8"), Filters::ALL, None);
        policy.insert(id(1), cidr("172.16.0.0/12"), Filters::ALL, None);
        assert_eq!(policy.judge(ip("10.0.0.1"), None), Prohibited);
        assert_eq!(policy.judge(ip("172.16.0.1"), None), Permitted);
        assert!(policy.set_filters(id(1), web_only()));
        assert_eq!(policy.judge(ip("172.16.0.1"), Some(SSH)), Prohibited);
        assert!(!policy.set_filters(id(2), Filters::ALL));
    }

    #[test]
    fn each_resource_expires_on_its_own() {
        let now = Instant::now();
        let at = |seconds| Some(now + Duration::from_secs(seconds));
        let mut policy = Policy::default();
        policy.insert(id(1), cidr("10.0.0.0/8"), Filters::ALL, at(10));
        policy.insert(id(2), cidr("172.16.0.0/12"), Filters::ALL, at(20));
        policy.insert(id(3), dns("*.test"), Filters::ALL, None);
        assert_eq!(policy.next_expiry(), at(10));
        assert!(!policy.expire(now + Duration::from_secs(9)));
        assert!(policy.expire(now + Duration::from_secs(10)));
        assert_eq!(policy.judge(ip("10.0.0.1"), None), Prohibited);
        assert_eq!(policy.judge(ip("172.16.0.1"), None), Permitted);
        assert_eq!(policy.next_expiry(), at(20));
        assert!(policy.set_expiry(id(2), None));
        assert_eq!(policy.next_expiry(), None);
        assert!(!policy.set_expiry(id(1), None));
    }

    #[test]
    fn only_dns_resources_have_names() {
        let mut policy = Policy::default();
        policy.insert(id(1), dns("*.corp.test"), Filters::ALL, None);
        policy.insert(id(2), cidr("10.0.0.0/8"), Filters::ALL, None);
        policy.insert(id(3), Target::Internet, Filters::ALL, None);
        for (resource, name, expected) in [
            (1, "web.corp.test", true),
            (1, "web.test", false),
            (2, "web.corp.test", false),
            (3, "web.corp.test", false),
            (4, "web.corp.test", false),
        ] {
            let name = name.parse().unwrap();
            assert_eq!(policy.has_name(id(resource), &name), expected, "{resource} {name}");
        }
    }
}
