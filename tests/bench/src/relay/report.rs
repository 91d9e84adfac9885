//! What is printed: a table for people, or one JSON object a line.

use std::time::Duration;

use serde::Serialize;

use super::{
    load::{Kind, Shape},
    measure::{Sample, Series},
    subject::{Standing, Subject},
};
use crate::machine;

/// What the others are compared with.
const REFERENCE: Subject = Subject::Coturn;

const HEADINGS: &str = concat!(
    "subject            packets/s  (lowest-highest)  packets/CPU s  ratio  us/packet  process+kernel  ",
    "loss %  p50 us  p99 us  added us  RSS MiB"
);

/// One relay with one kind of load. The JSON has the fields up to `rss_mib`.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Row {
    subject: &'static str,
    load: Kind,
    packets_per_s: f64,
    packets_per_cpu_s: f64,
    /// Of one, not in percent.
    loss: f64,
    latency_us_p50: f64,
    latency_us_p99: f64,
    rss_mib: f64,
    #[serde(skip)]
    latency_us_added: f64,
    /// CPU time per packet, of the relay's process and of the kernel's threads.
    #[serde(skip)]
    us_per_packet: (f64, f64),
    /// Of the single rounds.
    #[serde(skip)]
    slowest_and_fastest: (f64, f64),
    #[serde(skip)]
    is_bounded_by_load: bool,
}

impl Row {
    /// Sums a series up. None if there is no sample.
    pub(super) fn new(subject: Subject, series: &Series, rss: u64) -> Option<Self> {
        let row = Self::of(subject, series.kind, &series.samples, rss)?;
        Some(Self { is_bounded_by_load: series.is_bounded_by_load, ..row })
    }

    fn of(subject: Subject, load: Kind, samples: &[Sample], rss: u64) -> Option<Self> {
        let all = |value: fn(&Sample) -> f64| -> Vec<f64> { samples.iter().map(value).collect() };
        let middle = |value| median(all(value));
        let speeds = all(|sample| sample.packets_per_s);
        let us_per_packet =
            |time: Duration, packets: u64| time.as_secs_f64() * 1e6 / packets as f64;
        let mut shares: Vec<(f64, f64)> = samples
            .iter()
            .map(|Sample { cpu, packets, .. }| {
                (us_per_packet(cpu.process, *packets), us_per_packet(cpu.kernel, *packets))
            })
            .collect();
        shares.sort_by(|a, b| (a.0 + a.1).total_cmp(&(b.0 + b.1)));
        let us_per_packet = *shares.get(shares.len() / 2)?;
        Some(Self {
            subject: subject.name(),
            load,
            packets_per_s: middle(|sample| sample.packets_per_s)?.round(),
            packets_per_cpu_s: middle(|sample| {
                sample.packets as f64 / sample.cpu.total().as_secs_f64()
            })?
            .round(),
            loss: rounded(middle(|sample| sample.loss)?, 1e5),
            latency_us_p50: rounded(middle(|sample| sample.relayed.us_p50)?, 10.0),
            latency_us_p99: rounded(middle(|sample| sample.relayed.us_p99)?, 10.0),
            rss_mib: rounded(rss as f64 / f64::from(1 << 20), 10.0),
            latency_us_added: middle(|sample| sample.relayed.us_p50 - sample.direct.us_p50)?,
            us_per_packet,
            slowest_and_fastest: (
                speeds.iter().copied().reduce(f64::min)?,
                speeds.iter().copied().reduce(f64::max)?,
            ),
            is_bounded_by_load: false,
        })
    }

    fn line(&self, reference: Option<&Self>) -> String {
        let ratio = reference.map(|other| self.packets_per_cpu_s / other.packets_per_cpu_s);
        let (slowest, fastest) = self.slowest_and_fastest;
        let (process, kernel) = self.us_per_packet;
        format!(
            "{:<17}  {:>9}  {:>16}  {:>13.0}  {:>5}  {:>9.2}  {:>14}  {:>6.2}  {:>6.0}  {:>6.0}  {:>8.0}  {:>7.1}",
            self.subject,
            format!("{}{:.0}", if self.is_bounded_by_load { ">" } else { "" }, self.packets_per_s),
            format!("({slowest:.0}-{fastest:.0})"),
            self.packets_per_cpu_s,
            ratio.map_or_else(|| "-".to_owned(), |ratio| format!("{ratio:.2}")),
            process + kernel,
            format!("{process:.2}+{kernel:.2}"),
            self.loss * 100.0,
            self.latency_us_p50,
            self.latency_us_p99,
            self.latency_us_added,
            self.rss_mib,
        )
    }
}

/// Says on top of a table what was measured and how.
pub(super) fn explain(
    subjects: &[&Standing],
    kinds: &[Kind],
    shape: &Shape,
    (rounds, duration): (u32, Duration),
    allocations: u32,
) {
    let Shape { flows, payload, run, direction } = shape;
    println!("{}", machine::description());
    println!(
        "{flows} clients, each with an allocation and a channel to a peer of its own; {payload} bytes of payload, {direction:?};\n\
         runs of {run} datagrams of a flow. Clients, relay and peers in three network namespaces, two veth cables, which behave\n\
         as network cards do: datagrams cross them one by one, and the kernel receives in threads. One processor is the relay's\n\
         and its kernel threads'; all others are clients' and peers'. The load is made of:"
    );
    for kind in kinds {
        println!("  {:<17}  {}", kind.to_string(), kind.description());
    }
    println!("Medians of {rounds} rounds of {duration:?}, the relays in turn:");
    for standing in subjects {
        println!("  {:<17}  {}", standing.subject.name(), standing.subject.description());
    }
    println!(
        "packets/s: datagrams that arrived, at nine tenths of the highest rate of which no more than 1 % was lost in trials\n\
         (>: a higher one could not be made). CPU: the relay's process, which sends, and the kernel's threads that receive for\n\
         it, in the place of soft interrupts. ratio: packets per CPU second, to {REFERENCE}. p50, p99: a datagram's time from\n\
         client to peer, 1000 a second and nothing else; added: to what it takes on the same cables if the relay's kernel\n\
         forwards, medians; always of sockets. RSS: with {allocations} allocations more."
    );
}

pub(super) fn print(rows: &[Row], kinds: &[Kind], as_json: bool) -> anyhow::Result<()> {
    for kind in kinds {
        let rows = || rows.iter().filter(|row| row.load == *kind);
        let reference = rows().find(|row| row.subject == REFERENCE.name());
        if !as_json {
            println!("\n{kind}\n{HEADINGS}");
        }
        for row in rows() {
            if as_json {
                println!("{}", serde_json::to_string(row)?);
            } else {
                println!("{}", row.line(reference));
            }
        }
    }
    Ok(())
}

fn median(mut numbers: Vec<f64>) -> Option<f64> {
    numbers.sort_by(f64::total_cmp);
    numbers.get(numbers.len() / 2).copied()
}

/// More digits than this would be noise.
fn rounded(number: f64, parts: f64) -> f64 {
    (number * parts).round() / parts
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use serde_json::Value;

    use super::*;
    use crate::relay::{latency::Latency, measure::Cpu};

    fn sample(packets: u64) -> Sample {
        let latency = |us| Latency { us_p50: us, us_p99: 2.0 * us };
        Sample {
            packets_per_s: packets as f64 / 2.0,
            cpu: Cpu { process: Duration::from_millis(900), kernel: Duration::from_millis(100) },
            packets,
            loss: 0.001,
            relayed: latency(30.0),
            direct: latency(20.0),
        }
    }

    fn row(subject: Subject, packets: &[u64]) -> Row {
        let samples: Vec<Sample> = packets.iter().copied().map(sample).collect();
        Row::of(subject, Kind::Frames, &samples, 12 << 20).unwrap()
    }

    #[test]
    fn a_row_has_the_medians_of_the_rounds() {
        let row = row(Subject::Relay, &[3_000_000, 1_000_000, 2_000_000]);
        assert_eq!((row.packets_per_s, row.packets_per_cpu_s), (1e6, 2e6));
        assert_eq!(
            (row.latency_us_p50, row.latency_us_p99, row.latency_us_added),
            (30.0, 60.0, 10.0)
        );
        assert_eq!((row.loss, row.rss_mib), (0.001, 12.0));
        assert_eq!(row.slowest_and_fastest, (5e5, 1.5e6));
        let (process, kernel) = row.us_per_packet;
        assert!((process - 0.45).abs() < 1e-9 && (kernel - 0.05).abs() < 1e-9);
        assert!(Row::of(Subject::Relay, Kind::Sockets, &[], 0).is_none());
    }

    #[test]
    fn the_json_has_exactly_the_fields_that_were_agreed() {
        let row = serde_json::to_value(row(Subject::RelayXdp, &[7])).unwrap();
        let Value::Object(fields) = &row else { panic!("not an object") };
        let agreed = [
            "subject",
            "load",
            "packets_per_s",
            "packets_per_cpu_s",
            "loss",
            "latency_us_p50",
            "latency_us_p99",
            "rss_mib",
        ];
        let names: BTreeSet<&str> = fields.keys().map(String::as_str).collect();
        assert_eq!(names, BTreeSet::from(agreed));
        assert_eq!(row["subject"], "connlib-relay-xdp");
        assert_eq!(row["load"], "frames");
    }

    #[test]
    fn the_table_compares_with_the_reference() {
        let reference = row(REFERENCE, &[200_000]);
        let line = row(Subject::Relay, &[700_000]).line(Some(&reference));
        assert!(line.contains(" 3.50 "), "{line}");
        assert_eq!(line.chars().count(), HEADINGS.chars().count());
    }
}
