//! `cargo xtask demo`: the whole path on a small internet, from a web page to a client.

mod interrupt;
mod report;
mod tour;
mod transfer;

use anyhow::Result;
use connlib_e2e::{Binaries, Lab, Scenario, Setup, scenario};

use crate::{cargo, packages};
use interrupt::Interrupt;

/// Build the release binaries and fetch pages through them, on a small internet of namespaces
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Leave everything standing and say how to enter it
    #[arg(long)]
    keep: bool,
    /// Only take down what earlier runs with --keep left standing
    #[arg(long, conflicts_with = "keep")]
    clean: bool,
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    if arguments.clean {
        println!("{} taken down", Lab::clean()?);
        return Ok(());
    }

    let interrupt = Interrupt::watch()?;
    packages::ensure_present(&[packages::COMPILER])?;
    packages::ensure_present(&packages::LAB)?;
    println!("building the release binaries");
    let built = cargo::build_by("release", &scenario::PACKAGES, |command| interrupt.run(command))?;

    println!();
    let lab = Lab::with_binaries(Binaries::in_directory(built))?;
    let site = lab.site();
    site.examine_by_hand();
    interrupt.takes_down(&site);
    let logs = lab.directory().join("logs");

    let outcome = show(lab, arguments.keep);
    interrupt.wait_if_interrupted();
    if outcome.is_err() {
        site.tear_down();
        println!("\ndemo: failed; logs are in {}", logs.display());
    } else {
        println!("\ndemo: ok");
    }
    outcome
}

fn show(lab: Lab, keep: bool) -> Result<()> {
    let scenario =
        report::step("laying out the network", || Scenario::prepare(lab, Setup::default()))?;
    let scenario = tour::tour(scenario)?;
    if keep {
        report::how_to_enter(&scenario);
        return scenario.keep();
    }
    report::step("cleaning up", || scenario.finish())
}
