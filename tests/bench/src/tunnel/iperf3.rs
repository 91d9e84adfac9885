//! Traffic made by `iperf3`, and how much of it is worth offering.

use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use super::case::{Case, Direction, Protocol};
use crate::subject::{MTU, PORT, Standing, wait_for_listener};

/// IPv4 and UDP headers.
const UDP_HEADERS: u16 = 28;
/// What iperf3 may take longer than it was told before it counts as stuck.
const PATIENCE: Duration = Duration::from_secs(20);

/// What is tried for UDP, in bits per second: each rate half as much again as the one before.
const SLOWEST: f64 = 0.25e9;
const FASTEST: f64 = 10e9;
const STEP: f64 = 1.5;
const TRIAL: Duration = Duration::from_secs(1);
/// What more must bring to be worth offering, and the decline at which nothing more is tried.
const WORTH: f64 = 1.05;
const DECLINE: f64 = 0.9;

/// How much is sent.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Load {
    /// As much as gets through: TCP finds out.
    Greedy,
    /// So many bits per second, all streams together.
    Paced(f64),
}

impl Load {
    /// What gets the most through. UDP senders find nothing out by themselves: where the processors are shared, one
    /// that sends as fast as it can leaves no time to those that carry and receive.
    pub(super) fn find(subject: &Standing, case: &Case) -> Result<Self> {
        if case.protocol == Protocol::Tcp {
            return Ok(Self::Greedy);
        }
        let receive = |rate| Ok(run(subject, case, Self::Paced(rate), TRIAL)?.gbit_per_s);
        best_rate(receive).map(Self::Paced)
    }
}

/// The rate at which most is received, of those that are tried until it becomes less.
fn best_rate(mut receive: impl FnMut(f64) -> Result<f64>) -> Result<f64> {
    let mut best = (SLOWEST, 0.0);
    let mut rate = SLOWEST;
    while rate < FASTEST {
        let received = receive(rate)?;
        if received > best.1 * WORTH {
            best = (rate, received);
        } else if received < best.1 * DECLINE {
            break;
        }
        rate *= STEP;
    }
    Ok(best.0)
}

/// What arrived.
#[derive(Debug, PartialEq)]
pub(super) struct Transfer {
    pub(super) gigabytes: f64,
    pub(super) gbit_per_s: f64,
    pub(super) lost_percent: Option<f64>,
}

/// Runs a server and a client until the time is over.
pub(super) fn run(
    subject: &Standing,
    case: &Case,
    load: Load,
    duration: Duration,
) -> Result<Transfer> {
    let (address, port) = (subject.server_address().to_string(), PORT.to_string());
    let mut server = subject
        .server()
        .command("iperf3")
        .args(["--server", "--one-off", "--bind", &address, "--port", &port])
        .spawn("iperf3")?;
    wait_for_listener(subject.server(), PORT, &mut server).context("the server of iperf3")?;

    let limit = (duration + PATIENCE).as_secs().to_string();
    let mut command = subject
        .at_client("timeout")
        .args([&limit, "iperf3", "--json", "--connect-timeout", "5000", "--client", &address])
        .args(["--port", &port])
        .args(["--time", &duration.as_secs().to_string()])
        .args(["--parallel", &case.streams.to_string()]);
    command = match load {
        // Not every machine's default is what most machines use.
        Load::Greedy => command.args(["--congestion", "cubic"]),
        Load::Paced(rate) => {
            let length = (MTU - UDP_HEADERS).to_string();
            let rate = (rate / f64::from(case.streams)).round().to_string();
            command.args(["--udp", "--bitrate", &rate, "--length", &length])
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
    fn the_best_rate_is_the_one_before_too_much() {
        let mut tried = Vec::new();
        let rate = best_rate(|rate| {
            tried.push(rate);
            // Carries 1 Gbit/s, and less the more is beyond it.
            Ok(if rate < 1e9 { rate / 1e9 } else { 1e9 / rate })
        });
        assert_eq!(rate.unwrap(), tried[3]);
        assert_eq!(tried.len(), 6, "{tried:?}");
        assert!(best_rate(|_| bail!("no route")).is_err());
    }
}
