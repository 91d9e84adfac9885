//! What the program makes of a frame, asked of the kernel (`BPF_PROG_TEST_RUN`) in namespaces of the tests' own.
//!
//! Needs root and the program: run `cargo xtask ebpf` first.
#![allow(clippy::panic, clippy::unwrap_used, reason = "helpers of tests")]

mod frame;
mod lab;
mod model;
mod wire;

mod bindings_come_and_go;
mod each_path_is_as_the_model_says;
mod interfaces_come_and_go;
mod packets_travel_through_the_relay;
mod ways_out_follow_the_routes;
mod what_each_path_costs;
mod what_is_not_its_own_passes_untouched;
