//! The two ends of a tunnel: resources, routing, authorizations, filters and NAT.
//!
//! A [`GatewayTunnel`] lets clients reach what the portal says they may. It owns its links and decides about every
//! packet, but has no socket, no clock, no thread and no global: what happens goes in, together with the time, and what
//! is to be done comes out. The same input gives the same output.
//!
//! There are two ways through it. **Packets** pass in batches that the caller lends, without an allocation; what was
//! decided about one packet of a flow holds for the next, until a policy changes. Everything else leaves by
//! `poll_output`, which is called after each input until it returns [`Output::Timeout`]:
//!
//! ```
//! use std::time::Instant;
//!
//! use connlib_link::SendQueue;
//! use connlib_packet::{Offload, PacketBatch, TunPacket};
//! use connlib_tunnel::{
//!     Datagrams, GatewayConfig, GatewayEvent, GatewayTunnel, Output, ResolveError,
//! };
//!
//! struct Host {
//!     tunnel: GatewayTunnel,
//!     to_tun: PacketBatch,
//!     to_network: SendQueue,
//! }
//!
//! impl Host {
//!     /// The socket has received datagrams.
//!     fn on_datagrams(&mut self, datagrams: Datagrams<'_>) -> Instant {
//!         self.tunnel.handle_datagrams(datagrams, &mut self.to_tun, Instant::now());
//!         for packet in self.to_tun.packets() { /* write it to the TUN device */ }
//!         self.to_tun.clear();
//!         self.drain()
//!     }
//!
//!     /// The TUN device has yielded a packet.
//!     fn on_tun(&mut self, bytes: &mut [u8], offload: Offload) -> Instant {
//!         if let Ok(packet) = TunPacket::parse(bytes, offload) {
//!             self.tunnel.handle_tun(packet, &mut self.to_network, Instant::now());
//!         }
//!         for (run, bytes) in self.to_network.runs() { /* send it: one system call a run */ }
//!         self.to_network.clear();
//!         self.drain()
//!     }
//!
//!     /// Does all that is to be done. Returns when to call `handle_timeout`, if nothing happens before.
//!     fn drain(&mut self) -> Instant {
//!         loop {
//!             match self.tunnel.poll_output() {
//!                 Output::Transmit(transmit) => { /* send it */ }
//!                 Output::Stream(request) => { /* connect to a relay, or leave it */ }
//!                 Output::TunPacket(packet) => { /* write it to the TUN device */ }
//!                 Output::Event(GatewayEvent::ResolveName { id, name }) => {
//!                     // Ask a resolver; here, there is none.
//!                     self.tunnel.handle_resolved(id, Err(ResolveError), Instant::now());
//!                 }
//!                 Output::Event(event) => { /* tell the portal */ }
//!                 Output::Timeout(at) => return at,
//!             }
//!         }
//!     }
//! }
//!
//! let now = Instant::now();
//! let tunnel = GatewayTunnel::new(&GatewayConfig { seed: [7; 32], ..Default::default() }, now);
//! let to_tun = PacketBatch::new(128 * 1024, 128);
//! let mut host = Host { tunnel, to_tun, to_network: SendQueue::new(0) };
//! assert!(host.drain() > now);
//! ```
#![forbid(unsafe_code)]

pub mod client;
mod datagrams;
mod filter;
mod flow_cache;
mod gateway;
mod ids;
mod keys;
mod output;
mod stats;
mod token_bucket;

pub use connlib_link::{IceCredentials, Relay, RelayCredentials, StreamRequest, StreamServer};
pub use datagrams::Datagrams;
pub use filter::{Filter, Filters, Service};
pub use gateway::{
    Authorization, AuthorizeError, AuthorizedClient, AuthorizedResource, GatewayConfig,
    GatewayEvent, GatewayTunnel, Gone, ResolutionId, ResolveError, Retained, Target,
};
pub use ids::{ClientId, GatewayId, ResourceId, SiteId};
pub use keys::LinkKeys;
pub use output::Output;
pub use stats::{DropReason, Stats};
