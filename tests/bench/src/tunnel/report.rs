//! What is printed: a table for people, or one JSON object a line.

use std::time::Duration;

use serde::Serialize;

use super::{
    case::{Case, Direction, Protocol},
    measure::{Sample, median},
};
use crate::{
    machine,
    subject::{MTU, Place, Standing, Subject},
};

/// What the others are compared with.
const REFERENCE: Subject = Subject::WireguardGo;

const HEADINGS: &str = concat!(
    "subject                 proto  dir   streams  Gbit/s  (lowest-highest)  ratio  ",
    "CPU s/GB  machine  peak MiB  RTT idle  loaded ms  lost %"
);

/// One subject in one case. The JSON has the fields up to `rtt_ms_loaded`.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Row {
    subject: &'static str,
    protocol: Protocol,
    direction: Direction,
    streams: u32,
    gbit_per_s: f64,
    cpu_s_per_gb: f64,
    peak_rss_mib: f64,
    rtt_ms_idle: Option<f64>,
    rtt_ms_loaded: Option<f64>,
    #[serde(skip)]
    machine_cpu_s_per_gb: f64,
    #[serde(skip)]
    lost_percent: Option<f64>,
    /// Of the single rounds.
    #[serde(skip)]
    slowest_and_fastest: (f64, f64),
}

impl Row {
    /// Sums samples up. None if there is none.
    pub(super) fn new(subject: Subject, case: &Case, samples: &[Sample]) -> Option<Self> {
        let all = |value: fn(&Sample) -> Option<f64>| -> Vec<f64> {
            samples.iter().filter_map(value).collect()
        };
        let middle = |value| median(&mut all(value)).map(rounded);
        let speeds = all(|sample| Some(sample.gbit_per_s));
        let slowest = speeds.iter().copied().reduce(f64::min)?;
        let fastest = speeds.iter().copied().reduce(f64::max)?;
        Some(Self {
            subject: subject.name(),
            protocol: case.protocol,
            direction: case.direction,
            streams: case.streams,
            gbit_per_s: middle(|sample| Some(sample.gbit_per_s))?,
            cpu_s_per_gb: middle(|sample| Some(sample.cpu_s_per_gb))?,
            peak_rss_mib: rounded(
                all(|sample| Some(sample.peak_rss_mib)).into_iter().fold(0.0, f64::max),
            ),
            rtt_ms_idle: middle(|sample| sample.rtt_ms_idle),
            rtt_ms_loaded: middle(|sample| sample.rtt_ms_loaded),
            machine_cpu_s_per_gb: middle(|sample| Some(sample.machine_cpu_s_per_gb))?,
            lost_percent: middle(|sample| sample.lost_percent),
            slowest_and_fastest: (slowest, fastest),
        })
    }

    fn line(&self, reference: Option<&Self>) -> String {
        let ratio = reference.map(|other| self.gbit_per_s / other.gbit_per_s);
        let (slowest, fastest) = self.slowest_and_fastest;
        format!(
            "{:<22}  {:<5}  {:<4}  {:>7}  {:>6.2}  {:>16}  {:>5}  {:>8.2}  {:>7.2}  {:>8.1}  {:>8}  {:>9}  {:>6}",
            self.subject,
            self.protocol.name(),
            self.direction.name(),
            self.streams,
            self.gbit_per_s,
            format!("({slowest:.2}-{fastest:.2})"),
            or_dash(ratio, 2),
            self.cpu_s_per_gb,
            self.machine_cpu_s_per_gb,
            self.peak_rss_mib,
            or_dash(self.rtt_ms_idle, 2),
            or_dash(self.rtt_ms_loaded, 2),
            or_dash(self.lost_percent, 1),
        )
    }
}

/// Prints as soon as there is something to print.
#[derive(Debug)]
pub(super) struct Report {
    is_json: bool,
}

impl Report {
    pub(super) fn new(is_json: bool) -> Self {
        Self { is_json }
    }

    /// Says on top of the table what was measured and how.
    pub(super) fn explain(
        &self,
        subjects: &[Standing],
        place: Place,
        duration: Duration,
        rounds: u32,
    ) {
        if self.is_json {
            return;
        }
        println!("{}", machine::description());
        println!(
            "Client and gateway in two network namespaces, one veth cable between them; MTU {MTU} for what is carried."
        );
        println!(
            "iperf3 (TCP: cubic; UDP: at the rate at which most arrives, which counts) talks to {place}."
        );
        println!("Medians of {rounds} rounds of {duration:?}, the subjects in turn. The ways:");
        for standing in subjects {
            println!("  {:<22}  {}", standing.subject.name(), standing.subject.path());
        }
        println!(
            "CPU s/GB and peak MiB: the tunnel's processes, both ends together and the larger of them. machine: CPU s/GB\n\
             of everything that ran. ratio: to {REFERENCE} in the same case. RTT: median of pings through the tunnel."
        );
        println!("\n{HEADINGS}");
    }

    /// Prints the rows of one case.
    pub(super) fn add(&self, rows: &[Row]) {
        if self.is_json {
            for row in rows {
                match serde_json::to_string(row) {
                    Ok(line) => println!("{line}"),
                    Err(error) => eprintln!("cannot print a row: {error}"),
                }
            }
            return;
        }
        let reference = rows.iter().find(|row| row.subject == REFERENCE.name());
        for row in rows {
            println!("{}", row.line(reference));
        }
        println!();
    }
}

fn or_dash(number: Option<f64>, digits: usize) -> String {
    number.map_or_else(|| "-".to_owned(), |number| format!("{number:.digits$}"))
}

/// More digits than this would be noise.
fn rounded(number: f64) -> f64 {
    (number * 1000.0).round() / 1000.0
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use serde_json::Value;

    use super::*;

    const CASE: Case = Case { protocol: Protocol::Udp, direction: Direction::Down, streams: 8 };

    fn sample(gbit_per_s: f64) -> Sample {
        Sample {
            gbit_per_s,
            cpu_s_per_gb: 10.0 / gbit_per_s,
            machine_cpu_s_per_gb: 20.0,
            peak_rss_mib: 5.0 + gbit_per_s,
            rtt_ms_idle: Some(0.25),
            rtt_ms_loaded: None,
            lost_percent: Some(3.0),
        }
    }

    fn row(subject: Subject, speeds: &[f64]) -> Row {
        let samples: Vec<Sample> = speeds.iter().copied().map(sample).collect();
        Row::new(subject, &CASE, &samples).unwrap()
    }

    #[test]
    fn a_row_has_the_medians_of_the_rounds_and_the_largest_peak() {
        let row = row(Subject::Connlib, &[5.0, 1.0, 4.0]);
        assert_eq!((row.gbit_per_s, row.cpu_s_per_gb, row.peak_rss_mib), (4.0, 2.5, 10.0));
        assert_eq!((row.rtt_ms_idle, row.rtt_ms_loaded), (Some(0.25), None));
        assert_eq!(row.slowest_and_fastest, (1.0, 5.0));
        assert!(Row::new(Subject::Connlib, &CASE, &[]).is_none());
    }

    #[test]
    fn the_json_has_exactly_the_fields_that_were_agreed() {
        let row = serde_json::to_value(row(Subject::WireguardGo, &[3.5])).unwrap();
        let Value::Object(fields) = &row else { panic!("not an object") };
        let agreed = [
            "subject",
            "protocol",
            "direction",
            "streams",
            "gbit_per_s",
            "cpu_s_per_gb",
            "peak_rss_mib",
            "rtt_ms_idle",
            "rtt_ms_loaded",
        ];
        let names: BTreeSet<&str> = fields.keys().map(String::as_str).collect();
        assert_eq!(names, BTreeSet::from(agreed));
        assert_eq!(row["subject"], "wireguard-go-tailscale");
        assert_eq!((&row["protocol"], &row["direction"]), (&"udp".into(), &"down".into()));
    }

    #[test]
    fn the_table_compares_with_the_reference() {
        let reference = row(REFERENCE, &[2.0]);
        let line = row(Subject::Connlib, &[3.0]).line(Some(&reference));
        assert!(line.contains("1.50"), "{line}");
        assert_eq!(line.chars().count(), HEADINGS.chars().count());
        assert!(row(Subject::Veth, &[3.0]).line(None).contains(" - "));
    }
}
