//! One encrypted link per peer: candidates, ICE and WireGuard.
//!
//! A [`Node`] owns all links of this end. It has no socket, no clock and no global: datagrams, packets, addresses and
//! the time go in, and what is to be sent or known comes out, so that the same input gives the same output.
//!
//! There are two ways through it. **Packets** pass in batches that the caller lends: [`Node::seal`] encrypts straight
//! into a [`SendQueue`], [`Node::open`] decrypts straight into the caller's slot. Everything else leaves by
//! [`Node::poll_output`], which is called after each input until it returns [`Output::Timeout`]:
//!
//! ```
//! # use std::time::{Duration, Instant};
//! # use connlib_link::{Node, NodeConfig, Output};
//! let mut now = Instant::now();
//! let mut node = Node::new(NodeConfig { seed: [7; 32], ..NodeConfig::default() }, now);
//! node.set_local_addresses(&["192.0.2.1:52625".parse().unwrap()], now);
//! let wake_up_at = loop {
//!     match node.poll_output() {
//!         Output::Transmit(transmit) => { /* send `transmit.payload` along `transmit.path` */ }
//!         Output::Event(event) => { /* tell the portal or the tunnel */ }
//!         Output::Stream(request) => println!("connect to a relay, or leave it: {request:?}"),
//!         Output::Timeout(at) => break at,
//!     }
//! };
//! // Sleep until `wake_up_at` or until there is input, then:
//! now += Duration::from_secs(1);
//! node.handle_timeout(now);
//! ```
//!
//! # What a link is made of
//!
//! - **ICE** (RFC 8445, trickled as in RFC 8838) finds the paths: host candidates from the machine's interfaces,
//!   server-reflexive ones through STUN Binding, peer-reflexive ones as they show up, relayed ones from allocations on
//!   relays (RFC 8656).
//! - **WireGuard** with the portal's preshared key protects the packets. Its session index says which link a datagram
//!   belongs to; the address it came from is not used for that, since NATs reuse addresses.
//! - The **controlling** end (a client) chooses the path and starts handshakes. The **controlled** end (a gateway)
//!   answers on the path on which the last authenticated packet came, so that a client that roams needs no signalling.
//!
//! A relayed path (TURN) is one more [`Path`], whose local address is the relay's: only the node, at its edge, puts a
//! channel's header in front and sends to the relay; or puts it into a stream to the relay, where a network lets no
//! datagrams through. Which relays there are is up to [`Node::set_relays`]; a link needs
//! none where a direct path works.
#![forbid(unsafe_code)]

mod candidates;
mod deadlines;
mod demux;
mod gate;
mod index;
mod link;
mod links;
mod node;
mod output;
mod relays;
mod send_queue;
mod stun_servers;
mod wireguard;

pub use boringtun::x25519::{PublicKey, StaticSecret};
pub use deadlines::Deadlines;
pub use link::{IceCredentials, LinkConfig, Role};
pub use node::{Datagram, Node, NodeConfig, Opened, SealError, Upsert};
pub use output::{Event, Failure, Output, Path, PeerId, StreamRequest, StreamServer, Transmit};
pub use relays::{Relay, RelayCredentials};
pub use send_queue::{Run, SendQueue};

/// Whether this build takes WireGuard's time from the simulation. A real binary asserts that it does not.
pub const SIMULATED_CLOCK: bool = cfg!(feature = "simulation");

/// Bytes that WireGuard adds to a packet: header and authentication tag.
pub const OVERHEAD: usize = 32;

/// The UDP port that client and gateway bind when they can, so that administrators may forward it.
pub const PREFERRED_PORT: u16 = 52625;
