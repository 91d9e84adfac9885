//! `cargo xtask test`: everything that must hold.

use std::{
    process::{Command, ExitCode, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Result, bail, ensure};
use clap::ValueEnum;
use connlib_e2e::scenario;

use crate::{
    cargo::{self, cargo},
    ebpf, packages,
};

/// Run everything that must hold: format, lints, docs, tests, dependencies
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Run only this part; may be given several times
    #[arg(long, value_name = "NAME")]
    only: Vec<Part>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Part {
    /// The code is formatted
    Format,
    /// The relay's XDP program builds; the tests after this have it
    Ebpf,
    /// Clippy has nothing to say
    Lints,
    /// The documentation builds without a warning
    Docs,
    /// Tests that need nothing but the code
    Unit,
    /// Client and gateway on a simulated network
    Simulation,
    /// The real binaries in network namespaces
    Namespaces,
    /// Our WireGuard, relay and TURN client beside those of others
    Interop,
    /// Licences, duplicates and sources of what we depend on
    Dependencies,
}

/// Crates whose tests are parts of their own.
const SIMULATION: &str = "connlib-sim";
const NAMESPACES: &str = "connlib-e2e";
const INTEROP: &str = "connlib-interop";
const RELAY: &str = "connlib-relay";
/// Optimized, because the tests move data; the demo builds the same.
const NAMESPACES_PROFILE: &str = "release";

/// What may be built by one command: some tests need WireGuard with a clock that is not real, and features unify.
const BUILT_TOGETHER: [&[&str]; 2] = [
    &["--workspace", "--exclude", SIMULATION],
    &["--package", SIMULATION, "--package", INTEROP, "--features", "connlib-interop/fast-clock"],
];

/// How a part ended, if it did not fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    Passed,
    /// It cannot be had on this machine.
    Skipped,
}

/// Runs the parts one after the other; success is success of all.
pub(crate) fn run(arguments: &Arguments) -> ExitCode {
    let chosen = |part: &Part| arguments.only.is_empty() || arguments.only.contains(part);
    let parts: Vec<Part> = Part::value_variants().iter().copied().filter(chosen).collect();

    let start = Instant::now();
    let mut outcomes = Vec::new();
    for (index, part) in parts.iter().enumerate() {
        println!("\n[{}/{}] {}", index + 1, parts.len(), part.name());
        let part_start = Instant::now();
        let result = part.run();
        if let Err(error) = &result {
            println!("{} failed: {error:#}", part.name());
        }
        let word = match result {
            Ok(Outcome::Passed) => "ok",
            Ok(Outcome::Skipped) => "skipped",
            Err(_) => "failed",
        };
        outcomes.push((part.name(), word, part_start.elapsed()));
    }

    println!();
    for (name, word, duration) in &outcomes {
        println!("{name:<14}{word:<8}{}", for_people(*duration));
    }
    println!("{:<22}{}", "total", for_people(start.elapsed()));
    let count = |word: &str| outcomes.iter().filter(|(_, of_part, _)| *of_part == word).count();
    let (failed, skipped) = (count("failed"), count("skipped"));
    let remark = if skipped > 0 { format!(", {skipped} skipped") } else { String::new() };
    println!("{} passed, {failed} failed{remark}", count("ok"));
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

impl Part {
    fn name(self) -> String {
        self.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
    }

    fn run(self) -> Result<Outcome> {
        match self {
            Self::Format => {
                ensure_component("fmt", "rustfmt")?;
                cargo::run(cargo().args(["fmt", "--all", "--check"]))?;
                cargo::run(cargo().args(["fmt", "--check", "--manifest-path", ebpf::MANIFEST]))
            }
            Self::Ebpf => return program(),
            Self::Lints => {
                ensure_component("clippy", "clippy")?;
                packages::ensure_present(&[packages::COMPILER])?;
                for packages in BUILT_TOGETHER {
                    let lint = ["--all-targets", "--", "-Dwarnings"];
                    cargo::run(cargo().arg("clippy").args(packages).args(lint))?;
                }
                Ok(())
            }
            Self::Docs => {
                for packages in BUILT_TOGETHER {
                    let mut document = cargo();
                    document.args(["doc", "--no-deps"]).args(packages);
                    cargo::run(document.env("RUSTDOCFLAGS", "-Dwarnings"))?;
                }
                Ok(())
            }
            Self::Unit => {
                packages::ensure_present(&[packages::COMPILER, packages::CERTIFICATES])?;
                packages::ensure_present(&[packages::COTURN])?;
                // Some of them make a namespace to try system calls in, or lay out a small lab with what runs inside of it.
                packages::ensure_present(&packages::LAB)?;
                packages::ensure_present(&[packages::ETHTOOL])?;
                cargo::run(cargo().args(["build", "--package", NAMESPACES]))?;
                let mut test = cargo();
                test.args(["test", "--workspace", "--no-fail-fast"]);
                for own_part in [SIMULATION, NAMESPACES, INTEROP] {
                    test.args(["--exclude", own_part]);
                }
                cargo::run(&mut test)
            }
            Self::Simulation => cargo::run(cargo().args(["test", "--package", SIMULATION])),
            Self::Namespaces => namespaces(),
            Self::Interop => return interop(),
            Self::Dependencies => dependencies(),
        }
        .map(|()| Outcome::Passed)
    }
}

fn namespaces() -> Result<()> {
    ensure!(packages::is_root(), "network namespaces need root: run this command as root");
    packages::ensure_present(&[packages::COMPILER, packages::DIG])?;
    packages::ensure_present(&packages::LAB)?;
    let built = cargo::build(NAMESPACES_PROFILE, &scenario::PACKAGES)?;
    cargo::run(
        cargo()
            .args(["test", "--no-fail-fast"])
            .args(["--profile", NAMESPACES_PROFILE, "--package", NAMESPACES])
            .env("CONNLIB_BIN_DIR", built),
    )
}

fn program() -> Result<Outcome> {
    let is_built = ebpf::build_if_possible()?;
    Ok(if is_built { Outcome::Passed } else { Outcome::Skipped })
}

fn interop() -> Result<Outcome> {
    ensure!(packages::is_root(), "network namespaces need root: run this command as root");
    if !packages::is_present("go") {
        println!("skipped: wireguard-go and pion come by way of Go, which is not installed here");
        return Ok(Outcome::Skipped);
    }
    packages::ensure_present(&[packages::COMPILER, packages::WIREGUARD_TOOLS, packages::COTURN])?;
    packages::ensure_present(&packages::LAB)?;
    // Where the tests look for it.
    cargo::run(cargo().args(["build", "--package", RELAY]))?;
    let test = ["test", "--no-fail-fast", "--package", INTEROP, "--features", "fast-clock"];
    cargo::run(cargo().args(test))?;
    Ok(Outcome::Passed)
}

fn dependencies() -> Result<()> {
    if !succeeds(cargo().args(["deny", "--version"])) {
        println!("installing with cargo: cargo-deny");
        cargo::run(cargo().args(["install", "--locked", "--quiet", "cargo-deny"]))?;
    }
    cargo::run(cargo().args(["deny", "check", "bans", "licenses", "sources"]))?;
    if succeeds(cargo().args(["deny", "fetch", "db"])) {
        return cargo::run(cargo().args(["deny", "check", "--disable-fetch", "advisories"]));
    }
    println!("advisories were not checked: their database cannot be had from here");
    Ok(())
}

/// Adds a part of the toolchain if it is not there. Rustup may be told not to do so by itself.
fn ensure_component(subcommand: &str, component: &str) -> Result<()> {
    if succeeds(cargo().args([subcommand, "--version"])) {
        return Ok(());
    }
    println!("installing with rustup: {component}");
    let mut rustup = Command::new("rustup");
    rustup.args(["component", "add", component]).current_dir(cargo::root());
    if cargo::run(&mut rustup).is_err() {
        bail!("`cargo {subcommand}` is missing; please install {component}");
    }
    Ok(())
}

fn succeeds(command: &mut Command) -> bool {
    let quiet = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    quiet.status().is_ok_and(|status| status.success())
}

fn for_people(duration: Duration) -> String {
    let seconds = duration.as_secs();
    if seconds < 60 {
        return format!("{:.1} s", duration.as_secs_f64());
    }
    format!("{} min {} s", seconds / 60, seconds % 60)
}
