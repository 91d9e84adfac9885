//! A TURN relay (RFC 8656) for networks where no direct path exists.
//!
//! - [`server`]: the protocol. One [`Server`](server::Server) per worker thread, without sockets and clocks.
#![forbid(unsafe_code)]

pub mod server;
