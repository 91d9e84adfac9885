//! Clients, gateways and a stub portal on a simulated internet with virtual time.
//!
//! A [`World`] runs the real state machines of `connlib-tunnel` on a network with latency, jitter, loss, routers that
//! translate addresses, and everything that goes wrong in the world: roaming, cables pulled, walls that let no datagrams
//! through, restarts, outages, revocations. All of it follows from one seed; the clock jumps to whatever happens next, so
//! that hours take milliseconds. A [model] says what must become of every single packet.
//!
//! ```
//! use std::time::Duration;
//! use connlib_sim::{Access, FlowSpec, Line, ResourceSpec, What, World};
//!
//! let mut world = World::new(1);
//! let line = Line::clean(Duration::from_millis(10));
//! world.add_gateway(1, Access::public(line));
//! let client = world.add_client(Access::public(line));
//! world.add_resource(ResourceSpec::network(1, 1, "10.0.0.0/8"), &[client]);
//! let flow = world.start(FlowSpec::to_address(client, What::Udp(7), "10.0.0.1"));
//! world.run(Duration::from_secs(10));
//! assert!(world.answers(flow) > 90);
//! world.finish();
//! ```
//!
//! A run that fails says which seed it was; `CONNLIB_SIM_SEED=<seed>` runs that one alone and shows its last events, and
//! `CONNLIB_SIM_TRACE=1` shows all of them as they happen.
//!
//! This crate builds WireGuard with a virtual clock, and features unify: build it alone, `cargo test -p connlib-sim`.
#![forbid(unsafe_code)]
#![allow(clippy::panic, clippy::unwrap_used, reason = "all of this crate is a test")]

mod app;
mod hosts;
mod internet;
mod logs;
pub mod model;
mod names;
mod oracle;
mod portal;
mod random;
mod site;
pub mod story;
mod trace;
mod wire;
mod world;

pub use app::{FlowId, FlowSpec, To, What};
pub use internet::{Access, Line, Mapping, Node};
pub use names::Family;
pub use portal::{ResourceSpec, client_id, gateway_id};
pub use random::Random;
pub use site::{CLOSED_PORT, SILENT_PORT};
pub use world::{World, bounds};
