//! A small portal for labs, tests and small teams: one binary, one policy file, one database file.
//!
//! - [`policy`]: the policy file, parsed and checked as a whole.
//! - [`hub`]: the portal as a state machine, without sockets and clock.
//! - [`store`]: what must last, in a database.

#![forbid(unsafe_code)]

pub mod hub;
pub mod policy;
pub mod store;
