//! `cargo xtask demo`: the whole path on a small internet, from a web page to a client.

mod interrupt;
mod report;
mod tour;
mod transfer;

use anyhow::Result;
use connlib_e2e::{Binaries, Lab, Nat, Scenario, Setup, scenario, topology::Options};

use crate::{cargo, packages};
use interrupt::Interrupt;

/// Build the release binaries and fetch pages through them, on a small internet of namespaces
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Leave everything standing and say how to enter it
    #[arg(long)]
    keep: bool,
    /// Routers that leave no direct path: everything goes through a relay
    #[arg(long)]
    relayed: bool,
    /// Only take down what earlier runs with --keep left standing
    #[arg(long, conflicts_with_all = ["keep", "relayed"])]
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

    let outcome = show(lab, arguments);
    interrupt.wait_if_interrupted();
    if outcome.is_err() {
        site.tear_down();
        println!("\ndemo: failed; logs are in {}", logs.display());
    } else {
        println!("\ndemo: ok");
    }
    outcome
}

fn show(lab: Lab, arguments: &Arguments) -> Result<()> {
    // No peer can guess the ports of a symmetric one.
    let nat = if arguments.relayed { Nat::Symmetric } else { Nat::Masquerade };
    let network = Options { nat, gateway_nat: Some(nat), relays: 1, ..Options::default() };
    let scenario =
        report::step("laying out the network", || Scenario::prepare(lab, Setup::on(network)))?;
    let scenario = tour::tour(scenario, arguments.relayed)?;
    if arguments.keep {
        report::how_to_enter(&scenario);
        return scenario.keep();
    }
    report::step("cleaning up", || scenario.finish())
}
