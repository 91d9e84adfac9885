//! What the policy lets this client reach.

use std::net::{Ipv4Addr, Ipv6Addr};

use connlib_dns::{IpStack, Pattern};
use ipnet::IpNet;

use crate::filter::Filters;
use crate::ids::{ResourceId, SiteId};

/// A resource, as the portal describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resource {
    /// Its id.
    pub id: ResourceId,
    /// Its name, for people.
    pub name: String,
    /// What the administrator wrote about its address, for people.
    pub address_description: Option<String>,
    /// The sites that it is part of.
    pub sites: Vec<Site>,
    /// What it covers.
    pub target: Target,
    /// What traffic it takes.
    pub filters: Filters,
}

/// A site, as far as people want to know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Site {
    /// Its id.
    pub id: SiteId,
    /// Its name.
    pub name: String,
}

/// The destinations of a resource.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// A network.
    Cidr(IpNet),
    /// Names.
    Dns {
        /// The names.
        pattern: Pattern,
        /// The address families that they have.
        ip_stack: IpStack,
    },
    /// Everything that no other resource covers.
    Internet,
}

impl Resource {
    /// Whether access to `self` is access to `other`: filters, and what people see, may differ.
    pub(super) fn is_addressed_like(&self, other: &Self) -> bool {
        let sites = |resource: &Self| resource.sites.iter().map(|site| site.id).collect::<Vec<_>>();
        self.target == other.target && sites(self) == sites(other)
    }

    /// The resource, as far as DNS is concerned.
    pub(super) fn dns(&self) -> Option<connlib_dns::Resource> {
        match &self.target {
            Target::Dns { pattern, ip_stack } => Some(connlib_dns::Resource {
                id: self.id.0,
                pattern: pattern.clone(),
                ip_stack: *ip_stack,
            }),
            Target::Cidr(_) | Target::Internet => None,
        }
    }
}

/// What the portal says about this client's interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Interface {
    /// Our address in the tunnel.
    pub ipv4: Ipv4Addr,
    /// Our address in the tunnel.
    pub ipv6: Ipv6Addr,
    /// Resolvers that the portal prescribes.
    pub do53: Vec<std::net::IpAddr>,
    /// DNS-over-HTTPS resolvers that the portal prescribes.
    pub doh: Vec<connlib_dns::DohUrl>,
    /// The domain that short names are completed with.
    pub search_domain: Option<String>,
}
