//! The programs that run inside a lab: servers to reach, and the cable with faults.
#![forbid(unsafe_code)]

mod dns;
mod http;
mod wire;

use clap::Parser;

#[derive(Debug, Parser)]
#[command(about, version)]
enum Command {
    Http(http::Arguments),
    Dns(dns::Arguments),
    Wire(wire::Arguments),
}

fn main() -> anyhow::Result<()> {
    match Command::parse() {
        Command::Http(arguments) => http::run(&arguments),
        Command::Dns(arguments) => dns::run(&arguments),
        Command::Wire(arguments) => wire::run(&arguments),
    }
}

/// Logs one line the way the project's binaries do.
fn log(level: &str, message: &str) {
    use std::io::Write as _;

    let line = serde_json::json!({"level": level, "fields": {"message": message}});
    // Without a reader there is nobody to tell.
    drop(writeln!(std::io::stdout(), "{line}"));
}
