//! `cargo xtask bench`: figures, measured on this machine side by side with others'.

use std::ffi::OsString;

use anyhow::Result;
use clap::Subcommand;
use connlib_e2e::scenario;

use crate::{cargo, packages};

/// Measure, with release builds
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    bench: Bench,
}

#[derive(Debug, Subcommand)]
enum Bench {
    /// Throughput, CPU, memory and delay through a tunnel, beside other tunnels
    Tunnel(Options),
    /// Memory and wake-ups of client and gateway that have nothing to do
    Idle(Options),
}

#[derive(Debug, clap::Args)]
struct Options {
    /// Print one JSON object a line instead of a table
    #[arg(long)]
    json: bool,
    /// Measure only what has this in its name; may be given several times
    #[arg(long, value_name = "NAME")]
    only: Vec<String>,
    /// How long each measurement takes
    #[arg(long)]
    seconds: Option<u32>,
}

const PACKAGE: &str = "connlib-bench";

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let (name, options) = match &arguments.bench {
        Bench::Tunnel(options) => ("tunnel", options),
        Bench::Idle(options) => ("idle", options),
    };
    packages::ensure_present(&[packages::COMPILER])?;
    packages::ensure_present(&packages::LAB)?;
    packages::ensure_present(&packages::BENCH)?;
    let built = cargo::build("release", &[&scenario::PACKAGES[..], &[PACKAGE]].concat())?;

    let mut command = std::process::Command::new(built.join(PACKAGE));
    command.arg(name).args(options.words()).env("CONNLIB_BIN_DIR", &built);
    cargo::run(&mut command)
}

impl Options {
    fn words(&self) -> Vec<OsString> {
        let mut words = Vec::new();
        if self.json {
            words.push("--json".into());
        }
        for name in &self.only {
            words.extend(["--only".into(), name.into()]);
        }
        if let Some(seconds) = self.seconds {
            words.extend(["--seconds".into(), seconds.to_string().into()]);
        }
        words
    }
}
