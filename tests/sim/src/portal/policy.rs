//! Who may reach what.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use connlib_dns::IpStack;
use connlib_tunnel::client::{Resource, Site, Target};
use connlib_tunnel::{AuthorizedResource, Filter, GatewayId, ResourceId, SiteId};

/// A client's or gateway's addresses in the tunnel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Addresses {
    /// IPv4.
    pub(crate) ipv4: Ipv4Addr,
    /// IPv6.
    pub(crate) ipv6: Ipv6Addr,
}

impl Addresses {
    /// Those of the client or gateway with this number.
    pub(crate) fn numbered(number: u16) -> Self {
        let [high, low] = number.to_be_bytes();
        Self {
            ipv4: Ipv4Addr::new(100, 64, high, low),
            ipv6: Ipv6Addr::new(0xfd00, 0x2021, 0x1111, 0, 0, 0, 0, number),
        }
    }
}

/// A resource of the policy.
#[derive(Debug, Clone, PartialEq)]
pub struct ResourceSpec {
    /// Its number.
    pub id: ResourceId,
    /// What it is.
    pub target: Target,
    /// What may pass; nothing: everything.
    pub filters: Vec<Filter>,
    /// The site that has gateways for it.
    pub site: SiteId,
}

impl ResourceSpec {
    /// A network.
    pub fn network(id: u128, site: u128, net: &str) -> Self {
        let target = Target::Cidr(net.parse().expect("a network"));
        Self::new(id, site, target)
    }

    /// Names.
    pub fn names(id: u128, site: u128, pattern: &str) -> Self {
        let pattern = pattern.parse().expect("a pattern");
        Self::new(id, site, Target::Dns { pattern, ip_stack: IpStack::Dual })
    }

    /// Everything else.
    pub fn internet(id: u128, site: u128) -> Self {
        Self::new(id, site, Target::Internet)
    }

    /// With filters.
    pub fn filtered(mut self, filters: &[Filter]) -> Self {
        self.filters = filters.to_vec();
        self
    }

    fn new(id: u128, site: u128, target: Target) -> Self {
        let (id, site) = (ResourceId::from_u128(id), SiteId::from_u128(site));
        Self { id, target, filters: Vec::new(), site }
    }

    /// As clients see it.
    pub(crate) fn for_client(&self) -> Resource {
        Resource {
            id: self.id,
            name: format!("resource {}", self.id),
            address_description: None,
            sites: vec![Site { id: self.site, name: format!("site {}", self.site) }],
            target: self.target.clone(),
            filters: self.filters.iter().copied().collect(),
        }
    }

    /// As gateways see it.
    pub(crate) fn for_gateway(&self) -> AuthorizedResource {
        let target = match &self.target {
            Target::Cidr(net) => connlib_tunnel::Target::Cidr(*net),
            Target::Dns { pattern, .. } => connlib_tunnel::Target::Dns(pattern.clone()),
            Target::Internet => connlib_tunnel::Target::Internet,
        };
        AuthorizedResource { id: self.id, target, filters: self.filters.iter().copied().collect() }
    }
}

/// All resources, and what clients may do with them.
#[derive(Debug, Default)]
pub(crate) struct Policy {
    pub(crate) resources: BTreeMap<ResourceId, ResourceSpec>,
    /// By number of the client and resource: how long an authorization lasts, `None`: until it is taken back.
    pub(crate) grants: BTreeMap<(usize, ResourceId), Option<Duration>>,
    pub(crate) gateways: BTreeMap<GatewayId, SiteId>,
}

impl Policy {
    /// What a client may ask for.
    pub(crate) fn resources_of(&self, client: usize) -> impl Iterator<Item = &ResourceSpec> {
        self.resources
            .values()
            .filter(move |resource| self.grants.contains_key(&(client, resource.id)))
    }
}
