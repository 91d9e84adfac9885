//! Benches side by side with other programs, in one run.
#![forbid(unsafe_code)]

fn main() {}
