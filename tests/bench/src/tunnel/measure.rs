//! One measurement of one subject, by `iperf3` and `ping`.

use std::{thread, time::Duration};

use anyhow::{Context as _, Result, anyhow, bail};
use serde_json::Value;

use super::case::{Case, Direction, Protocol};
use crate::{
    machine, process,
    subject::{MTU, Standing, wait_for_listener},
};

const PORT: u16 = 5201;
/// IPv4 and UDP headers.
const UDP_HEADERS: u16 = 28;
/// What iperf3 may take longer than it was told before it counts as stuck.
const PATIENCE: Duration = Duration::from_secs(20);

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

/// What iperf3 says.
#[derive(Debug, PartialEq)]
struct Transfer {
    gigabytes: f64,
    gbit_per_s: f64,
    lost_percent: Option<f64>,
}

pub(super) fn measure(subject: &Standing, case: &Case, duration: Duration) -> Result<Sample> {
    let rtt_ms_idle = median_round_trip(subject, Duration::from_millis(800))?;

    let mut server = subject
        .server()
        .command("iperf3")
        .args(["--server", "--one-off", "--bind", &subject.server_address().to_string()])
        .spawn("iperf3")?;
    wait_for_listener(subject.server(), PORT, &mut server).context("the server of iperf3")?;

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
        let transfer = transfer(subject, case, duration);
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

fn transfer(subject: &Standing, case: &Case, duration: Duration) -> Result<Transfer> {
    let limit = (duration + PATIENCE).as_secs().to_string();
    let mut command = subject
        .at_client("timeout")
        .args([&limit, "iperf3", "--json", "--connect-timeout", "5000", "--client"])
        .arg(subject.server_address().to_string())
        .args(["--time", &duration.as_secs().to_string()])
        .args(["--parallel", &case.streams.to_string()]);
    command = match case.protocol {
        // Not every machine's default is what most machines use.
        Protocol::Tcp => command.args(["--congestion", "cubic"]),
        // As fast as the sender can; what arrives counts.
        Protocol::Udp => {
            let length = (MTU - UDP_HEADERS).to_string();
            command.args(["--udp", "--bitrate", "0", "--length", &length])
        }
    };
    if case.direction == Direction::Down {
        command = command.arg("--reverse");
    }
    let output = command.output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    match serde_json::from_str(&text) {
        Ok(answer) => Transfer::parse(&answer, case.protocol),
        Err(_) if output.status.code() == Some(124) => bail!("iperf3 got stuck"),
        Err(_) => bail!("iperf3 says: {text}{}", String::from_utf8_lossy(&output.stderr)),
    }
}

impl Transfer {
    fn parse(answer: &Value, protocol: Protocol) -> Result<Self> {
        if let Some(error) = answer["error"].as_str() {
            bail!("iperf3 says: {error}");
        }
        let received = &answer["end"]["sum_received"];
        let number = |key: &str| received[key].as_f64();
        let missing = "iperf3 does not say what was received";
        let gigabytes = number("bytes").context(missing)? / 1e9;
        if gigabytes <= 0.0 {
            bail!("nothing was received");
        }
        let lost_percent = match protocol {
            Protocol::Tcp => None,
            Protocol::Udp => number("lost_percent"),
        };
        let gbit_per_s = number("bits_per_second").context(missing)? / 1e9;
        Ok(Self { gigabytes, gbit_per_s, lost_percent })
    }
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
    use serde_json::json;

    use super::*;

    #[test]
    fn what_was_received_counts_and_not_what_was_sent() {
        let answer = json!({"end": {
            "sum_sent": {"bytes": 9e9, "bits_per_second": 9e9},
            "sum_received": {"bytes": 2.5e9, "bits_per_second": 4e9, "lost_percent": 55.5},
        }});
        let udp = Transfer::parse(&answer, Protocol::Udp).unwrap();
        assert_eq!(udp, Transfer { gigabytes: 2.5, gbit_per_s: 4.0, lost_percent: Some(55.5) });
        assert_eq!(Transfer::parse(&answer, Protocol::Tcp).unwrap().lost_percent, None);
    }

    #[test]
    fn iperf3s_errors_are_passed_on() {
        let answer = json!({"start": {}, "error": "unable to connect to server"});
        let error = Transfer::parse(&answer, Protocol::Tcp).unwrap_err();
        assert!(error.to_string().contains("unable to connect"));
        assert!(Transfer::parse(&json!({"end": {}}), Protocol::Tcp).is_err());
        let nothing = json!({"end": {"sum_received": {"bytes": 0, "bits_per_second": 0}}});
        assert!(Transfer::parse(&nothing, Protocol::Udp).is_err());
    }

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
