//! `cargo xtask soak`: what a long time of coming and going leaves behind.

use std::process;

use anyhow::Result;
use clap::{Subcommand, value_parser};

use crate::{cargo, packages};

/// Have others come and go for a long time, with release builds, and look at what it leaves behind
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    soak: Soak,
}

#[derive(Debug, Subcommand)]
enum Soak {
    /// Our relay: clients by UDP, TCP and TLS, and strangers. Fails if its memory grows, if anything is left or damaged
    Relay {
        /// Print one JSON object a line instead of a table
        #[arg(long)]
        json: bool,
        /// How long clients come
        #[arg(long, default_value_t = 60, value_parser = value_parser!(u64).range(1..))]
        minutes: u64,
        /// Relay channels by the XDP program, see `cargo xtask ebpf`
        #[arg(long)]
        xdp: bool,
    },
}

const PACKAGE: &str = "connlib-bench";
const RELAY: &str = "connlib-relay";

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    packages::ensure_present(&[packages::COMPILER, packages::ETHTOOL])?;
    packages::ensure_present(&packages::LAB)?;
    let built = cargo::build("release", &[PACKAGE, RELAY])?;
    let mut command = process::Command::new(built.join(PACKAGE));
    command.args(arguments.soak.words()).env("CONNLIB_BIN_DIR", &built);
    cargo::run(&mut command)
}

impl Soak {
    /// What the program that does it is told.
    fn words(&self) -> Vec<String> {
        let Self::Relay { json, minutes, xdp } = self;
        let mut words = ["soak", "relay", "--minutes"].map(str::to_owned).to_vec();
        words.push(minutes.to_string());
        words.extend(json.then(|| "--json".to_owned()));
        words.extend(xdp.then(|| "--xdp".to_owned()));
        words
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Command {
        #[command(flatten)]
        arguments: Arguments,
    }

    #[test]
    fn options_reach_the_program_that_does_it() {
        let words = |line: &str| {
            let words = std::iter::once("soak").chain(line.split_whitespace());
            Command::try_parse_from(words).unwrap().arguments.soak.words().join(" ")
        };
        assert_eq!(words("relay"), "soak relay --minutes 60");
        let line = "relay --minutes 1 --json --xdp";
        assert_eq!(words(line), format!("soak {line}"));
        assert!(Command::try_parse_from(["soak", "relay", "--minutes", "0"]).is_err());
    }
}
