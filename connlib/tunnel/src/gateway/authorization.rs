//! What the portal says about who may reach what.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Instant;

use connlib_dns::Pattern;
use connlib_link::{LinkConfig, Role};
use ipnet::IpNet;

use crate::filter::Filters;
use crate::ids::{ClientId, ResourceId};
use crate::keys::LinkKeys;

/// A client may reach a resource through this gateway.
#[derive(Debug, Clone)]
pub struct Authorization {
    /// Who.
    pub client: AuthorizedClient,
    /// What protects the link to the client.
    pub keys: LinkKeys,
    /// What.
    pub resource: AuthorizedResource,
    /// Until when; `None`: until it is taken back.
    pub expires_at: Option<Instant>,
}

/// A client as a gateway knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AuthorizedClient {
    /// Its ID.
    pub id: ClientId,
    /// Its WireGuard key.
    pub public_key: [u8; 32],
    /// Its IPv4 address in the tunnel.
    pub ipv4: Ipv4Addr,
    /// Its IPv6 address in the tunnel.
    pub ipv6: Ipv6Addr,
}

/// A resource as a gateway knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuthorizedResource {
    /// Its ID.
    pub id: ResourceId,
    /// What it is.
    pub target: Target,
    /// What traffic is let through. Only used for CIDR and DNS resources: the internet has no filters.
    pub filters: Filters,
}

/// What a resource is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// The addresses of a network.
    Cidr(IpNet),
    /// The names that match.
    Dns(Pattern),
    /// All addresses that aren't private in one way or another.
    Internet,
}

/// An authorization that lasts, as [`retain_authorizations`](super::GatewayTunnel::retain_authorizations) takes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retained {
    /// Who.
    pub client: ClientId,
    /// What.
    pub resource: ResourceId,
    /// Until when; `None`: until it is taken back.
    pub expires_at: Option<Instant>,
}

/// Why an authorization can't be had.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AuthorizeError {
    /// All places for clients are taken by others that are connected.
    #[error("too many clients")]
    TooManyClients,
    /// The client has too many authorizations already.
    #[error("too many resources for one client")]
    TooManyResources,
}

impl Authorization {
    /// The link that it needs.
    pub(super) fn link(&self) -> LinkConfig {
        LinkConfig {
            peer: self.client.id.into(),
            role: Role::Controlled,
            remote_public_key: self.client.public_key,
            preshared_key: self.keys.preshared_key,
            local: self.keys.gateway_ice.clone(),
            remote: self.keys.client_ice.clone(),
        }
    }
}

impl AuthorizedClient {
    /// Its addresses in the tunnel.
    pub(super) fn addresses(&self) -> [IpAddr; 2] {
        [self.ipv4.into(), self.ipv6.into()]
    }
}
