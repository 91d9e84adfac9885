//! A TURN relay (RFC 8656) for networks where no direct path exists.
#![forbid(unsafe_code)]

pub mod server;
