//! Figures of the relay while it works, as it tells them itself and as `/proc` does.

use std::{
    collections::BTreeMap,
    fs,
    io::{Read as _, Write as _},
    net::TcpStream,
    time::Duration,
};

use anyhow::{Context as _, Result};
use connlib_e2e::Namespace;
use serde::Serialize;

use super::tally::Tally;
use crate::process;

/// Where the relay tells its numbers.
pub(super) const HEALTH: &str = "127.0.0.1:8080";
const PATIENCE: Duration = Duration::from_secs(10);

/// Figures of one moment. Counts of the load are since the start.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Sample {
    /// Since the start of the load.
    pub(super) seconds: f64,
    /// Of the relay: memory in use, and the most there was.
    pub(super) rss_bytes: u64,
    pub(super) peak_bytes: u64,
    pub(super) open_files: usize,
    pub(super) allocations: u64,
    pub(super) channels: u64,
    pub(super) streams: u64,
    /// Processor time of the relay since its start.
    pub(super) cpu_seconds: f64,
    /// Datagrams that the XDP program relayed.
    pub(super) xdp_packets: u64,
    /// What came to nothing at the relay, by reason.
    pub(super) drops: BTreeMap<String, u64>,
    pub(super) sessions: u64,
    pub(super) returns: u64,
    pub(super) vanished: u64,
    pub(super) strangers: u64,
    pub(super) renewals: u64,
    pub(super) sent: u64,
    pub(super) received: u64,
    pub(super) damaged: u64,
    pub(super) failures: u64,
}

impl Sample {
    pub(super) fn take(relay: &Namespace, id: u32, tally: &Tally, since: Duration) -> Result<Self> {
        let metrics = relay.enter(read_metrics)?.context("the relay does not tell its numbers")?;
        let sum = |name| sum(&metrics, name, "");
        Ok(Self {
            seconds: since.as_secs_f64(),
            rss_bytes: process::resident_memory(id)?,
            peak_bytes: process::peak_memory(id)?,
            open_files: fs::read_dir(format!("/proc/{id}/fd"))?.count(),
            allocations: sum("allocations"),
            channels: sum("channels"),
            streams: sum("streams"),
            cpu_seconds: process::cpu_time(id)?.as_secs_f64(),
            xdp_packets: self::sum(&metrics, "relayed_packets_total", "datapath=\"xdp\""),
            drops: drops(&metrics),
            sessions: tally.sessions.value(),
            returns: tally.returns.value(),
            vanished: tally.vanished.value(),
            strangers: tally.strange.value(),
            renewals: tally.renewals.value(),
            // In this order: what is under way counts as lost, not as gained.
            received: tally.received.value(),
            sent: tally.sent.value(),
            damaged: tally.damaged.value(),
            failures: tally.failures(),
        })
    }

    /// Whether nothing of any client is left.
    pub(super) fn is_empty(&self) -> bool {
        self.allocations == 0 && self.channels == 0 && self.streams == 0
    }

    /// For people. Rates are those since `before`.
    pub(super) fn line(&self, before: Option<&Self>) -> String {
        let (seconds, cpu, packets) = before.map_or((self.seconds, 0.0, 0), |before| {
            let seconds = self.seconds - before.seconds;
            (seconds, self.cpu_seconds - before.cpu_seconds, self.received - before.received)
        });
        format!(
            "{:>6.0} {:>8.2} {:>8.2} {:>6} {:>6} {:>6} {:>6} {:>6.1} {:>8.0} {:>9} {:>9} {:>9} {:>7} {:>7} {:>7}",
            self.seconds,
            mib(self.rss_bytes),
            mib(self.peak_bytes),
            self.open_files,
            self.allocations,
            self.channels,
            self.streams,
            cpu / seconds.max(0.001) * 100.0,
            packets as f64 / seconds.max(0.001),
            self.sessions,
            self.vanished,
            self.strangers,
            self.sent - self.received,
            self.damaged,
            self.failures,
        )
    }
}

pub(super) const HEADINGS: &str = "     s  RSS MiB     peak  files alloc. chann. stream  CPU %  echoes/s  sessions  vanished strangers missing damaged failures";

pub(super) fn mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

fn read_metrics() -> Result<String> {
    let mut stream = TcpStream::connect(HEALTH)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    write!(stream, "GET /metrics HTTP/1.1\r\nHost: relay\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

/// The sum of a metric's samples, of those that contain `label`.
fn sum(metrics: &str, name: &str, label: &str) -> u64 {
    let name = format!("connlib_relay_{name}");
    let of_metric = metrics.lines().filter(|line| line.split(['{', ' ']).next() == Some(&name));
    let values = of_metric.filter(|line| line.contains(label));
    values.filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok()).sum()
}

fn drops(metrics: &str) -> BTreeMap<String, u64> {
    let of_metric = metrics.lines().filter_map(|line| {
        let sample = line.strip_prefix("connlib_relay_drops_total{reason=\"")?;
        let (reason, count) = sample.split_once("\"} ")?;
        Some((reason.to_owned(), count.parse().ok()?))
    });
    of_metric.filter(|(_, count)| *count > 0).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metrics_are_summed_by_name_and_label() {
        let text = "# HELP connlib_relay_streams TCP\n\
                    connlib_relay_streams{worker=\"0\"} 2\n\
                    connlib_relay_streams{worker=\"1\"} 3\n\
                    connlib_relay_streams_accepted_total 70\n";
        assert_eq!(sum(text, "streams", ""), 5);
        assert_eq!(sum(text, "streams", "worker=\"1\""), 3);
        assert_eq!(sum(text, "streams_accepted_total", ""), 70);
    }

    #[test]
    fn drops_have_reasons() {
        let text = "connlib_relay_drops_total{reason=\"no_permission\"} 3\n\
                    connlib_relay_drops_total{reason=\"stream_full\"} 0\n";
        assert_eq!(drops(text), BTreeMap::from([("no_permission".to_owned(), 3)]));
    }
}
