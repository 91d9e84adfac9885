//! Client and portal.

mod resource;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use serde::{Deserialize, Serialize};

pub use self::resource::{
    CidrResource, Device, DnsResource, DynamicDevicePool, InternetResource, IpStack, Resource,
    Site, StaticDevicePool,
};
use super::common::{
    Authorization, Capabilities, ClientIceCandidates, Filter, FlowLogs, IceCredentials, IceRole,
    Reason, RejectAccess, Relay, RelaysPresence, UnixTime,
};
use super::{Role, messages};
use crate::{
    ClientId, GatewayId, PresharedKey, PublicKey, ResourceId, Secret, SiteId, Skipped, Tolerant,
};

/// A client.
#[derive(Debug, Clone, Copy)]
pub enum ClientRole {}

impl Role for ClientRole {
    const TOPIC: &'static str = "client";
    const PATH: &'static str = "/client/v2/websocket";
    type Join = ();
    type FromPortal = FromPortal;
    type ToPortal = ToPortal;
}

messages! {
    /// What the portal tells a client. "c2c": between two clients, without a gateway.
    pub enum FromPortal {
        /// The whole state, first after each join.
        Init(Box<Init>) = "init",
        /// DNS servers or the search domain changed.
        ConfigChanged(ConfigChanged) = "config_changed",
        /// A resource is new or another one now.
        ResourceCreatedOrUpdated(Resource) = "resource_created_or_updated",
        /// A resource is gone. Comes before what replaces it.
        ResourceDeleted(ResourceId) = "resource_deleted",
        /// Relays came and went.
        RelaysPresence(RelaysPresence) = "relays_presence",
        /// A gateway awaits us.
        AuthorizationCreated(Box<AuthorizationCreated>) = "authorization_created",
        /// We may not, or cannot, reach the resource.
        AuthorizationCreationFailed(AuthorizationCreationFailed) = "authorization_creation_failed",
        /// Candidates of a gateway.
        GatewayIceCandidates(GatewayIceCandidates) = "gateway_ice_candidates" | "ice_candidates",
        /// Candidates that a gateway withdraws.
        InvalidateGatewayIceCandidates(GatewayIceCandidates) =
            "invalidate_gateway_ice_candidates" | "invalidate_ice_candidates",
        /// c2c: candidates of a client.
        ClientIceCandidates(ClientIceCandidates) = "client_ice_candidates",
        /// c2c: candidates that a client withdraws.
        InvalidateClientIceCandidates(ClientIceCandidates) = "invalidate_client_ice_candidates",
        /// c2c: a client awaits us, or we await it.
        ClientDeviceAccessAuthorized(Box<ClientDeviceAccessAuthorized>) = "client_device_access_authorized",
        /// c2c: we may not, or cannot, reach the client.
        ClientDeviceAccessDenied(ClientDeviceAccessDenied) = "client_device_access_denied",
        /// c2c: our candidates did not get there.
        ClientIceCandidateError(ClientIceCandidateError) = "client_ice_candidate_error",
        /// c2c: the device of a name in a dynamic pool.
        DevicePoolDomainResolved(DevicePoolDomainResolved) = "device_pool_domain_resolved",
        /// c2c: there is no device of that name.
        DevicePoolDomainResolutionFailed(DevicePoolDomainResolutionFailed) =
            "device_pool_domain_resolution_failed",
        /// c2c: the filters of a resource by which others reach us.
        ResourceFiltersUpdated(SharedResource) = "resource_filters_updated",
        /// c2c: a client may no longer reach us.
        RejectAccess(RejectAccess) = "reject_access",
        /// c2c: obsolete.
        AccessAuthorizationExpiryUpdated(Authorization) = "access_authorization_expiry_updated",
    }
    skipped(message) {
        match message {
            Self::Init(init) => init.skipped().collect(),
            Self::ConfigChanged(config) => config.interface.skipped().collect(),
            Self::ResourceCreatedOrUpdated(resource) => resource.skipped().iter().collect(),
            Self::RelaysPresence(RelaysPresence { disconnected_ids, connected }) => {
                disconnected_ids.skipped().iter().chain(connected.skipped()).collect()
            }
            Self::GatewayIceCandidates(GatewayIceCandidates { candidates, .. })
            | Self::InvalidateGatewayIceCandidates(GatewayIceCandidates { candidates, .. })
            | Self::ClientIceCandidates(ClientIceCandidates { candidates, .. })
            | Self::InvalidateClientIceCandidates(ClientIceCandidates { candidates, .. }) => {
                candidates.skipped().iter().collect()
            }
            _ => Vec::new(),
        }
    }
}

messages! {
    /// What a client tells the portal.
    pub enum ToPortal {
        /// We want to reach a resource.
        RequestAuthorization(RequestAuthorization) = "request_authorization",
        /// c2c: which device has this name?
        ResolveDevicePoolDomain(ResolveDevicePoolDomain) = "resolve_device_pool_domain",
        /// Candidates of ours, for a gateway.
        NewGatewayIceCandidates(GatewayIceCandidates) = "new_gateway_ice_candidates",
        /// Candidates that we withdraw.
        InvalidateGatewayIceCandidates(GatewayIceCandidates) = "invalidate_gateway_ice_candidates",
        /// c2c: candidates of ours, for a client.
        NewClientIceCandidates(ClientIceCandidates) = "new_client_ice_candidates",
        /// c2c: candidates that we withdraw.
        InvalidateClientIceCandidates(ClientIceCandidates) = "invalidate_client_ice_candidates",
        /// What we can do. Sent after each join.
        SetSnownetCapabilities(Capabilities) = "set_snownet_capabilities",
        /// We know no relay: send some.
        NoRelays = "no_relays",
    }
    skipped(message) {
        match message {
            Self::RequestAuthorization(request) => request.connected_gateway_ids.skipped().iter().collect(),
            Self::NewGatewayIceCandidates(GatewayIceCandidates { candidates, .. })
            | Self::InvalidateGatewayIceCandidates(GatewayIceCandidates { candidates, .. })
            | Self::NewClientIceCandidates(ClientIceCandidates { candidates, .. })
            | Self::InvalidateClientIceCandidates(ClientIceCandidates { candidates, .. }) => {
                candidates.skipped().iter().collect()
            }
            _ => Vec::new(),
        }
    }
}

/// The whole state of a client.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Init {
    /// Our addresses and DNS settings.
    pub interface: Interface,
    /// What we may reach: the complete list.
    #[serde(default)]
    pub resources: Tolerant<Resource>,
    /// The relays to use.
    #[serde(default)]
    pub relays: Tolerant<Relay>,
    /// c2c: who may reach us: the complete list.
    #[serde(default)]
    pub authorizations: Tolerant<Authorization>,
    /// Where flow logs go.
    #[serde(default)]
    pub flow_logs: FlowLogs,
}

impl Init {
    fn skipped(&self) -> impl Iterator<Item = &Skipped> {
        (self.interface.skipped())
            .chain(self.resources.skipped())
            .chain(self.resources.iter().flat_map(Resource::skipped))
            .chain(self.relays.skipped())
            .chain(self.authorizations.skipped())
    }
}

/// New DNS settings.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConfigChanged {
    /// As in [`Init`].
    pub interface: Interface,
}

/// Our addresses and DNS settings.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Interface {
    /// Our IPv4 address in the tunnel.
    pub ipv4: Ipv4Addr,
    /// Our IPv6 address in the tunnel.
    pub ipv6: Ipv6Addr,
    /// Resolvers for DNS over port 53, first choice first.
    #[serde(default)]
    pub upstream_do53: Tolerant<Do53Server>,
    /// Resolvers for DNS over HTTPS.
    #[serde(default)]
    pub upstream_doh: Tolerant<DohServer>,
    /// What to append to a name of one label.
    #[serde(default)]
    pub search_domain: Option<String>,
    /// How older portals say `upstream_do53`.
    #[serde(default, skip_serializing_if = "<[_]>::is_empty")]
    pub upstream_dns: Tolerant<LegacyDnsServer>,
}

impl Interface {
    /// The resolvers for DNS over port 53, in whichever form the portal names them.
    pub fn do53_servers(&self) -> Vec<SocketAddr> {
        if self.upstream_do53.is_empty() {
            return self.upstream_dns.iter().map(|LegacyDnsServer::IpPort(addr)| *addr).collect();
        }
        self.upstream_do53.iter().map(|server| SocketAddr::new(server.ip, 53)).collect()
    }

    fn skipped(&self) -> impl Iterator<Item = &Skipped> {
        (self.upstream_do53.skipped().iter())
            .chain(self.upstream_doh.skipped())
            .chain(self.upstream_dns.skipped())
    }
}

/// A resolver for DNS over port 53.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Do53Server {
    /// Its address.
    pub ip: IpAddr,
}

/// A resolver for DNS over HTTPS.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct DohServer {
    /// Its URL.
    pub url: String,
}

/// A resolver as older portals name it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(tag = "protocol", content = "address", rename_all = "snake_case")]
pub enum LegacyDnsServer {
    /// Address and port.
    IpPort(SocketAddr),
}

/// A gateway awaits us.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuthorizationCreated {
    /// What we may reach.
    pub resource_id: ResourceId,
    /// Through whom.
    pub gateway_id: GatewayId,
    /// Its WireGuard key.
    pub gateway_public_key: PublicKey,
    /// Its IPv4 address in the tunnel.
    pub gateway_ipv4: Ipv4Addr,
    /// Its IPv6 address in the tunnel.
    pub gateway_ipv6: Ipv6Addr,
    /// Its site.
    #[serde(rename = "gateway_group_id", alias = "site_id")]
    pub site_id: SiteId,
    /// The key between it and us.
    pub preshared_key: PresharedKey,
    /// Our ICE credentials.
    pub client_ice_credentials: IceCredentials,
    /// Its ICE credentials.
    pub gateway_ice_credentials: IceCredentials,
    /// Path probes in place of ICE.
    #[serde(default)]
    pub use_iceless: bool,
    /// For uploads of flow logs. Existing clients refuse the message without it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub flow_logs_ingest_token: Option<Secret>,
}

/// We may not, or cannot, reach the resource.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuthorizationCreationFailed {
    /// The resource.
    pub resource_id: ResourceId,
    /// Why.
    #[serde(default)]
    pub reason: Reason,
    /// Which conditions of the policy we do not meet.
    #[serde(default, skip_serializing_if = "<[_]>::is_empty")]
    pub violated_properties: Tolerant<String>,
}

/// Candidates of a gateway; from a client to the portal: candidates for a gateway.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GatewayIceCandidates {
    /// The gateway.
    pub gateway_id: GatewayId,
    /// As SDP attribute values.
    pub candidates: Tolerant<String>,
}

/// c2c: a client awaits us, or we await it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClientDeviceAccessAuthorized {
    /// The other client.
    pub client_id: ClientId,
    /// Its name, for people.
    #[serde(default)]
    pub client_name: String,
    /// Its WireGuard key.
    pub client_public_key: PublicKey,
    /// Its IPv4 address in the tunnel.
    pub client_ipv4: Ipv4Addr,
    /// Its IPv6 address in the tunnel.
    pub client_ipv6: Ipv6Addr,
    /// The key between it and us.
    pub preshared_key: PresharedKey,
    /// Our ICE credentials.
    pub local_ice_credentials: IceCredentials,
    /// Its ICE credentials.
    pub remote_ice_credentials: IceCredentials,
    /// Our part: the initiator is controlling.
    pub ice_role: IceRole,
    /// Path probes in place of ICE.
    #[serde(default)]
    pub use_iceless: bool,
    /// What it may reach on us; `None` if we are the initiator.
    #[serde(default)]
    pub resource: Option<SharedResource>,
    /// Until when; `None`: for good, or we are the initiator.
    #[serde(default)]
    pub expires_at: Option<UnixTime>,
    /// For uploads of flow logs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub flow_logs_ingest_token: Option<Secret>,
}

/// c2c: a resource by which others reach us.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SharedResource {
    /// Its ID.
    pub id: ResourceId,
    /// What traffic is let through.
    pub filters: Vec<Filter>,
}

/// c2c: we may not, or cannot, reach the client.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClientDeviceAccessDenied {
    /// The IPv4 address that we asked for.
    #[serde(default)]
    pub ipv4: Option<Ipv4Addr>,
    /// The IPv6 address that we asked for.
    #[serde(default)]
    pub ipv6: Option<Ipv6Addr>,
    /// Why.
    #[serde(default)]
    pub reason: Reason,
}

/// c2c: our candidates did not get there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClientIceCandidateError {
    /// The other client.
    pub client_id: ClientId,
    /// Why.
    #[serde(default)]
    pub reason: Reason,
}

/// c2c: the device of a name in a dynamic pool.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DevicePoolDomainResolved {
    /// The pool.
    pub resource_id: ResourceId,
    /// The name.
    pub domain: String,
    /// The device's IPv4 address in the tunnel.
    #[serde(default)]
    pub ipv4: Option<Ipv4Addr>,
    /// The device's IPv6 address in the tunnel.
    #[serde(default)]
    pub ipv6: Option<Ipv6Addr>,
}

/// c2c: there is no device of that name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DevicePoolDomainResolutionFailed {
    /// The pool.
    pub resource_id: ResourceId,
    /// The name.
    pub domain: String,
    /// Why.
    #[serde(default)]
    pub reason: Reason,
}

/// We want to reach a resource.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RequestAuthorization {
    /// The resource.
    pub resource_id: ResourceId,
    /// Gateways that we have a link with, first choice first.
    #[serde(default)]
    pub connected_gateway_ids: Tolerant<GatewayId>,
    /// c2c: the device, by its IPv4 address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ipv4: Option<Ipv4Addr>,
    /// c2c: the device, by its IPv6 address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ipv6: Option<Ipv6Addr>,
}

/// c2c: which device has this name?
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResolveDevicePoolDomain {
    /// The pool.
    pub resource_id: ResourceId,
    /// The name.
    pub domain: String,
}
