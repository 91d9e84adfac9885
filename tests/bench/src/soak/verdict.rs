//! What must hold of a soak.

use super::sample::{Sample, mib};

/// Memory is flat if the median of the last third of the load is not above that of the second third by more than this
/// share and this many bytes. The first third is the way there: an allocation that is left alone lasts ten minutes.
const GROWTH: f64 = 0.02;
const GROWTH_BYTES: f64 = (1 << 20) as f64;
/// Of the datagrams that peers sent back, those that may be missing.
const LOSS: f64 = 0.001;

/// What was seen.
#[derive(Debug)]
pub(super) struct Course<'a> {
    /// Before the load.
    pub(super) start: &'a Sample,
    /// During the load, at equal distances.
    pub(super) samples: &'a [Sample],
    /// When all had gone, or were given up.
    pub(super) end: &'a Sample,
    /// What the relay complained about.
    pub(super) complaints: &'a [String],
    /// Whether the XDP program was to relay.
    pub(super) by_xdp: bool,
}

impl Course<'_> {
    /// The medians of memory in the three thirds, in bytes.
    pub(super) fn thirds(&self) -> [f64; 3] {
        let third = self.samples.len().div_ceil(3).max(1);
        let mut chunks = self.samples.chunks(third);
        [(); 3].map(|()| chunks.next().map_or(0.0, median))
    }

    /// What does not hold, one sentence each.
    pub(super) fn faults(&self) -> Vec<String> {
        let Self { start, end, .. } = *self;
        let mut faults: Vec<String> =
            self.complaints.iter().map(|line| format!("the relay complained: {line}")).collect();
        let [_, second, last] = self.thirds();
        if last > second * (1.0 + GROWTH) + GROWTH_BYTES {
            let [second, last] = [second, last].map(|bytes| mib(bytes as u64));
            faults.push(format!(
                "memory grew: {second:.2} MiB in the second third, {last:.2} in the last"
            ));
        }
        if !end.is_empty() {
            faults.push(format!(
                "{} allocations, {} channels and {} streams are left",
                end.allocations, end.channels, end.streams
            ));
        }
        if end.open_files > start.open_files {
            faults.push(format!(
                "{} files are open, {} were at the start",
                end.open_files, start.open_files
            ));
        }
        if end.sent == 0 || end.sessions == 0 || end.vanished == 0 || end.strangers == 0 {
            faults.push("there was no churn".to_owned());
        }
        if end.damaged > 0 {
            faults.push(format!("{} datagrams were damaged, or nobody's", end.damaged));
        }
        let lost = (end.sent - end.received) as f64 / end.sent.max(1) as f64;
        if lost > LOSS {
            faults.push(format!("{:.4} % of the datagrams were lost", lost * 100.0));
        }
        if end.failures > 0 {
            faults.push(format!("{} times a client was not served", end.failures));
        }
        if self.by_xdp && end.xdp_packets == 0 {
            faults.push("nothing was relayed by the XDP program".to_owned());
        }
        faults
    }
}

fn median(samples: &[Sample]) -> f64 {
    let mut memory: Vec<u64> = samples.iter().map(|sample| sample.rss_bytes).collect();
    memory.sort_unstable();
    memory.get(memory.len() / 2).map_or(0.0, |bytes| *bytes as f64)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn sample(megabytes: f64) -> Sample {
        Sample {
            seconds: 0.0,
            rss_bytes: (megabytes * f64::from(1 << 20)) as u64,
            peak_bytes: 0,
            open_files: 10,
            allocations: 0,
            channels: 0,
            streams: 0,
            cpu_seconds: 0.0,
            xdp_packets: 0,
            drops: BTreeMap::new(),
            sessions: 1,
            returns: 1,
            vanished: 1,
            strangers: 1,
            renewals: 1,
            sent: 10_000,
            received: 9_995,
            damaged: 0,
            failures: 0,
        }
    }

    fn faults(memory: &[f64], change: impl FnOnce(&mut Sample)) -> Vec<String> {
        let samples: Vec<Sample> = memory.iter().copied().map(sample).collect();
        let (start, mut end) = (sample(10.0), sample(10.0));
        change(&mut end);
        let course =
            Course { start: &start, samples: &samples, end: &end, complaints: &[], by_xdp: false };
        course.faults()
    }

    #[test]
    fn memory_may_grow_on_the_way_there_and_not_after() {
        assert_eq!(faults(&[1.0, 5.0, 10.0, 20.0, 20.1, 21.0, 20.5, 21.3, 20.9], |_| {}), [""; 0]);
        let grown = faults(&[20.0, 20.0, 20.0, 20.0, 20.0, 20.0, 20.0, 21.5, 21.5], |_| {});
        assert!(grown.len() == 1 && grown[0].contains("20.00"), "{grown:?}");
    }

    #[test]
    fn whatever_is_left_or_missing_is_a_fault() {
        let flat = [10.0; 9];
        assert_eq!(faults(&flat, |_| {}), [""; 0]);
        let changes: [fn(&mut Sample); 9] = [
            |end| end.allocations = 1,
            |end| end.channels = 1,
            |end| end.streams = 1,
            |end| end.open_files = 11,
            |end| end.damaged = 1,
            |end| end.received = 9_989,
            |end| end.failures = 1,
            |end| end.vanished = 0,
            |end| end.sessions = 0,
        ];
        for (index, change) in changes.into_iter().enumerate() {
            assert_eq!(faults(&flat, change).len(), 1, "change {index}");
        }
    }
}
