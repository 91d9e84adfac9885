//! The Linux gateway.
#![forbid(unsafe_code)]

fn main() {}
