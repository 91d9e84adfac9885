//! Benches: throughput beside other tunnels in one run, what an idle tunnel costs, and allocations per packet.
//!
//! - [`subject`]: what is measured, each on the same network: our client and gateway, other tunnels, the bare link
//! - [`tunnel`]: throughput, CPU, memory and delay of all subjects, alternating
//! - [`relay`]: packets, CPU, memory and delay of our relay beside another
//! - [`soak`]: our relay under churn for an hour, and whether anything of it stays
//! - [`idle`]: memory and wake-ups of our programs when nothing happens
//! - [`allocations`]: what the packet path allocates; needs no network and runs as a test too
//! - [`lab`], [`process`], [`machine`]: where it happens, figures of processes and of the machine
#![forbid(unsafe_code)]

mod allocations;
mod idle;
mod lab;
mod machine;
mod process;
mod relay;
mod soak;
mod subject;
mod tunnel;

use std::process::ExitCode;

use clap::Parser;

/// Measures on this machine. Figures go to standard output, everything else to standard error.
#[derive(Debug, Parser)]
#[command(name = "connlib-bench")]
enum Bench {
    /// Throughput, CPU, memory and delay through a tunnel, beside other tunnels
    Tunnel(tunnel::Arguments),
    /// Packets, CPU, memory and delay of relays, beside others' relays
    Relay(relay::Arguments),
    /// Memory and wake-ups of client and gateway that have nothing to do
    Idle(idle::Arguments),
    /// Allocations per packet in steady traffic
    Allocations(allocations::Arguments),
    /// What an hour of coming and going leaves behind
    #[command(subcommand)]
    Soak(soak::Soak),
}

fn main() -> ExitCode {
    let result = match Bench::parse() {
        Bench::Tunnel(arguments) => tunnel::run(&arguments),
        Bench::Relay(arguments) => relay::run(&arguments),
        Bench::Idle(arguments) => idle::run(&arguments),
        Bench::Allocations(arguments) => allocations::run(&arguments),
        Bench::Soak(soak) => soak::run(&soak),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
