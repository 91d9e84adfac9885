//! The gateway's end: lets clients reach what they are authorized for, and nothing else.

mod authorization;
mod config;
mod event;
mod names;
mod nat;
#[cfg(test)]
mod packets;
mod peer;
mod peers;
mod policy;
mod resolutions;
mod session;
mod translations;
mod tunnel;

pub use authorization::{
    Authorization, AuthorizeError, AuthorizedClient, AuthorizedResource, Retained, Target,
};
pub use config::GatewayConfig;
pub use event::{GatewayEvent, Gone};
pub use resolutions::{ResolutionId, ResolveError};
pub use tunnel::GatewayTunnel;
