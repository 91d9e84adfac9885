//! One measurement of one subject.

use std::{thread, time::Duration};

use anyhow::{Result, anyhow};

use super::{
    case::Case,
    iperf3::{self, Load},
};
use crate::{machine, process, subject::Standing};

/// What came out of one measurement.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Sample {
    /// Received payload.
    pub(super) gbit_per_s: f64,
    /// CPU time of the tunnel's processes at both ends.
    pub(super) cpu_s_per_gb: f64,
    /// CPU time of the whole machine, iperf3 and kernel included.
    pub(super) machine_cpu_s_per_gb: f64,
    /// Of the end that needed more.
    pub(super) peak_rss_mib: f64,
    /// Medians. None if no ping was answered.
    pub(super) rtt_ms_idle: Option<f64>,
    pub(super) rtt_ms_loaded: Option<f64>,
    /// UDP datagrams that were sent and not received, in percent.
    pub(super) lost_percent: Option<f64>,
}

/// Puts `load` on the subject for so long and looks at what it takes.
pub(super) fn measure(
    subject: &Standing,
    case: &Case,
    load: Load,
    duration: Duration,
) -> Result<Sample> {
    let rtt_ms_idle = median_round_trip(subject, Duration::from_millis(800))?;

    subject.processes().for_each(process::reset_peak_memory);
    let cpu_before = cpu_time(subject)?;
    let machine_before = machine::cpu_time()?;
    let (transfer, rtt_ms_loaded) = thread::scope(|scope| {
        let pings = scope.spawn(|| {
            // Connections need a moment to get up to speed.
            let start = duration / 5;
            thread::sleep(start);
            median_round_trip(subject, (duration - start).mul_f64(0.9))
        });
        let transfer = iperf3::run(subject, case, load, duration);
        let pings = pings.join().map_err(|_| anyhow!("the thread of ping panicked"));
        (transfer, pings)
    });
    let (transfer, rtt_ms_loaded) = (transfer?, rtt_ms_loaded??);
    let cpu = cpu_time(subject)? - cpu_before;
    let machine_cpu = machine::cpu_time()? - machine_before;

    let peaks = subject.processes().map(process::peak_memory).collect::<Result<Vec<_>>>()?;
    let peak = peaks.into_iter().max().unwrap_or(0);
    Ok(Sample {
        gbit_per_s: transfer.gbit_per_s,
        cpu_s_per_gb: cpu.as_secs_f64() / transfer.gigabytes,
        machine_cpu_s_per_gb: machine_cpu.as_secs_f64() / transfer.gigabytes,
        peak_rss_mib: peak as f64 / f64::from(1 << 20),
        rtt_ms_idle,
        rtt_ms_loaded,
        lost_percent: transfer.lost_percent,
    })
}

fn cpu_time(subject: &Standing) -> Result<Duration> {
    subject.processes().map(process::cpu_time).sum()
}

/// The median time of pings through the subject for so long, in milliseconds.
fn median_round_trip(subject: &Standing, duration: Duration) -> Result<Option<f64>> {
    const INTERVAL: Duration = Duration::from_millis(20);
    let count = (duration.as_secs_f64() / INTERVAL.as_secs_f64()).ceil().max(1.0);
    let interval = INTERVAL.as_secs_f64().to_string();
    let pings = subject.ping(&["-i", &interval, "-c", &count.to_string(), "-W", "1"])?;
    let mut times: Vec<f64> = round_trips(&String::from_utf8_lossy(&pings.stdout)).collect();
    Ok(median(&mut times))
}

fn round_trips(pings: &str) -> impl Iterator<Item = f64> {
    pings.lines().filter_map(|line| {
        let (_, time) = line.split_once("time=")?;
        time.split_whitespace().next()?.parse().ok()
    })
}

/// The middle one, or the mean of the two in the middle.
pub(super) fn median(values: &mut [f64]) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let upper = *values.get(values.len() / 2)?;
    let lower = values[(values.len() - 1) / 2];
    Some((lower + upper) / 2.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_answered_pings_have_a_time() {
        let pings = "PING 10.20.0.1 (10.20.0.1) 56(84) bytes of data.
64 bytes from 10.20.0.1: icmp_seq=1 ttl=64 time=0.250 ms
From 10.20.0.9 icmp_seq=2 Destination Host Unreachable
64 bytes from 10.20.0.1: icmp_seq=3 ttl=64 time=12 ms

--- 10.20.0.1 ping statistics ---
3 packets transmitted, 2 received, 33% packet loss, time 40ms
rtt min/avg/max/mdev = 0.250/6.1/12/1 ms
";
        assert_eq!(round_trips(pings).collect::<Vec<_>>(), [0.25, 12.0]);
    }

    #[test]
    fn the_median_is_the_middle() {
        assert_eq!(median(&mut [3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(&mut [4.0, 1.0, 2.0, 3.0]), Some(2.5));
        assert_eq!(median(&mut []), None);
    }
}
