//! The machine that is measured on.

use std::{fs, time::Duration};

use anyhow::{Context as _, Result};

/// `/proc/stat` counts in units of 1/100 s, whatever the kernel's own clock does.
const TICK: Duration = Duration::from_millis(10);

/// The machine in one line: processor, cores, kernel.
pub(crate) fn description() -> String {
    let processors = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let cores = processors.lines().filter(|line| line.starts_with("processor")).count().max(1);
    let processor = processors
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split_once(": "))
        .map_or("unknown processor", |(_, name)| name);
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    format!("{processor}, {cores} cores, Linux {}", kernel.trim())
}

/// Says on standard error if others use the machine: then figures mean little.
pub(crate) fn warn_if_busy() {
    let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let load = load.split_whitespace().next().and_then(|load| load.parse().ok()).unwrap_or(0.0);
    if load > 0.5 {
        eprintln!(
            "note: the load of this machine is {load:.1}: what else runs on it decides as well"
        );
    }
}

/// CPU time that the whole machine has used since it was started.
pub(crate) fn cpu_time() -> Result<Duration> {
    let stat = fs::read_to_string("/proc/stat").context("cannot read /proc/stat")?;
    busy_ticks(&stat).map(|ticks| TICK * ticks).context("cannot understand /proc/stat")
}

fn busy_ticks(stat: &str) -> Option<u32> {
    let line = stat.lines().next()?.strip_prefix("cpu ")?;
    let ticks: Vec<u32> = line.split_whitespace().map_while(|number| number.parse().ok()).collect();
    // Of the columns, idle and iowait are no work, and guests are part of what stands before them.
    let [user, nice, system, _idle, _iowait, irq, softirq, ..] = ticks[..] else { return None };
    Some(user + nice + system + irq + softirq)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waiting_is_no_work() {
        let stat = "cpu  10 1 20 9999 888 3 4 0 0 0\ncpu0 1 2 3 4 5 6 7 0 0 0\n";
        assert_eq!(busy_ticks(stat), Some(38));
        assert_eq!(busy_ticks("intr 5\n"), None);
    }

    #[test]
    fn this_machine_has_worked() {
        assert!(cpu_time().unwrap() > Duration::ZERO);
    }
}
