//! What a client's tunnel wants of its host.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use connlib_dns::{QueryId, Transport, Upstream};
use connlib_link::{Failure, Path};
use ipnet::IpNet;

use super::resource::Resource;
use crate::ids::{GatewayId, ResourceId};

/// Something happened, or something is wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ClientEvent {
    /// Ask the portal for access to this resource.
    RequestAuthorization {
        /// The resource.
        resource: ResourceId,
        /// The gateways that we would like best, best first.
        preferred_gateways: Vec<GatewayId>,
    },
    /// Tell the gateway of these candidates of ours.
    NewCandidates {
        /// The gateway.
        gateway: GatewayId,
        /// SDP candidate attributes.
        candidates: Vec<String>,
    },
    /// None of the relays works: ask the portal for others. Comes again, ever more rarely.
    NoRelays,
    /// Tell the gateway that these candidates of ours are gone.
    InvalidatedCandidates {
        /// The gateway.
        gateway: GatewayId,
        /// SDP candidate attributes.
        candidates: Vec<String>,
    },
    /// Set the interface up like this. Only comes when something changed.
    TunConfig(TunConfig),
    /// The resources and their states. Only comes when something changed.
    Resources(Vec<ResourceState>),
    /// Packets can travel to this gateway.
    GatewayConnected {
        /// The gateway.
        gateway: GatewayId,
        /// By this path.
        path: Path,
    },
    /// Packets travel by another path.
    GatewayPathChanged {
        /// The gateway.
        gateway: GatewayId,
        /// The new path.
        path: Path,
    },
    /// The link to a gateway is gone. Traffic asks for a new one.
    GatewayDisconnected {
        /// The gateway.
        gateway: GatewayId,
        /// Why; `None` if the gateway said so.
        failure: Option<Failure>,
    },
    /// Access was denied, or there was nobody to give it.
    AuthorizationFailed {
        /// The resource.
        resource: ResourceId,
        /// Why.
        reason: FailureReason,
    },
    /// Send this query to a resolver.
    DnsQuery(DnsQuery),
    /// This query is over: close what was opened for it.
    DnsQueryFinished(QueryId),
}

/// A query that a resolver has to answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DnsQuery {
    /// Names the query when something comes back. A repetition has the same id and goes by the same socket.
    pub id: QueryId,
    /// The resolver.
    pub server: Upstream,
    /// What carries the message.
    pub transport: Transport,
    /// The message.
    pub message: Vec<u8>,
    /// Whether the socket's packets are to go into the tunnel, instead of past it.
    pub through_tunnel: bool,
}

/// How the interface is to be set up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TunConfig {
    /// Our address.
    pub ipv4: Ipv4Addr,
    /// Our address.
    pub ipv6: Ipv6Addr,
    /// The addresses of our DNS servers: sentinels, in order of preference.
    pub dns_servers: Vec<IpAddr>,
    /// The domain that short names are completed with.
    pub search_domain: Option<String>,
    /// Networks whose packets come to us, sorted. `0.0.0.0/0` and `::/0` if the internet resource is active.
    pub routes: Vec<IpNet>,
}

/// A resource and how it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResourceState {
    /// The resource.
    pub resource: Resource,
    /// How it is.
    pub status: ResourceStatus,
}

/// How a resource is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ResourceStatus {
    /// Nobody has asked for it lately.
    Unknown,
    /// A gateway for it is connected.
    Online,
    /// When it was last asked for, no gateway was there.
    Offline,
}

/// Why there is no access.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FailureReason {
    /// No gateway is online.
    Offline,
    /// The policy says no.
    Forbidden,
    /// There is no such resource (any more).
    NotFound,
    /// All gateways are too old or too new.
    VersionMismatch,
    /// The portal did not answer.
    Timeout,
    /// Anything else that the portal said.
    Other,
}
