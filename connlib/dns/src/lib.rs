//! DNS of a client: names, patterns, messages and the stub resolver.
//!
//! The operating system is told that its DNS servers are *sentinels*, addresses inside the
//! tunnel's interface. What apps send there arrives at a [`Resolver`]: names that a DNS resource
//! covers are answered with *proxy addresses*, all others are forwarded to the servers that the
//! portal or the system prescribes.
//!
//! No sockets, no clock, deterministic: messages and the time go in, and what there is to do comes
//! out. After each call, drain the outputs:
//!
//! ```
//! use std::time::Instant;
//!
//! use connlib_dns::{Client, Handled, Output, Resolver};
//!
//! /// A message from an app to a sentinel.
//! fn on_query(resolver: &mut Resolver, client: Client, message: &[u8], now: Instant) {
//!     match resolver.handle_query(client, message, now) {
//!         Ok(Handled::Answered(Some(assignment))) => { /* tell the gateways */ }
//!         Ok(Handled::AskGateway { resource, query }) => { /* authorize, then forward */ }
//!         Ok(Handled::Answered(None) | Handled::Forwarded | Handled::Unassigned) => {}
//!         Err(error) => tracing::debug!(%error, "Dropped a malformed DNS query"),
//!     }
//!     drain(resolver);
//! }
//!
//! fn drain(resolver: &mut Resolver) {
//!     loop {
//!         match resolver.poll_output() {
//!             Output::Transmit(transmit) => { /* send it to its server */ }
//!             Output::Answer { to, message } => { /* send it to the app */ }
//!             Output::Finished(query) => { /* close the socket of the query */ }
//!             // Call `handle_timeout` then, and drain again.
//!             Output::Timeout(due) => return,
//!         }
//!     }
//! }
//! ```
//!
//! Queries over TCP come to the resolver through a [`TcpServer`], which ends the connections of
//! apps in user space and takes the answers back.
//!
//! The parts are of use on their own: a gateway serves DNS with a [`Forwarder`] alone.
#![forbid(unsafe_code)]

mod cache;
mod forwarder;
mod framing;
mod name;
mod pattern;
mod proxy;
mod query;
mod ranges;
mod resolver;
mod resources;
mod response;
mod sentinels;
mod stub;
mod tcp_server;
mod upstream;
mod wire;

pub use hickory_proto::op::ResponseCode;
pub use hickory_proto::rr::RecordType;

pub use cache::Cache;
pub use forwarder::{
    Answered, Client, DIRECT_TIMEOUT, Forwarder, Output, QueryId, Rejected, TUNNEL_TIMEOUT,
    Transmit,
};
pub use framing::{Deframer, FrameTooLong, frame};
pub use name::{MAX_NAME_LEN, Name, NameError};
pub use pattern::{Pattern, PatternError};
pub use proxy::{Exhausted, ProxyAddresses, ProxySet};
pub use query::{MAX_QUERY_LEN, MAX_UDP_LEN, Query};
pub use ranges::{
    PROXY_RANGE_V4, PROXY_RANGE_V6, SENTINEL_RANGE_V4, SENTINEL_RANGE_V6, is_sentinel,
};
pub use resolver::{Handled, Resolver};
pub use resources::{IpStack, Resource};
pub use response::{ResponseError, fit};
pub use sentinels::{Origin, Sentinels, UpstreamConfig};
pub use stub::{Assignment, Resolution, StubResolver};
pub use tcp_server::{TcpOutput, TcpServer};
pub use upstream::{DohUrl, DohUrlError, Transport, Upstream};
pub use wire::MessageError;
