//! Throughput, CPU, memory and delay of all subjects, side by side.
//!
//! All subjects stand at the same time, each on its own network. For each case, each round measures every subject once,
//! one after the other, so that what changes about the machine meanwhile changes for all. A row is the median of the
//! rounds; the peak of memory is the largest.

mod case;
mod iperf3;
mod measure;
mod report;
mod selection;

use std::time::Duration;

use anyhow::{Result, ensure};
use connlib_e2e::Lab;
use connlib_interop::tools;

use self::{
    case::Case,
    iperf3::Load,
    measure::{Sample, measure},
    report::{Report, Row},
    selection::Selection,
};
use crate::{
    lab, machine,
    subject::{PACKAGES, Place, Program, Standing, Subject},
};

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Print one JSON object a line instead of a table
    #[arg(long)]
    json: bool,
    /// Measure only this: a part of a subject's name, `tcp`, `udp`, `up` or `down`; may be given several times
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    only: Vec<String>,
    /// How long each measurement takes
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    seconds: u32,
    /// How many connections at once, one row each
    #[arg(long, value_name = "NUMBER", value_delimiter = ',', default_values_t = [1, 8])]
    streams: Vec<u32>,
    /// How often each measurement is repeated; the medians count
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Talk to a server one cable behind the gateway, which forwards and masquerades for all subjects alike
    #[arg(long)]
    behind_gateway: bool,
}

/// One subject in one case, round after round.
#[derive(Debug, Default)]
struct Series {
    load: Option<Load>,
    samples: Vec<Sample>,
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let selection = Selection::parse(&arguments.only)?;
    let cases = Case::all(&arguments.streams);
    let cases: Vec<Case> = cases.into_iter().filter(|case| selection.has_case(case)).collect();
    let place = if arguments.behind_gateway { Place::BehindGateway } else { Place::OnGateway };
    let duration = Duration::from_secs(arguments.seconds.into());

    for tool in [tools::IPERF3, tools::PING, tools::IP, tools::NFT] {
        tool.ensure_present()?;
    }
    let programs = programs(&selection);
    ensure!(!programs.is_empty(), "nothing is left to measure");
    let with_ours = programs.iter().any(|(subject, _)| *subject == Subject::Connlib);
    let lab = lab::open(if with_ours { &PACKAGES } else { &[] })?;
    let (subjects, mut failures) = set_up(&lab, &programs, place);

    machine::warn_if_busy();
    let report = Report::new(arguments.json);
    report.explain(&subjects, place, duration, arguments.rounds);
    for case in &cases {
        let mut all: Vec<Series> = subjects.iter().map(|_| Series::default()).collect();
        for _ in 0..arguments.rounds {
            for (standing, series) in subjects.iter().zip(&mut all) {
                if let Err(error) = series.extend(standing, case, duration) {
                    failures += 1;
                    eprintln!("failed: {}, {case}: {error:#}", standing.subject);
                }
            }
        }
        let rows = subjects.iter().zip(&all);
        let rows =
            rows.filter_map(|(standing, series)| Row::new(standing.subject, case, &series.samples));
        report.add(&rows.collect::<Vec<_>>());
    }
    drop(subjects);
    lab::close(lab, failures > 0)?;
    ensure!(failures == 0, "{failures} of the measurements failed");
    Ok(())
}

impl Series {
    /// Measures once more, with the same load as before.
    fn extend(&mut self, standing: &Standing, case: &Case, duration: Duration) -> Result<()> {
        let load = match self.load {
            Some(load) => load,
            None => *self.load.insert(Load::find(standing, case)?),
        };
        self.samples.push(measure(standing, case, load, duration)?);
        Ok(())
    }
}

/// The subjects that are wanted and can be had. The others are named on standard error.
fn programs(selection: &Selection) -> Vec<(Subject, Program)> {
    let wanted = Subject::ALL.into_iter().filter(|subject| selection.has_subject(*subject));
    let mut programs = Vec::new();
    for subject in wanted {
        match Program::of(subject) {
            Ok(program) => programs.push((subject, program)),
            Err(error) => eprintln!("skipped: {subject}: {error:#}"),
        }
    }
    programs
}

/// Sets up what can be, and counts what of ours cannot. Others' programs that do not start are skipped.
fn set_up(lab: &Lab, programs: &[(Subject, Program)], place: Place) -> (Vec<Standing>, usize) {
    let mut subjects = Vec::new();
    let mut failures = 0;
    for (subject, program) in programs {
        match Standing::set_up(lab, *subject, program, place) {
            Ok(standing) => subjects.push(standing),
            Err(error) if *subject == Subject::Connlib => {
                failures += 1;
                eprintln!("failed: {subject}: {error:#}");
            }
            Err(error) => eprintln!("skipped: {subject}: {error:#}"),
        }
    }
    (subjects, failures)
}
