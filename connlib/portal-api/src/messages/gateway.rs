//! Gateway and portal.

use std::net::{Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::common::{
    Authorization, Capabilities, ClientIceCandidates, Filter, FlowLogs, IceCredentials,
    RejectAccess, Relay, RelaysPresence, TunnelAddresses, UnixTime,
};
use super::{Role, messages};
use crate::wire;
use crate::{ClientId, PresharedKey, PublicKey, ResourceId, Secret, Tolerant};

/// A gateway.
#[derive(Debug, Clone, Copy)]
pub enum GatewayRole {}

impl Role for GatewayRole {
    const TOPIC: &'static str = "gateway";
    const PATH: &'static str = "/gateway/v2/websocket";
    type Join = ();
    type FromPortal = FromPortal;
    type ToPortal = ToPortal;
}

messages! {
    /// What the portal tells a gateway.
    pub enum FromPortal {
        /// The whole state, first after each join: authorizations that it does not name have ended.
        Init(Init) = "init",
        /// Let a client reach a resource, and say so.
        CreateAuthorization(Box<CreateAuthorization>) = "create_authorization",
        /// Candidates of a client.
        IceCandidates(ClientIceCandidates) = "ice_candidates",
        /// Candidates that a client withdraws.
        InvalidateIceCandidates(ClientIceCandidates) = "invalidate_ice_candidates",
        /// Take an authorization back.
        RejectAccess(RejectAccess) = "reject_access",
        /// The filters of a resource changed. Any other change comes as `reject_access`.
        ResourceUpdated(Resource) = "resource_updated",
        /// Relays came and went.
        RelaysPresence(RelaysPresence) = "relays_presence",
        /// An authorization ends at another time.
        AccessAuthorizationExpiryUpdated(Authorization) = "access_authorization_expiry_updated",
    }
    skipped(message) {
        match message {
            Self::Init(init) => init.relays.skipped().iter().chain(init.authorizations.skipped()).collect(),
            Self::RelaysPresence(RelaysPresence { disconnected_ids, connected }) => {
                disconnected_ids.skipped().iter().chain(connected.skipped()).collect()
            }
            Self::IceCandidates(ClientIceCandidates { candidates, .. })
            | Self::InvalidateIceCandidates(ClientIceCandidates { candidates, .. }) => {
                candidates.skipped().iter().collect()
            }
            _ => Vec::new(),
        }
    }
}

messages! {
    /// What a gateway tells the portal.
    pub enum ToPortal {
        /// The client can reach the resource now.
        AuthorizationCreated(AuthorizationCreated) = "authorization_created",
        /// Candidates of ours.
        BroadcastIceCandidates(BroadcastIceCandidates) = "broadcast_ice_candidates",
        /// Candidates that we withdraw.
        BroadcastInvalidatedIceCandidates(BroadcastIceCandidates) = "broadcast_invalidated_ice_candidates",
        /// We know no relay: send some.
        NoRelays = "no_relays",
        /// What we can do. Sent after each join.
        SetSnownetCapabilities(Capabilities) = "set_snownet_capabilities",
    }
    skipped(message) {
        match message {
            Self::BroadcastIceCandidates(BroadcastIceCandidates { client_ids, candidates })
            | Self::BroadcastInvalidatedIceCandidates(BroadcastIceCandidates { client_ids, candidates }) => {
                client_ids.skipped().iter().chain(candidates.skipped()).collect()
            }
            _ => Vec::new(),
        }
    }
}

/// The whole state of a gateway.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Init {
    /// Our addresses.
    pub interface: TunnelAddresses,
    /// What to do with traffic to resources.
    #[serde(default)]
    pub config: Config,
    /// The relays to use.
    #[serde(default)]
    pub relays: Tolerant<Relay>,
    /// The name of the account, for logs.
    #[serde(default)]
    pub account_slug: String,
    /// Who may reach what: the complete list.
    #[serde(default)]
    pub authorizations: Tolerant<Authorization>,
    /// Where flow logs go.
    #[serde(default)]
    pub flow_logs: FlowLogs,
}

/// What to do with traffic to resources.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(default)]
pub struct Config {
    /// Hide IPv4 clients behind the gateway's address.
    pub ipv4_masquerade_enabled: bool,
    /// Hide IPv6 clients behind the gateway's address.
    pub ipv6_masquerade_enabled: bool,
}

impl Default for Config {
    fn default() -> Self {
        Self { ipv4_masquerade_enabled: true, ipv6_masquerade_enabled: true }
    }
}

/// A resource as a gateway sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Resource {
    /// Names.
    Dns(DnsResource),
    /// Addresses.
    Cidr(CidrResource),
    /// Everything else.
    Internet(InternetResource),
}

impl Resource {
    /// Its ID.
    pub fn id(&self) -> ResourceId {
        match self {
            Self::Dns(resource) => resource.id,
            Self::Cidr(resource) => resource.id,
            Self::Internet(resource) => resource.id,
        }
    }

    /// Its filters; an empty list lets everything through.
    pub fn filters(&self) -> &[Filter] {
        match self {
            Self::Dns(resource) => &resource.filters,
            Self::Cidr(resource) => &resource.filters,
            Self::Internet(_) => &[],
        }
    }
}

/// A DNS resource. Without its filters it does not decode: none must not be taken for "all".
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DnsResource {
    /// Its ID.
    pub id: ResourceId,
    /// Its name, for people.
    #[serde(default)]
    pub name: String,
    /// The pattern.
    pub address: String,
    /// What traffic is let through.
    pub filters: Vec<Filter>,
}

/// A CIDR resource. Without its filters it does not decode: none must not be taken for "all".
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CidrResource {
    /// Its ID.
    pub id: ResourceId,
    /// Its name, for people.
    #[serde(default)]
    pub name: String,
    /// The network. A bare address stands for itself alone.
    #[serde(deserialize_with = "wire::network")]
    pub address: IpNet,
    /// What traffic is let through.
    pub filters: Vec<Filter>,
}

/// The Internet Resource.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InternetResource {
    /// Its ID.
    pub id: ResourceId,
}

/// Let a client reach a resource.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CreateAuthorization {
    /// Names this request in the answer; opaque.
    #[serde(rename = "ref")]
    pub reference: String,
    /// What.
    pub resource: Resource,
    /// Who.
    pub client: Client,
    /// The client's ICE credentials.
    pub client_ice_credentials: IceCredentials,
    /// Our ICE credentials.
    pub gateway_ice_credentials: IceCredentials,
    /// Until when; `None`: for good.
    #[serde(default)]
    pub expires_at: Option<UnixTime>,
    /// Path probes in place of ICE.
    #[serde(default)]
    pub use_iceless: bool,
    /// Who acts through the client, for logs; opaque.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<Value>,
    /// For uploads of flow logs. Existing gateways refuse the message without it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub flow_logs_ingest_token: Option<Secret>,
}

/// A client as a gateway sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Client {
    /// Its ID.
    pub id: ClientId,
    /// Its WireGuard key.
    pub public_key: PublicKey,
    /// The key between it and us.
    pub preshared_key: PresharedKey,
    /// Its IPv4 address in the tunnel.
    pub ipv4: Ipv4Addr,
    /// Its IPv6 address in the tunnel.
    pub ipv6: Ipv6Addr,
    /// Its version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
}

/// The answer to [`CreateAuthorization`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuthorizationCreated {
    /// As it came.
    #[serde(rename = "ref")]
    pub reference: String,
}

/// Candidates of ours, for these clients.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BroadcastIceCandidates {
    /// Whom they are for.
    pub client_ids: Tolerant<ClientId>,
    /// As SDP attribute values.
    pub candidates: Tolerant<String>,
}
