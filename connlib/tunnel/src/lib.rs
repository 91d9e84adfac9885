//! ClientTunnel and GatewayTunnel: resources, routing, authorizations, filters and NAT.
#![forbid(unsafe_code)]

mod filter;
mod ids;
mod stats;

pub use filter::{Filter, Filters, Service};
pub use ids::{ClientId, GatewayId, ResourceId, SiteId};
pub use stats::{Drop, Stats};
