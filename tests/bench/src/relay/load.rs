//! Datagrams for a relay to carry, and how many it does: what the two kinds of load have in common.

use std::{fmt, time::Duration};

use anyhow::{Result, ensure};
use serde::Serialize;

use super::{frames::Frames, network::Network, sockets::Sockets};

/// The first of the channels' numbers.
pub(super) const CHANNEL: u16 = 0x4000;
/// What every payload starts with: a mark and the number of its flow. A program in the kernel knows it as well.
const MARK: [u8; 4] = *b"load";
pub(super) const SMALLEST_PAYLOAD: usize = MARK.len() + 4;
/// Clients that a load may have.
pub(super) const MOST_FLOWS: u32 = 500;

/// What arrives later after the last run was sent does not count.
pub(super) const GRACE: Duration = Duration::from_millis(10);
/// Nothing more will come after this.
pub(super) const SILENCE: Duration = Duration::from_millis(50);

/// Where datagrams come from and go to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Kind {
    /// Frames at the end of a cable, as a network card's driver has them
    Frames,
    /// Ordinary sockets of clients and peers, at the ends of two cables
    Sockets,
}

/// Which way the datagrams go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Direction {
    /// From clients to peers
    Up,
    /// From peers to clients
    Down,
    /// As many one way as the other
    Both,
}

/// What is sent.
#[derive(Debug, Clone, Copy)]
pub(super) struct Shape {
    /// Clients, each with a peer of its own.
    pub(super) flows: u32,
    /// Bytes that a datagram carries from end to end.
    pub(super) payload: usize,
    /// Datagrams of a flow that are sent at once.
    pub(super) run: usize,
    pub(super) direction: Direction,
}

/// Clients with allocations, and their peers.
pub(super) trait Load {
    /// Prolongs allocations and channels.
    fn refresh(&mut self) -> Result<()>;

    /// Offers so many packets a second for so long.
    fn run(&mut self, rate: f64, duration: Duration) -> Result<Transfer>;
}

/// What became of a load.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Transfer {
    pub(super) sent: u64,
    pub(super) received: u64,
    pub(super) seconds: f64,
    /// Sent of what was wanted; less than 1 if the load could not be made.
    pub(super) effort: f64,
}

impl Kind {
    pub(super) const ALL: [Self; 2] = [Self::Frames, Self::Sockets];

    /// Allocates for all clients, and binds a channel to each one's peer.
    pub(super) fn set_up(self, network: &Network, shape: Shape) -> Result<Box<dyn Load>> {
        Ok(match self {
            Self::Frames => Box::new(Frames::set_up(network, shape)?),
            Self::Sockets => Box::new(Sockets::set_up(network, shape)?),
        })
    }

    /// The number of its first client: no two loads have the same.
    pub(super) fn first_flow(self) -> u32 {
        self as u32 * MOST_FLOWS
    }

    /// For people.
    pub(super) fn description(self) -> &'static str {
        match self {
            Self::Frames => {
                "frames to and from the clients' cable as a card's driver has them, without sockets"
            }
            Self::Sockets => {
                "datagrams of ordinary sockets, clients' on one cable, peers' on the other"
            }
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Frames => "frames",
            Self::Sockets => "sockets",
        })
    }
}

impl Transfer {
    pub(super) fn packets_per_s(&self) -> f64 {
        self.received as f64 / self.seconds
    }

    /// Of those that were sent.
    pub(super) fn loss(&self) -> f64 {
        1.0 - self.received as f64 / self.sent.max(1) as f64
    }
}

/// What a datagram of a flow carries. The byte behind the mark and the number is `filling`, the next ones count on.
pub(super) fn payload(flow: u32, length: usize, filling: usize) -> Vec<u8> {
    let filling = (filling..).map(|value| value as u8).take(length - SMALLEST_PAYLOAD);
    MARK.into_iter().chain(flow.to_be_bytes()).chain(filling).collect()
}

/// The highest rate, in packets per second, that `carries` says yes to, to within a few percent.
pub(super) fn highest_rate(mut carries: impl FnMut(f64) -> Result<bool>) -> Result<f64> {
    const LOWEST: f64 = 10_000.0;
    const HIGHEST: f64 = 20e6;
    const ATTEMPTS: u32 = 3;
    // What else happens on the machine fails a rate as well, but seldom three times.
    let mut carries = |rate| -> Result<bool> {
        for _ in 0..ATTEMPTS {
            if carries(rate)? {
                return Ok(true);
            }
        }
        Ok(false)
    };
    let (mut good, mut bad) = (0.0, LOWEST);
    while bad < HIGHEST && carries(bad)? {
        good = bad;
        bad *= 1.5;
    }
    ensure!(good > 0.0, "not even {LOWEST} packets per second get through");
    for _ in 0..4 {
        let middle = (good + bad) / 2.0;
        if carries(middle)? {
            good = middle;
        } else {
            bad = middle;
        }
    }
    Ok(good)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_highest_rate_is_found_in_spite_of_noise() {
        let mut trials = 0;
        let rate = highest_rate(|rate| {
            trials += 1;
            Ok(rate < 123_456.0 && trials % 3 != 0)
        });
        let rate = rate.unwrap();
        assert!((117_000.0..123_456.0).contains(&rate), "{rate}");
        assert!(highest_rate(|_| Ok(false)).is_err());
    }

    #[test]
    fn loss_is_of_what_was_sent() {
        let transfer = Transfer { sent: 200, received: 150, seconds: 0.5, effort: 1.0 };
        assert_eq!((transfer.loss(), transfer.packets_per_s()), (0.25, 300.0));
        let nothing = Transfer { sent: 0, received: 0, ..transfer };
        assert_eq!(nothing.loss(), 1.0);
    }
}
