//! A small portal for labs, tests and small teams: one binary, one policy file, one database file.
//!
//! - [`policy`]: the policy file, parsed and checked as a whole;
//! - [`hub`]: the portal as a state machine, without sockets and clock;
//! - [`server`]: sockets, TLS, signals, file changes around the hub; [`cli`]: the command line;
//! - [`store`]: what must last, in a database.

#![forbid(unsafe_code)]

pub mod cli;
pub mod hub;
pub mod policy;
pub mod server;
pub mod store;
