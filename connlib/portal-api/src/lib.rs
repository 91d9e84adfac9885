//! The portal's messages, the channel codec and the WebSocket client.
//!
//! Both ends use the same types: a client, gateway or relay receives `FromPortal` and sends `ToPortal`, a portal
//! does the reverse.
//!
//! - [`messages`]: what is said, with [`Tolerant`] lists; [`login`]: what is said before, in the URL and headers;
//! - [`credentials`]: how a portal derives the keys and passwords that it hands out;
//! - [`channel`]: frames, and the state machine of one connection: no sockets, no clock, deterministic;
//! - [`client`]: the WebSocket client that keeps one connection; [`HeldCandidates`]: what waits while there is none.
#![forbid(unsafe_code)]

pub mod channel;
pub mod client;
pub mod credentials;
mod held;
mod id;
mod key;
pub mod login;
pub mod messages;
mod tolerant;
mod wire;

pub use held::{Held, HeldCandidates};
pub use id::{ClientId, GatewayId, RelayId, ResourceId, SiteId};
pub use key::{InvalidKey, PresharedKey, PublicKey, Secret};
pub use tolerant::{Skipped, Tolerant};
