//! What the program makes of a frame, asked of the kernel (`BPF_PROG_TEST_RUN`) in namespaces of the tests' own.
//!
//! Needs root and the program: run `cargo xtask ebpf` first.
#![cfg(has_program)]
#![allow(clippy::panic, clippy::unwrap_used, reason = "helpers of tests")]

mod frame;
mod lab;
mod model;

mod each_path_is_as_the_model_says;
