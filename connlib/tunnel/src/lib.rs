//! ClientTunnel and GatewayTunnel: resources, routing, authorizations, filters and NAT.
#![forbid(unsafe_code)]

mod datagrams;
mod deadlines;
mod filter;
mod flow_cache;
mod gateway;
mod ids;
mod keys;
mod output;
mod stats;
mod token_bucket;

pub use connlib_link::IceCredentials;
pub use datagrams::Datagrams;
pub use filter::{Filter, Filters, Service};
pub use gateway::{
    Authorization, AuthorizeError, AuthorizedClient, AuthorizedResource, GatewayConfig,
    GatewayEvent, GatewayTunnel, Gone, ResolutionId, ResolveError, Retained, Target,
};
pub use ids::{ClientId, GatewayId, ResourceId, SiteId};
pub use keys::LinkKeys;
pub use output::Output;
pub use stats::{DropReason, Stats};
