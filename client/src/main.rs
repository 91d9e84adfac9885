//! The headless Linux client.
#![forbid(unsafe_code)]

fn main() {}
