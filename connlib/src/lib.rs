//! Sessions that an app or a binary starts: the event loops of client and gateway.
//!
//! A session owns a TUN device, sockets and a connection to the portal, and runs on one thread: it reads a burst of
//! packets, decides, encrypts and sends it before it looks at anything else. All decisions are made by the state
//! machines of [`connlib_tunnel`]; what is here moves bytes and messages between them and the world.
//!
//! - [`client`]: a client's session
//! - [`gateway`]: a gateway's session
//! - [`portal`]: how the portal is reached
#![forbid(unsafe_code)]

mod bootstrap;
pub mod client;
mod command;
mod convert;
mod dns;
mod doh;
pub mod gateway;
mod gateway_dns;
mod io;
mod logged;
pub mod portal;
mod relays;
mod resolve;
mod signals;
mod system_dns;

pub use command::{Command, Commands, Counters, SessionError, commands};
pub use connlib_tunnel::{DropReason, Stats};
pub use io::IoStats;

// A clock of the simulation must never tell a real session the time.
const _: () = assert!(!connlib_link::SIMULATED_CLOCK, "built with the simulation's clock");
