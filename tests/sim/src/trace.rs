//! What happened in a run: a fingerprint always, and lines to read if they are wanted.

use std::collections::VecDeque;
use std::fmt;
use std::time::{Duration, Instant};

/// Lines that are kept to be shown when a run fails.
const MAX_LINES: usize = 400;

/// The record of a run. Nothing in it depends on random bits that no seed controls, like ephemeral keys and the
/// transaction ids of STUN.
#[derive(Debug)]
pub(crate) struct Trace {
    start: Instant,
    fingerprint: u64,
    lines: Option<VecDeque<String>>,
    follow: bool,
}

impl Trace {
    pub(crate) fn new(start: Instant) -> Self {
        let follow = std::env::var_os("CONNLIB_SIM_TRACE").is_some();
        let lines = (follow || std::env::var_os("CONNLIB_SIM_SEED").is_some()).then(VecDeque::new);
        Self { start, fingerprint: 0xcbf2_9ce4_8422_2325, lines, follow }
    }

    /// Two runs with the same one took the same course.
    pub(crate) fn fingerprint(&self) -> u64 {
        self.fingerprint
    }

    pub(crate) fn start(&self) -> Instant {
        self.start
    }

    /// How long the run has taken so far.
    pub(crate) fn since_start(&self, now: Instant) -> Duration {
        now - self.start
    }

    /// Notes that something happened: numbers that say what, and the same for people.
    pub(crate) fn note(&mut self, now: Instant, what: &[u64], line: impl FnOnce() -> String) {
        let at = self.since_start(now);
        for number in what.iter().chain(&[at.as_nanos() as u64]) {
            for byte in number.to_le_bytes() {
                self.fingerprint =
                    (self.fingerprint ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3);
            }
        }
        if let Some(lines) = &mut self.lines {
            if lines.len() == MAX_LINES {
                lines.pop_front();
            }
            let line = format!("{:>10.4}  {}", at.as_secs_f64(), line());
            if self.follow {
                println!("{line}");
            }
            lines.push_back(line);
        }
    }
}

impl fmt::Display for Trace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.lines.iter().flatten().try_for_each(|line| writeln!(f, "{line}"))
    }
}
