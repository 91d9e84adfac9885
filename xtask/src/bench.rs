//! `cargo xtask bench`: figures, measured on this machine side by side with others'.

use std::ffi::OsString;

use anyhow::Result;
use clap::{Subcommand, value_parser};
use connlib_e2e::scenario;

use crate::{cargo, ebpf, packages};

/// Measure, with release builds
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    bench: Bench,
}

/// The options are those of the program that measures, which knows what is meant where one is left out.
#[derive(Debug, Subcommand)]
enum Bench {
    /// Throughput, CPU, memory and delay through a tunnel, beside other tunnels
    Tunnel {
        #[command(flatten)]
        table: Table,
        #[command(flatten)]
        selection: Selection,
        /// How many connections at once, one row each; separated by commas
        #[arg(long, value_name = "NUMBER", value_delimiter = ',')]
        streams: Vec<u32>,
        /// How often each measurement is repeated; the medians count
        #[arg(long, value_parser = value_parser!(u32).range(1..))]
        rounds: Option<u32>,
        /// Talk to a server one cable behind the gateway, which forwards and masquerades for all alike
        #[arg(long)]
        behind_gateway: bool,
    },
    /// Memory and wake-ups of client and gateway that have nothing to do
    Idle {
        #[command(flatten)]
        table: Table,
        #[command(flatten)]
        selection: Selection,
        /// How long to wait before, after the ping that connects the two
        #[arg(long, value_name = "SECONDS")]
        settle: Option<u32>,
        /// Fail if a program is over the limits that it is to stay below
        #[arg(long)]
        check: bool,
    },
    /// Packets, CPU, memory and delay of our relay, beside coturn
    Relay {
        #[command(flatten)]
        table: Table,
        #[command(flatten)]
        selection: Selection,
        /// How often each measurement is repeated; the medians count
        #[arg(long, value_parser = value_parser!(u32).range(1..))]
        rounds: Option<u32>,
        /// What the load is made of: frames, sockets, or both; separated by commas
        #[arg(long, value_name = "KIND", value_delimiter = ',')]
        load: Vec<String>,
        /// Clients, each with a peer of its own
        #[arg(long, value_name = "NUMBER")]
        flows: Option<u32>,
        /// Bytes that each datagram carries
        #[arg(long, value_name = "BYTES")]
        payload: Option<u32>,
        /// Datagrams of a flow that are sent at once
        #[arg(long, value_name = "NUMBER")]
        run: Option<u32>,
        /// Which way the datagrams go: up, down or both
        #[arg(long)]
        direction: Option<String>,
        /// Allocations to look at the memory with
        #[arg(long, value_name = "NUMBER")]
        allocations: Option<u32>,
    },
    /// Allocations per packet in steady traffic
    Allocations {
        #[command(flatten)]
        table: Table,
        /// How many packets go each way in each case
        #[arg(long, value_parser = value_parser!(u32).range(1000..))]
        packets: Option<u32>,
    },
}

#[derive(Debug, clap::Args)]
struct Table {
    /// Print one JSON object a line instead of a table
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Args)]
struct Selection {
    /// Measure only what has this in its name; may be given several times
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    only: Vec<String>,
    /// How long each measurement takes
    #[arg(long, value_parser = value_parser!(u32).range(1..))]
    seconds: Option<u32>,
}

const PACKAGE: &str = "connlib-bench";
const RELAY: &str = "connlib-relay";

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    packages::ensure_present(&[packages::COMPILER])?;
    let mut built = vec![PACKAGE];
    match arguments.bench {
        Bench::Tunnel { .. } | Bench::Idle { .. } => {
            packages::ensure_present(&packages::LAB)?;
            packages::ensure_present(&packages::BENCH)?;
            built.extend(scenario::PACKAGES);
        }
        Bench::Relay { .. } => {
            packages::ensure_present(&packages::LAB)?;
            packages::ensure_present(&packages::BENCH_RELAY)?;
            built.push(RELAY);
        }
        Bench::Allocations { .. } => {}
    }
    let built = cargo::build("release", &built)?;
    if let Bench::Relay { .. } = arguments.bench {
        ebpf::build_load_if_possible(&built)?;
    }

    let mut command = std::process::Command::new(built.join(PACKAGE));
    command.args(arguments.bench.words()).env("CONNLIB_BIN_DIR", &built);
    cargo::run(&mut command)
}

impl Bench {
    /// What the program that measures is told.
    fn words(&self) -> Vec<OsString> {
        let mut words = Words::default();
        match self {
            Self::Tunnel { table, selection, streams, rounds, behind_gateway } => {
                words.word("tunnel");
                words.table(table);
                words.selection(selection);
                words.options("--streams", streams);
                words.options("--rounds", rounds);
                words.flag("--behind-gateway", *behind_gateway);
            }
            Self::Idle { table, selection, settle, check } => {
                words.word("idle");
                words.table(table);
                words.selection(selection);
                words.options("--settle", settle);
                words.flag("--check", *check);
            }
            Self::Relay {
                table,
                selection,
                rounds,
                load,
                flows,
                payload,
                run,
                direction,
                allocations,
            } => {
                words.word("relay");
                words.table(table);
                words.selection(selection);
                words.options("--rounds", rounds);
                words.options("--load", load);
                words.options("--flows", flows);
                words.options("--payload", payload);
                words.options("--run", run);
                words.options("--direction", direction);
                words.options("--allocations", allocations);
            }
            Self::Allocations { table, packets } => {
                words.word("allocations");
                words.table(table);
                words.options("--packets", packets);
            }
        }
        words.0
    }
}

#[derive(Debug, Default)]
struct Words(Vec<OsString>);

impl Words {
    fn word(&mut self, word: &str) {
        self.0.push(word.into());
    }

    fn flag(&mut self, name: &str, is_set: bool) {
        if is_set {
            self.word(name);
        }
    }

    fn options<T: ToString>(&mut self, name: &str, values: impl IntoIterator<Item = T>) {
        for value in values {
            self.word(name);
            self.word(&value.to_string());
        }
    }

    fn table(&mut self, Table { json }: &Table) {
        self.flag("--json", *json);
    }

    fn selection(&mut self, Selection { only, seconds }: &Selection) {
        self.options("--only", only);
        self.options("--seconds", seconds);
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

    fn words(line: &str) -> String {
        let words = std::iter::once("bench").chain(line.split_whitespace());
        let words = Command::try_parse_from(words).unwrap().arguments.bench.words();
        words.iter().map(|word| word.to_str().unwrap()).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn options_reach_the_program_that_measures() {
        for line in [
            "tunnel --json --only connlib --only tcp --seconds 3 --streams 1 --streams 8 --rounds 2 --behind-gateway",
            "idle --json --only client --seconds 60 --settle 5 --check",
            "relay --json --only coturn --seconds 3 --rounds 2 --load frames --load sockets --flows 4 --payload 160 --run 1 --direction up --allocations 100",
            "allocations --json --packets 2000",
            "tunnel",
            "idle",
            "relay",
            "allocations",
        ] {
            assert_eq!(words(line), line);
        }
        assert_eq!(words("tunnel --streams 1,8"), "tunnel --streams 1 --streams 8");
    }
}
