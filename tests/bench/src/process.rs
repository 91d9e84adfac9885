//! What a running process has used so far, as `/proc` tells.

use std::{collections::BTreeMap, fs, time::Duration};

use anyhow::{Context as _, Result};
use nix::{time::clock_getcpuclockid, unistd::Pid};

/// User and system time of all threads, those that have ended included.
pub(crate) fn cpu_time(process: u32) -> Result<Duration> {
    let clock = clock_getcpuclockid(Pid::from_raw(process.cast_signed()))
        .with_context(|| format!("process {process} is gone"))?;
    Ok(clock.now()?.into())
}

/// Memory in use now, in bytes.
pub(crate) fn resident_memory(process: u32) -> Result<u64> {
    memory(process, "VmRSS")
}

/// The most memory in use at once, in bytes, since the start or the last [`reset_peak_memory`].
pub(crate) fn peak_memory(process: u32) -> Result<u64> {
    memory(process, "VmHWM")
}

/// Has [`peak_memory`] start anew. Where the kernel cannot do that, it goes on since the start.
pub(crate) fn reset_peak_memory(process: u32) {
    drop(fs::write(format!("/proc/{process}/clear_refs"), "5"));
}

/// How often a thread has left its processor.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Switches {
    /// To wait for something: it was woken up before, or started.
    pub(crate) voluntary: u64,
    /// Because others wanted it too.
    pub(crate) involuntary: u64,
}

/// The switches of each thread so far.
pub(crate) fn switches(process: u32) -> Result<BTreeMap<u32, Switches>> {
    let directory = format!("/proc/{process}/task");
    let mut switches = BTreeMap::new();
    for entry in fs::read_dir(&directory).with_context(|| format!("process {process} is gone"))? {
        let entry = entry?;
        // A thread may end while we look.
        let Ok(status) = fs::read_to_string(entry.path().join("status")) else { continue };
        let Some(thread) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        let count = |key| number(&status, key).unwrap_or(0);
        let voluntary = count("voluntary_ctxt_switches");
        let involuntary = count("nonvoluntary_ctxt_switches");
        switches.insert(thread, Switches { voluntary, involuntary });
    }
    Ok(switches)
}

/// The switches between two looks. Those of threads that ended in between are missing.
pub(crate) fn switches_between(
    before: &BTreeMap<u32, Switches>,
    after: &BTreeMap<u32, Switches>,
) -> Switches {
    after.iter().fold(Switches::default(), |sum, (thread, now)| {
        let earlier = before.get(thread).copied().unwrap_or_default();
        Switches {
            voluntary: sum.voluntary + now.voluntary.saturating_sub(earlier.voluntary),
            involuntary: sum.involuntary + now.involuntary.saturating_sub(earlier.involuntary),
        }
    })
}

fn memory(process: u32, key: &str) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{process}/status"))
        .with_context(|| format!("process {process} is gone"))?;
    let kibibytes =
        number(&status, key).with_context(|| format!("process {process} has no {key}"))?;
    Ok(kibibytes * 1024)
}

/// The number behind `key` in a file of lines `key: number`.
fn number(status: &str, key: &str) -> Option<u64> {
    let value = status.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'))?;
    value.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use std::{hint, sync::mpsc, thread};

    use super::*;

    #[test]
    fn peak_memory_remembers_what_resident_memory_forgets() {
        let own = std::process::id();
        reset_peak_memory(own);
        let before = peak_memory(own).unwrap();
        drop(hint::black_box(vec![1_u8; 64 << 20]));
        assert!(peak_memory(own).unwrap() > before + (48 << 20));
        assert!(resident_memory(own).unwrap() < before + (48 << 20));
    }

    #[test]
    fn a_thread_that_waits_is_switched_from() {
        let own = std::process::id();
        let (question, questions) = mpsc::channel::<()>();
        let (answer, answers) = mpsc::channel();
        let echo = thread::spawn(move || questions.iter().all(|()| answer.send(()).is_ok()));
        let before = switches(own).unwrap();
        for _ in 0..100 {
            question.send(()).unwrap();
            answers.recv().unwrap();
        }
        let after = switches(own).unwrap();
        assert!(switches_between(&before, &after).voluntary >= 50);
        drop(question);
        echo.join().unwrap();
    }

    #[test]
    fn new_threads_count_from_zero_and_ended_ones_not_at_all() {
        let switches = |voluntary, involuntary| Switches { voluntary, involuntary };
        let before = BTreeMap::from([(1, switches(10, 1)), (2, switches(50, 5))]);
        let after = BTreeMap::from([(1, switches(13, 2)), (3, switches(4, 3))]);
        assert_eq!(switches_between(&before, &after), switches(7, 4));
    }

    #[test]
    fn work_takes_time() {
        let own = std::process::id();
        let before = cpu_time(own).unwrap();
        hint::black_box((0..100_000_u64).fold(0, |sum, number| hint::black_box(sum ^ number)));
        assert!(cpu_time(own).unwrap() > before);
    }
}
