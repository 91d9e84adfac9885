//! A small portal: one binary, one policy file.
#![forbid(unsafe_code)]

fn main() {}
