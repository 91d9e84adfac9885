//! What relays carry, at what cost, side by side with coturn.
//!
//! All relays stand at the same time, each on its own [`network`]. Each round measures every one of them once, one after
//! the other, so that what changes about the machine meanwhile changes for all.
//!
//! - [`subject`]: the relays; [`network`]: the cables and processors that they have
//! - [`turn`]: a client's requests; [`load`]: datagrams to be carried, which are [`frames`], made by a [`program`] in the
//!   kernel, or come from [`sockets`]; [`latency`]; [`memory`]
//! - [`mod@measure`]: one round of one relay; [`report`]: what is printed

mod frames;
mod latency;
mod load;
mod measure;
mod memory;
mod network;
mod program;
mod report;
mod sockets;
mod subject;
mod turn;

use std::time::Duration;

use anyhow::{Result, ensure};
use connlib_e2e::Lab;
use connlib_interop::tools;

use self::{
    load::{Direction, Kind, MOST_FLOWS, SMALLEST_PAYLOAD, Shape},
    measure::Series,
    network::Cores,
    report::Row,
    subject::{PACKAGE, Standing, Subject},
};
use crate::{lab, machine};

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Print one JSON object a line instead of a table
    #[arg(long)]
    json: bool,
    /// Measure only this: a part of a relay's name; may be given several times
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    only: Vec<String>,
    /// What the load is made of: frames by default, where they can be made
    #[arg(long, value_enum, value_name = "KIND", value_delimiter = ',')]
    load: Vec<Kind>,
    /// How long each measurement takes
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=200))]
    seconds: u32,
    /// How often each measurement is repeated; the medians count
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Clients, each with a peer of its own
    #[arg(long, value_name = "NUMBER", default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..=i64::from(MOST_FLOWS)))]
    flows: u32,
    /// Bytes that each datagram carries: by default a full packet in WireGuard's wrapping
    #[arg(long, value_name = "BYTES", default_value_t = 1312, value_parser = clap::value_parser!(u32).range(SMALLEST_PAYLOAD as i64..=1400))]
    payload: u32,
    /// Datagrams of a flow that are sent at once, as a sender with segmentation offload does
    #[arg(long, value_name = "NUMBER", default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..=40))]
    run: u32,
    /// Which way the datagrams go
    #[arg(long, value_enum, default_value_t = Direction::Both)]
    direction: Direction,
    /// Allocations to look at the memory with
    #[arg(long, value_name = "NUMBER", default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..=i64::from(memory::MOST)))]
    allocations: u32,
}

/// A relay that is measured.
struct Candidate {
    /// One for each kind of load.
    series: Vec<Series>,
    standing: Standing,
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let subjects = subject::select(&arguments.only)?;
    let kinds = kinds(&arguments.load)?;
    for tool in [tools::IP, tools::ETHTOOL] {
        tool.ensure_present()?;
    }
    machine::warn_if_busy();
    let cores = Cores::part()?;
    memory::allow_open_files(arguments.allocations)?;
    let ours: &[&str] =
        if subjects.iter().any(|subject| subject.is_ours()) { &[PACKAGE] } else { &[] };
    let lab = lab::open(ours)?;
    cores.make_load()?;
    network::go_before_others()?;

    let result = measure(&lab, &cores, &subjects, &kinds, arguments);
    lab::close(lab, result.is_err())?;
    let failures = result?;
    ensure!(failures == 0, "{failures} of the measurements failed");
    Ok(())
}

/// Returns how many measurements failed.
fn measure(
    lab: &Lab,
    cores: &Cores,
    subjects: &[Subject],
    kinds: &[Kind],
    arguments: &Arguments,
) -> Result<usize> {
    let shape = Shape {
        flows: arguments.flows,
        payload: usize::try_from(arguments.payload)?,
        run: usize::try_from(arguments.run)?,
        direction: arguments.direction,
    };
    let duration = Duration::from_secs(arguments.seconds.into());
    let (mut candidates, mut failures) = set_up(lab, cores, subjects, kinds, shape);
    ensure!(!candidates.is_empty(), "nothing is left to measure");

    if !arguments.json {
        let standing: Vec<_> = candidates.iter().map(|candidate| &candidate.standing).collect();
        let repeated = (arguments.rounds, duration);
        report::explain(&standing, kinds, &shape, repeated, arguments.allocations);
    }
    for _ in 0..arguments.rounds {
        for kind in kinds {
            for Candidate { series, standing } in &mut candidates {
                for series in series.iter_mut().filter(|series| series.kind == *kind) {
                    if let Err(error) = series.extend(standing, duration) {
                        failures += 1;
                        eprintln!("failed: {} with {kind:?}: {error:#}", standing.subject);
                    }
                }
            }
        }
    }
    let mut rows = Vec::new();
    for Candidate { series, standing } in &candidates {
        match memory::resident_with(standing, arguments.allocations) {
            Ok(rss) => {
                rows.extend(series.iter().filter_map(|one| Row::new(standing.subject, one, rss)));
            }
            Err(error) => {
                failures += 1;
                eprintln!("failed: {}: {error:#}", standing.subject);
            }
        }
    }
    report::print(&rows, kinds, arguments.json)?;
    Ok(failures)
}

/// Sets up what can be, and counts what of ours cannot. What this machine or this build lacks is skipped.
fn set_up(
    lab: &Lab,
    cores: &Cores,
    subjects: &[Subject],
    kinds: &[Kind],
    shape: Shape,
) -> (Vec<Candidate>, usize) {
    let mut candidates = Vec::new();
    let mut failures = 0;
    for subject in subjects {
        let candidate = Standing::set_up(lab, *subject, cores).and_then(|standing| {
            let series = kinds.iter().map(|kind| Series::set_up(&standing, *kind, shape));
            Ok(Candidate { series: series.collect::<Result<_>>()?, standing })
        });
        match candidate {
            Ok(candidate) => candidates.push(candidate),
            Err(error) if *subject == Subject::Relay => {
                failures += 1;
                eprintln!("failed: {subject}: {error:#}");
            }
            Err(error) => eprintln!("skipped: {subject}: {error:#}"),
        }
    }
    (candidates, failures)
}

/// The kinds of load that are asked for, or else the first that can be made.
fn kinds(asked: &[Kind]) -> Result<Vec<Kind>> {
    let object = program::object();
    if asked.is_empty() {
        return Ok(vec![match object {
            Ok(_) => Kind::Frames,
            Err(error) => {
                eprintln!("the load is made of sockets, as it cannot be of frames: {error:#}");
                Kind::Sockets
            }
        }]);
    }
    if asked.contains(&Kind::Frames) {
        object?;
    }
    Ok(Kind::ALL.into_iter().filter(|kind| asked.contains(kind)).collect())
}
