//! What goes over the wire between the portal and its peers, as far as it matters here.

use std::time::Instant;

use connlib_tunnel::client::{FailureReason, Gateway, Interface, Resource};
use connlib_tunnel::{
    Authorization, ClientId, Filters, GatewayId, LinkKeys, Relay, ResourceId, Retained,
};

/// From a client or a gateway.
#[derive(Debug, Clone)]
pub(crate) enum ToPortal {
    /// A client wants access.
    Request { resource: ResourceId, preferred: Vec<GatewayId> },
    /// Candidates of a client.
    ToGateway { gateway: GatewayId, candidates: Candidates },
    /// Candidates of a gateway.
    ToClient { client: ClientId, candidates: Candidates },
    /// A gateway has taken over an authorization.
    Confirm { reference: u64 },
}

/// To a client or a gateway.
#[derive(Debug, Clone)]
pub(crate) enum FromPortal {
    Client(ToClient),
    Gateway(ToGateway),
}

#[derive(Debug, Clone)]
pub(crate) enum ToClient {
    Init { interface: Interface, resources: Vec<Resource>, relays: Vec<Relay> },
    Relays(Vec<Relay>),
    ResourceChanged(Resource),
    ResourceRemoved(ResourceId),
    Created { resource: ResourceId, gateway: Gateway, keys: LinkKeys },
    Failed { resource: ResourceId, reason: FailureReason },
    Candidates { gateway: GatewayId, candidates: Candidates },
}

#[derive(Debug, Clone)]
pub(crate) enum ToGateway {
    Init { authorizations: Vec<Retained>, relays: Vec<Relay> },
    Relays(Vec<Relay>),
    Create { reference: u64, authorization: Box<Authorization> },
    Reject { client: ClientId, resource: ResourceId },
    Filters { resource: ResourceId, filters: Filters },
    Candidates { client: ClientId, candidates: Candidates },
}

impl ToGateway {
    /// The client and resource whose authorization ends, and when.
    pub(crate) fn expiry(&self) -> Option<(usize, ResourceId, Instant)> {
        let Self::Create { authorization, .. } = self else { return None };
        let client = super::client_number(authorization.client.id);
        Some((client, authorization.resource.id, authorization.expires_at?))
    }
}

/// Candidates that are there, or are gone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Candidates {
    pub(crate) is_added: bool,
    pub(crate) list: Vec<String>,
}
