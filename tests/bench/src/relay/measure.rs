//! One measurement of one relay.

use std::time::Duration;

use anyhow::{Context as _, Result};

use super::{
    latency::{Latency, Probe},
    load::{Kind, Load, Shape, highest_rate},
    subject::Standing,
};
use crate::process;

/// Of a rate that a relay is said to carry, this much may be lost.
const TOLERABLE_LOSS: f64 = 0.01;
/// And this much has to be offered indeed.
const EFFORT: f64 = 0.97;
/// What is measured with, of the highest rate: trials are short, and luck may have been with them.
const RESERVE: f64 = 0.9;
const TRIAL: Duration = Duration::from_millis(300);
const LATENCY_TIME: Duration = Duration::from_secs(1);

/// What came out of one measurement.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Sample {
    pub(super) packets_per_s: f64,
    pub(super) cpu: Cpu,
    pub(super) packets: u64,
    pub(super) loss: f64,
    pub(super) relayed: Latency,
    pub(super) direct: Latency,
}

/// CPU time for a relay.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Cpu {
    /// Of its process, with what the kernel does in its name: it sends.
    pub(super) process: Duration,
    /// Of the threads in which the kernel receives for it.
    pub(super) kernel: Duration,
}

/// A relay and the load for it, round after round.
pub(super) struct Series {
    pub(super) kind: Kind,
    load: Box<dyn Load>,
    probe: Probe,
    /// Found in the first round.
    rate: Option<f64>,
    /// Whether a higher rate could not be made, rather than not be carried.
    pub(super) is_bounded_by_load: bool,
    pub(super) samples: Vec<Sample>,
}

impl Series {
    pub(super) fn set_up(standing: &Standing, kind: Kind, shape: Shape) -> Result<Self> {
        Ok(Self {
            kind,
            load: kind.set_up(&standing.network, shape)?,
            probe: Probe::set_up(&standing.network, shape.payload)?,
            rate: None,
            is_bounded_by_load: false,
            samples: Vec::new(),
        })
    }

    /// Measures once more.
    pub(super) fn extend(&mut self, standing: &Standing, duration: Duration) -> Result<()> {
        self.load.refresh().context("the relay forgot its clients")?;
        let direct = self.probe.direct(LATENCY_TIME).context("without the relay")?;
        let relayed = self.probe.relayed(LATENCY_TIME)?;

        let rate = match self.rate {
            Some(rate) => rate,
            None => self.find_rate()? * RESERVE,
        };
        self.rate = Some(rate);
        let before = Cpu::of(standing)?;
        let transfer = self.load.run(rate, duration)?;
        let cpu = Cpu::of(standing)?.since(before);
        self.samples.push(Sample {
            packets_per_s: transfer.packets_per_s(),
            cpu,
            packets: transfer.received,
            loss: transfer.loss(),
            relayed,
            direct,
        });
        Ok(())
    }

    fn find_rate(&mut self) -> Result<f64> {
        let (load, is_bounded) = (&mut self.load, &mut self.is_bounded_by_load);
        highest_rate(|rate| {
            let transfer = load.run(rate, TRIAL)?;
            let is_made = transfer.effort >= EFFORT;
            let is_carried = transfer.loss() <= TOLERABLE_LOSS;
            if !(is_made && is_carried) {
                // The last one that fails is the lowest.
                *is_bounded = is_carried;
            }
            Ok(is_made && is_carried)
        })
    }
}

impl Cpu {
    fn of(standing: &Standing) -> Result<Self> {
        let threads = &standing.network.kernel_threads;
        let kernel = threads.iter().map(|thread| process::cpu_time(*thread)).sum::<Result<_>>()?;
        Ok(Self { process: process::cpu_time(standing.process())?, kernel })
    }

    fn since(self, earlier: Self) -> Self {
        Self {
            process: self.process.saturating_sub(earlier.process),
            kernel: self.kernel.saturating_sub(earlier.kernel),
        }
    }

    pub(super) fn total(self) -> Duration {
        self.process + self.kernel
    }
}
