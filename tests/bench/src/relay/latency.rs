//! How long a datagram takes from a client to its peer.

use std::{
    io::ErrorKind,
    net::{SocketAddrV4, UdpSocket},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};

use super::{
    load::CHANNEL,
    network::{Network, PEERS, RELAY},
    subject::user_of,
    turn::{Allocation, channel_data},
};

const INTERVAL: Duration = Duration::from_millis(1);
const PATIENCE: Duration = Duration::from_millis(200);

/// One client and its peer, joined by the relay and without it.
#[derive(Debug)]
pub(super) struct Probe {
    allocation: Allocation,
    peer: UdpSocket,
    direct: (UdpSocket, UdpSocket),
    payload: usize,
}

/// Of the datagrams that arrived.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Latency {
    pub(super) us_p50: f64,
    pub(super) us_p99: f64,
}

impl Probe {
    pub(super) fn set_up(network: &Network, payload: usize) -> Result<Self> {
        let client = || network.clients.enter(|| UdpSocket::bind("10.0.1.2:0"));
        let peer = || -> Result<UdpSocket> {
            let peer = network.peers.enter(|| UdpSocket::bind(SocketAddrV4::new(PEERS, 0)))??;
            peer.set_read_timeout(Some(PATIENCE))?;
            Ok(peer)
        };
        let at_relay = client()??;
        at_relay.connect(RELAY)?;
        let allocation = Allocation::open(at_relay, user_of(0))?;
        let direct = (client()??, peer()?);
        direct.0.connect(direct.1.local_addr()?)?;
        Ok(Self { allocation, peer: peer()?, direct, payload })
    }

    /// By the relay.
    pub(super) fn relayed(&mut self, duration: Duration) -> Result<Latency> {
        self.allocation.refresh()?;
        self.allocation.bind(CHANNEL, self.peer.local_addr()?)?;
        let frame = |payload: &[u8]| channel_data(CHANNEL, payload);
        measure((self.allocation.socket(), &self.peer), frame, self.payload, duration)
    }

    /// By the relay's machine, but not by the relay: it forwards.
    pub(super) fn direct(&self, duration: Duration) -> Result<Latency> {
        let (client, peer) = &self.direct;
        measure((client, peer), <[u8]>::to_vec, self.payload, duration)
    }
}

fn measure(
    (client, peer): (&UdpSocket, &UdpSocket),
    frame: impl Fn(&[u8]) -> Vec<u8>,
    payload: usize,
    duration: Duration,
) -> Result<Latency> {
    let mut times = Vec::new();
    let mut buffer = [0; 2048];
    let start = Instant::now();
    for number in 0_u64.. {
        let at = INTERVAL * u32::try_from(number)?;
        if at >= duration {
            break;
        }
        thread::sleep(at.saturating_sub(start.elapsed()));
        let mut content = vec![0; payload];
        content.splice(..8, number.to_be_bytes());
        let datagram = frame(&content);
        let sent = Instant::now();
        client.send(&datagram)?;
        let arrived = loop {
            match peer.recv(&mut buffer) {
                Ok(_) if buffer.starts_with(&number.to_be_bytes()) => break Some(sent.elapsed()),
                // An earlier one that was given up.
                Ok(_) => {}
                Err(error)
                    if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) =>
                {
                    break None;
                }
                Err(error) => return Err(error.into()),
            }
        };
        times.extend(arrived);
    }
    Latency::of(&mut times).context("no datagram arrived")
}

impl Latency {
    fn of(times: &mut [Duration]) -> Option<Self> {
        times.sort_unstable();
        let at = |percent: usize| {
            let time = times.get((times.len() * percent / 100).min(times.len().checked_sub(1)?))?;
            Some(time.as_secs_f64() * 1e6)
        };
        Some(Self { us_p50: at(50)?, us_p99: at(99)? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_of_all_datagrams() {
        let mut times: Vec<Duration> = (1..=100).rev().map(Duration::from_micros).collect();
        let latency = Latency::of(&mut times).unwrap();
        assert!((latency.us_p50 - 51.0).abs() < 0.1 && (latency.us_p99 - 100.0).abs() < 0.1);
        assert_eq!(Latency::of(&mut []), None);
        assert!(Latency::of(&mut [Duration::from_micros(5)]).is_some());
    }
}
