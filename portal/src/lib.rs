//! A small portal for labs, tests and small teams: one binary, one policy file, one database file.
//!
//! - [`policy`]: the policy file, parsed and checked as a whole.

#![forbid(unsafe_code)]

pub mod policy;
