//! What our client and gateway cost while nothing happens.

use std::{collections::BTreeMap, thread, time::Duration};

use anyhow::{Context as _, Result, ensure};
use connlib_interop::tools;
use serde::Serialize;

use crate::{
    lab, machine,
    process::{self, Switches},
    subject::{PACKAGES, Place, Program, Standing, Subject},
};

const MAX_RSS_MIB: f64 = 15.0;
const MAX_WAKE_UPS_PER_S: f64 = 1.0;

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Print one JSON object a line instead of a table
    #[arg(long)]
    json: bool,
    /// Measure only this program: a part of `connlib-client` or `connlib-gateway`; may be given several times
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    only: Vec<String>,
    /// How long to watch
    #[arg(long, default_value_t = 120, value_parser = clap::value_parser!(u32).range(1..))]
    seconds: u32,
    /// How long to wait before, after the ping that connects the two
    #[arg(long, value_name = "SECONDS", default_value_t = 5)]
    settle: u32,
    /// Fail if a program needs 15 MiB or more, or wakes up once a second or more
    #[arg(long)]
    check: bool,
}

/// One program over the whole time.
#[derive(Debug, Clone, PartialEq, Serialize)]
struct Row {
    program: &'static str,
    seconds: u32,
    rss_mib: f64,
    wake_ups_per_s: f64,
    preemptions_per_s: f64,
    cpu_ms_per_s: f64,
}

/// A program at one moment.
struct Look {
    switches: BTreeMap<u32, Switches>,
    cpu: Duration,
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    for tool in [tools::PING, tools::IP, tools::NFT] {
        tool.ensure_present()?;
    }
    machine::warn_if_busy();
    let lab = lab::open(&PACKAGES)?;
    let result = measure(&lab, arguments);
    lab::close(lab, result.is_err())?;
    let rows = result?;

    print(&rows, arguments.json)?;
    let over: Vec<&str> =
        rows.iter().filter(|row| row.is_over_limit()).map(|row| row.program).collect();
    ensure!(!arguments.check || over.is_empty(), "over the limit: {}", over.join(", "));
    Ok(())
}

fn measure(lab: &connlib_e2e::Lab, arguments: &Arguments) -> Result<Vec<Row>> {
    let subject = Subject::Connlib;
    let standing = Standing::set_up(lab, subject, &Program::of(subject)?, Place::OnGateway)?;
    let is_wanted = |name: &str| {
        arguments.only.is_empty() || arguments.only.iter().any(|word| name.contains(&**word))
    };
    let programs: Vec<(&str, u32)> = ["connlib-client", "connlib-gateway"]
        .into_iter()
        .zip(standing.processes())
        .filter(|(name, _)| is_wanted(name))
        .collect();
    ensure!(!programs.is_empty(), "there are connlib-client and connlib-gateway");

    thread::sleep(Duration::from_secs(arguments.settle.into()));
    let before = programs.iter().map(|(_, id)| Look::at(*id)).collect::<Result<Vec<_>>>()?;
    eprintln!("watching for {} s", arguments.seconds);
    thread::sleep(Duration::from_secs(arguments.seconds.into()));
    let mut rows = Vec::new();
    for ((program, id), before) in programs.into_iter().zip(before) {
        let after = Look::at(id).with_context(|| format!("{program} did not last"))?;
        rows.push(Row::new(
            program,
            arguments.seconds,
            &before,
            &after,
            process::resident_memory(id)?,
        ));
    }
    Ok(rows)
}

impl Look {
    fn at(process: u32) -> Result<Self> {
        Ok(Self { switches: process::switches(process)?, cpu: process::cpu_time(process)? })
    }
}

impl Row {
    fn new(program: &'static str, seconds: u32, before: &Look, after: &Look, rss: u64) -> Self {
        let switches = process::switches_between(&before.switches, &after.switches);
        let cpu = after.cpu.saturating_sub(before.cpu);
        let per_second = |number: f64| number / f64::from(seconds);
        Self {
            program,
            seconds,
            rss_mib: rss as f64 / f64::from(1 << 20),
            wake_ups_per_s: per_second(switches.voluntary as f64),
            preemptions_per_s: per_second(switches.involuntary as f64),
            cpu_ms_per_s: per_second(cpu.as_secs_f64() * 1000.0),
        }
    }

    fn is_over_limit(&self) -> bool {
        self.rss_mib >= MAX_RSS_MIB || self.wake_ups_per_s >= MAX_WAKE_UPS_PER_S
    }
}

fn print(rows: &[Row], as_json: bool) -> Result<()> {
    if as_json {
        for row in rows {
            println!("{}", serde_json::to_string(row)?);
        }
        return Ok(());
    }
    println!("{}", machine::description());
    println!(
        "One client, connected to one gateway by one ping, then nothing. Wake-ups: how often the threads of a program\n\
         went to sleep. Preempted: how often others took their processor. Limits: {MAX_RSS_MIB} MiB, {MAX_WAKE_UPS_PER_S} wake-up/s.\n"
    );
    println!("program          seconds  RSS MiB  wake-ups/s  preempted/s  CPU ms/s");
    for row in rows {
        println!(
            "{:<15}  {:>7}  {:>7.1}  {:>10.2}  {:>11.2}  {:>8.3}{}",
            row.program,
            row.seconds,
            row.rss_mib,
            row.wake_ups_per_s,
            row.preemptions_per_s,
            row.cpu_ms_per_s,
            if row.is_over_limit() { "  over the limit" } else { "" },
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn look(switches: u64, cpu: Duration) -> Look {
        let switches = Switches { voluntary: switches, involuntary: 0 };
        Look { switches: BTreeMap::from([(1, switches)]), cpu }
    }

    fn row(switches: u64, rss: u64) -> Row {
        let before = look(100, Duration::from_millis(50));
        let after = look(100 + switches, Duration::from_millis(62));
        Row::new("connlib-client", 120, &before, &after, rss)
    }

    #[test]
    fn figures_are_per_second() {
        let row = row(60, 12 << 20);
        assert_eq!((row.rss_mib, row.wake_ups_per_s), (12.0, 0.5));
        assert!((row.cpu_ms_per_s - 0.1).abs() < 1e-9);
    }

    #[test]
    fn both_limits_count() {
        assert!(!row(119, (15 << 20) - 1).is_over_limit());
        assert!(row(120, 1).is_over_limit());
        assert!(row(0, 15 << 20).is_over_limit());
    }
}
