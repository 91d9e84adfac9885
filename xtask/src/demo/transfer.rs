//! One fetch by `curl`, and how long its parts took.

use std::{path::Path, time::Duration};

use anyhow::{Context as _, Result, ensure};
use connlib_e2e::{Scenario, payload::Hash};

/// The format of what `curl` reports: seconds from the start, then bytes each way.
const REPORT: &str =
    "%{time_namelookup} %{time_starttransfer} %{time_total} %{size_download} %{size_upload}";

/// How long a fetch took, all from its start.
#[derive(Debug)]
pub(super) struct Transfer {
    pub(super) name: Duration,
    pub(super) first_byte: Duration,
    pub(super) total: Duration,
    /// Bytes in both directions, without headers.
    pub(super) bytes: u64,
}

impl Transfer {
    /// Fetches `url` into a file.
    pub(super) fn fetch(scenario: &Scenario, url: &str, into: &Path) -> Result<Self> {
        Self::run(scenario, url, into, None)
    }

    /// Uploads a file and stores the answer in another.
    pub(super) fn upload(scenario: &Scenario, url: &str, file: &Path, into: &Path) -> Result<Self> {
        Self::run(scenario, url, into, Some(file))
    }

    fn run(scenario: &Scenario, url: &str, into: &Path, upload: Option<&Path>) -> Result<Self> {
        let mut curl = scenario.curl().args(["--write-out", REPORT, "--output"]).arg(into);
        if let Some(file) = upload {
            curl = curl.arg("--upload-file").arg(file);
        }
        let report = curl.arg(url).run().with_context(|| format!("cannot fetch {url}"))?;
        let values: Vec<f64> =
            report.split_whitespace().map(str::parse).collect::<Result<_, _>>()?;
        ensure!(values.len() == 5, "curl reported {report:?}");
        let seconds = |index: usize| Duration::from_secs_f64(values[index]);
        Ok(Self {
            name: seconds(0),
            first_byte: seconds(1),
            total: seconds(2),
            bytes: (values[3] + values[4]) as u64,
        })
    }

    /// Throughput for people.
    pub(super) fn throughput(&self) -> String {
        let megabits = self.bytes as f64 * 8.0 / 1e6 / self.total.as_secs_f64();
        format!("{megabits:.0} Mbit/s")
    }
}

/// The SHA-256 of a file.
pub(super) fn sha256(path: &Path) -> Result<String> {
    let mut hash = Hash::default();
    hash.update(&std::fs::read(path)?);
    Ok(hash.finish())
}
