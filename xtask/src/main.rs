//! The project's commands: `cargo xtask demo | test | bench | soak | ebpf`.
#![forbid(unsafe_code)]

mod bench;
mod cargo;
mod demo;
mod ebpf;
mod packages;
mod soak;
mod test;

use std::process::ExitCode;

use clap::Parser;

#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", about = "The project's commands")]
enum Command {
    Demo(demo::Arguments),
    Test(test::Arguments),
    Bench(bench::Arguments),
    Soak(soak::Arguments),
    Ebpf(ebpf::Arguments),
}

fn main() -> ExitCode {
    let result = match Command::parse() {
        Command::Demo(arguments) => demo::run(&arguments),
        Command::Test(arguments) => return test::run(&arguments),
        Command::Bench(arguments) => bench::run(&arguments),
        Command::Soak(arguments) => soak::run(&arguments),
        Command::Ebpf(arguments) => ebpf::run(&arguments),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
