//! A policy as the portal works with it: checked, names resolved to ids, groups expanded.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use connlib_portal_api::messages::client::IpStack;
use connlib_portal_api::messages::common::Filter;
use connlib_portal_api::{GatewayId, RelayId, ResourceId, Secret, SiteId};
use ipnet::IpNet;
use uuid::Uuid;

/// A whole policy file. Two that compare equal mean the same to every peer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    /// The account's short name; gateways show it.
    pub account: String,
    /// The account's id.
    pub account_id: Uuid,
    /// Resolver settings of all clients.
    pub dns: Dns,
    /// Places with gateways.
    pub sites: BTreeMap<SiteId, Site>,
    /// Gateways.
    pub gateways: BTreeMap<GatewayId, Gateway>,
    /// Clients.
    pub clients: BTreeMap<Uuid, Client>,
    /// Resources.
    pub resources: BTreeMap<ResourceId, Resource>,
    /// Who may reach what.
    pub rules: BTreeMap<Uuid, Rule>,
    /// Relays that are known beforehand.
    pub relays: Vec<Relay>,
}

/// What clients resolve names with that are no resource's.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Dns {
    /// Plain resolvers, port 53; none = the device's own.
    pub upstream_do53: Vec<IpAddr>,
    /// DNS over HTTPS resolvers.
    pub upstream_doh: Vec<String>,
    /// Completes single-label names.
    pub search_domain: Option<String>,
}

/// A place with gateways that reach the same network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Site {
    /// Its id.
    pub id: SiteId,
    /// Its name.
    pub name: String,
}

/// A gateway.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gateway {
    /// Its id.
    pub id: GatewayId,
    /// Its name.
    pub name: String,
    /// The site whose resources it serves.
    pub site: SiteId,
    /// Whether it hides clients' IPv4 addresses behind its own.
    pub ipv4_masquerade: bool,
    /// Whether it hides clients' IPv6 addresses behind its own.
    pub ipv6_masquerade: bool,
}

/// Somebody or something that signs in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Client {
    /// Its id.
    pub id: Uuid,
    /// Its name.
    pub name: String,
    /// How many devices it may have; the one unseen for longest makes room for a new one.
    pub max_devices: u32,
}

/// Something that can be reached through gateways.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resource {
    /// Its id.
    pub id: ResourceId,
    /// Its name.
    pub name: String,
    /// A line for people.
    pub description: Option<String>,
    /// What it stands for.
    pub target: Target,
    /// What may pass; empty = everything.
    pub filters: Vec<Filter>,
    /// The sites that serve it.
    pub sites: BTreeSet<SiteId>,
}

/// What a resource stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// A network.
    Cidr(IpNet),
    /// Names.
    Dns {
        /// A name, with `*`, `**` and `?` as wildcards.
        pattern: String,
        /// The address families that clients see.
        ip_stack: IpStack,
    },
    /// Everything that no other resource covers.
    Internet,
}

/// One policy: these clients may reach these resources.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// Its id.
    pub id: Uuid,
    /// Its name.
    pub name: String,
    /// Who, groups expanded.
    pub clients: BTreeSet<Uuid>,
    /// What.
    pub resources: BTreeSet<ResourceId>,
    /// When it ends, in unix seconds.
    pub expires: Option<u64>,
    /// How long one authorization lasts, in seconds.
    pub max_session: Option<u64>,
}

/// A relay that the policy file names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Relay {
    /// Its id.
    pub id: RelayId,
    /// Its name.
    pub name: String,
    /// At most one address of each family.
    pub addresses: Vec<SocketAddr>,
    /// What it is and how peers sign in.
    pub access: RelayAccess,
}

/// What a static relay is and how peers sign in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RelayAccess {
    /// STUN only.
    Stun,
    /// TURN with one user for everybody.
    Static {
        /// The user's name.
        username: String,
        /// The user's password.
        password: Secret,
    },
    /// TURN with credentials of each peer's own, made from a secret that the relay knows as well.
    Shared(Secret),
}

impl Policy {
    /// The client of that name.
    pub fn client_by_name(&self, name: &str) -> Option<&Client> {
        self.clients.values().find(|client| client.name == name)
    }

    /// The gateway of that name.
    pub fn gateway_by_name(&self, name: &str) -> Option<&Gateway> {
        self.gateways.values().find(|gateway| gateway.name == name)
    }
}
