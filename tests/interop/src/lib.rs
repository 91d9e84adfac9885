//! Our WireGuard, relay and TURN client beside those of others.
//!
//! [`Pair`] lays out two namespaces and starts a user-space WireGuard in one of them; its [`End`] in the other is ours:
//! the [`Node`](connlib_link::Node) that client and gateway use, on a socket. As the other program knows nothing of ICE,
//! something else answers its checks in its place; every other datagram goes over the wire.
//!
//! Rekeys are two minutes apart. With the feature `fast-clock` our end's time passes faster than that of the other
//! program, which never minds a handshake that comes early: so our timers run as they always do, and a test sees many
//! rekeys in seconds.
//!
//! [`Site`] puts a relay between two hosts: other people's TURN clients talk through ours, and our nodes through coturn.
//!
//! - [`device`]: a WireGuard device of another program
//! - [`tools`]: programs of others, looked for and installed
//! - [`end`], [`pair`], [`clock`]: ours, the two together, and our time
//! - [`site`]: a relay, and hosts that need it; [`relayed`]: our nodes there; [`coturn`]
#![forbid(unsafe_code)]

pub mod clock;
pub mod coturn;
pub mod device;
pub mod end;
mod ice;
pub mod pair;
pub mod relayed;
pub mod site;
pub mod tools;

pub use clock::Clock;
pub use coturn::Coturn;
pub use device::Device;
pub use end::End;
pub use pair::Pair;
pub use relayed::Relayed;
pub use site::Site;
