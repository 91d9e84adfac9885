//! The client's end: finds out what packets are for, asks for access, and brings them to gateways.
//!
//! - [`ClientTunnel`]: what the parts do together; in `packets` the way of a packet, in `routing` where it leads, in
//!   `access` what the portal answers, in `queries` what DNS wants
//! - `routes`: which resource a packet is for, and the one rule of precedence
//! - `authorizations`: access, asked for by traffic
//! - `dns`: the servers that applications see
//! - `announcements`: which addresses stand for which name, as gateways know it

mod access;
mod announcements;
mod authorizations;
mod dns;
mod event;
mod gateways;
mod packets;
mod queries;
mod resource;
mod routes;
mod routing;
mod tunnel;

pub use event::{ClientEvent, DnsQuery, FailureReason, ResourceState, ResourceStatus, TunConfig};
pub use gateways::Gateway;
pub use resource::{Interface, Resource, Site, Target};
pub use tunnel::{ClientConfig, ClientTunnel};
