//! What the real relay does with its XDP program, on real interfaces.
//!
//! These tests need root and the program (`cargo xtask ebpf`), and say so where they are skipped.
#![allow(clippy::panic, clippy::unwrap_used)]

mod checksums_are_right;
mod client;
mod interfaces_go_and_come;
mod network;
#[path = "../program/support.rs"]
mod support;
mod what_does_not_fit;
mod what_has_ended_is_not_relayed;
