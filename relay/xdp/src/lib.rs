//! The relay's fast path in the kernel: an XDP program that relays channel data without a copy into user space, and the
//! handle by which the relay tells it what to relay.
//!
//! User space stays in charge. It owns the allocations' sockets, answers STUN and decides what is bound; of that it tells
//! the program's [`Maps`]: ports as they are allocated and freed, channels as they are bound and expire. What the program
//! relays, user space does not see, but in [`Counters`]; everything else reaches it as if there were no program. So it must
//! be able to relay whatever it has bound, too: packets are passed up for a good reason (see [`Pass`]), and all of them where
//! the program cannot run.
//!
//! [`Xdp`] holds the program at its interfaces, as they go and come.
//!
//! The program is built by `cargo xtask ebpf`, with a toolchain of its own. A build of this crate embeds it if it is there;
//! without, [`Xdp::load`] says so and the relay works in user space.
//!
//! ```no_run
//! use connlib_relay_xdp::{Addresses, Binding, Config, Family, Preference, Xdp};
//!
//! let (mut xdp, mut maps) = Xdp::load(&Config {
//!     interfaces: vec!["eth0".to_owned()],
//!     preference: Preference::Auto,
//!     listen_port: 3478,
//!     v4: Some(Addresses { local: "10.0.0.5".parse()?, public: "203.0.113.5".parse()? }),
//!     v6: None,
//! })?;
//! // Now, and every few seconds.
//! xdp.tend()?;
//! println!("relaying in the kernel: {:?}", xdp.modes().collect::<Vec<_>>());
//!
//! let binding = Binding {
//!     client: "198.51.100.7:40000".parse()?,
//!     channel: 0x4000,
//!     allocation_port: 50_000,
//!     peer: "192.0.2.9:52625".parse()?,
//! };
//! maps.add_port(binding.allocation_port, Family::V4)?;
//! maps.insert_channel(&binding)?;
//! // ...
//! maps.remove_channel(&binding)?;
//! maps.remove_port(binding.allocation_port, Family::V4)?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
#![forbid(unsafe_code)]

mod config;
mod counters;
mod error;
mod forwarding;
mod interface;
mod maps;
mod program;
mod xdp;

pub use config::{Addresses, Binding, Config, Mode, Preference, UnknownPreference};
pub use connlib_relay_xdp_types::{Count, Family, Framing, Outcome, PATHS, Pass, Path, Shape};
pub use counters::Counters;
pub use error::{AttachError, MapError};
pub use maps::Maps;
pub use program::{Action, Runs, Verdict};
pub use xdp::Xdp;
