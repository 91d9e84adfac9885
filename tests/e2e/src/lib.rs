//! A small internet out of network namespaces, on which the real binaries run.
//!
//! A [`Lab`] owns everything that one run creates: namespaces, links, processes, log files. Its
//! names carry an id of their own, so that several labs stand side by side, and all of it goes
//! when the lab is dropped, also by a panic. What a killed process left behind goes when the next
//! lab starts.
//!
//! ```no_run
//! use connlib_e2e::{Lab, Nat};
//!
//! # fn main() -> anyhow::Result<()> {
//! let lab = Lab::new()?;
//! let internet = lab.switch("internet")?;
//! let server = lab.namespace("server")?;
//! internet.plug(&server, "eth0", &["203.0.113.5/24"])?;
//!
//! let router = lab.router("router")?;
//! internet.plug(&router, "wan", &["203.0.113.20/24"])?;
//! let client = lab.namespace("client")?;
//! lab.cable((&client, "eth0", &["192.168.77.2/24"]), (&router, "lan", &["192.168.77.1/24"]))?;
//! client.route("default", "192.168.77.1")?;
//! router.masquerade("wan", Nat::Masquerade)?;
//!
//! client.command("ping").args(["-c", "1", "203.0.113.5"]).run()?;
//! # Ok(())
//! # }
//! ```
//!
//! Modules, from the ground up: [`lab`] (what a run owns), [`namespace`], [`link`] (cables and
//! switches), [`wire`] (cables with delay and loss), [`router`], [`process`] and [`log`] (programs and
//! what they said), [`capture`] (what was on the wire), [`probe`] (what an application would notice), [`topology`]
//! (the network that most tests share), [`scenario`] (portal, gateway and client on it).
#![forbid(unsafe_code)]

mod binaries;
pub mod capture;
pub mod impairment;
pub mod lab;
pub mod link;
pub mod log;
pub mod namespace;
pub mod payload;
pub mod probe;
pub mod process;
pub mod router;
pub mod scenario;
mod sweep;
pub mod topology;
pub mod wait;
pub mod wire;

pub use binaries::Binaries;
pub use capture::Capture;
pub use impairment::Impairment;
pub use lab::Lab;
pub use namespace::Namespace;
pub use process::Process;
pub use router::{Nat, Router};
pub use scenario::{Scenario, Setup};
