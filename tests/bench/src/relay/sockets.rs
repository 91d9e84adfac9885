//! A load of ordinary sockets.
//!
//! One thread is all clients and all peers: it sends what is due, in runs that the kernel cuts (UDP GSO), and takes what
//! has arrived (UDP GRO). Nothing is allocated meanwhile.

use std::{
    io::{self, ErrorKind},
    net::{SocketAddrV4, UdpSocket},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use nix::sys::{
    epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout},
    socket::{setsockopt, sockopt},
};

use super::{
    load::{
        CHANNEL, Direction, GRACE, Kind, Load, SILENCE, SMALLEST_PAYLOAD, Shape, Transfer, payload,
    },
    network::{Network, PEERS, RELAY, reached_at},
    subject::user_of,
    turn::{Allocation, CHANNEL_HEADER, channel_data},
};

const SOCKET_BUFFER: usize = 8 << 20;
/// Runs that are sent before what has arrived is looked at.
const RUNS_AT_ONCE: u64 = 4;
/// Runs that may be overdue. Beyond, the load falls short of what was wanted.
const ARREARS: u64 = 64;
const PAUSE: Duration = Duration::from_micros(20);

/// Clients with allocations, and their peers.
#[derive(Debug)]
pub(super) struct Sockets {
    shape: Shape,
    flows: Vec<Flow>,
    ready: Epoll,
    buffer: Vec<u8>,
    runs: u64,
}

#[derive(Debug)]
struct Flow {
    allocation: Allocation,
    channel: u16,
    peer: UdpSocket,
    /// Towards the peer.
    up: Run,
    /// Towards the client.
    down: Run,
}

/// Datagrams of one kind.
#[derive(Debug)]
struct Run {
    /// As they leave.
    sent: Vec<u8>,
    /// How each of them starts when it arrives, and how long it is.
    start: Vec<u8>,
    length: usize,
}

impl Sockets {
    /// Allocates for all clients, and binds a channel to each one's peer.
    pub(super) fn set_up(network: &Network, shape: Shape) -> Result<Self> {
        let mut flows = Vec::new();
        let first = Kind::Sockets.first_flow();
        for number in first..first + shape.flows {
            let flow = Flow::set_up(network, number, &shape);
            flows.push(flow.with_context(|| format!("client {number}"))?);
        }
        let ready = Epoll::new(EpollCreateFlags::empty())?;
        for (index, flow) in flows.iter().enumerate() {
            let token = 2 * index as u64;
            let wanted = |token| EpollEvent::new(EpollFlags::EPOLLIN, token);
            ready.add(flow.allocation.socket(), wanted(token))?;
            ready.add(&flow.peer, wanted(token + 1))?;
        }
        Ok(Self { shape, flows, ready, buffer: vec![0; 1 << 16], runs: 0 })
    }

    /// Sends the next run. Returns how many datagrams that were.
    fn send(&mut self) -> Result<u64> {
        let number = self.runs;
        self.runs += 1;
        let (is_up, index) = match self.shape.direction {
            Direction::Up => (true, number),
            Direction::Down => (false, number),
            Direction::Both => (number.is_multiple_of(2), number / 2),
        };
        let index = index as usize % self.flows.len();
        let Some(flow) = self.flows.get(index) else { return Ok(0) };
        let (socket, run) =
            if is_up { (flow.allocation.socket(), &flow.up) } else { (&flow.peer, &flow.down) };
        match socket.send(&run.sent) {
            Ok(_) => Ok(self.shape.run as u64),
            // What has no room is lost where it would be lost on a network card.
            Err(error) if is_passing(&error) => Ok(0),
            Err(error) => Err(error).context("cannot send"),
        }
    }

    /// Takes what has arrived. Returns how many of our datagrams that were.
    fn receive(&mut self) -> Result<u64> {
        let mut events = [EpollEvent::empty(); 64];
        let count = self.ready.wait(&mut events, EpollTimeout::ZERO)?;
        let mut received = 0;
        for event in events.iter().take(count) {
            let Some(flow) = self.flows.get(event.data() as usize / 2) else { continue };
            let (socket, run) = if event.data().is_multiple_of(2) {
                (flow.allocation.socket(), &flow.down)
            } else {
                (&flow.peer, &flow.up)
            };
            match socket.recv(&mut self.buffer) {
                Ok(length) => {
                    received += run.count(self.buffer.get(..length).unwrap_or_default());
                }
                Err(error) if is_passing(&error) => {}
                Err(error) => return Err(error).context("cannot receive"),
            }
        }
        Ok(received)
    }

    /// Waits until nothing comes any more.
    fn flush(&mut self) -> Result<()> {
        let start = Instant::now();
        let mut last = start;
        while last.elapsed() < SILENCE && start.elapsed() < 20 * SILENCE {
            if self.receive()? > 0 {
                last = Instant::now();
            }
            thread::sleep(PAUSE);
        }
        Ok(())
    }
}

impl Load for Sockets {
    fn refresh(&mut self) -> Result<()> {
        self.flows.iter_mut().try_for_each(|flow| {
            let socket = flow.allocation.socket();
            socket.set_nonblocking(false)?;
            setsockopt(socket, sockopt::UdpGsoSegment, &0)?;
            flow.allocation.refresh()?;
            flow.allocation.bind(flow.channel, flow.peer.local_addr()?)?;
            flow.make_ready()
        })
    }

    fn run(&mut self, rate: f64, duration: Duration) -> Result<Transfer> {
        let runs_per_s = rate / self.shape.run as f64;
        let (mut sent, mut received, mut missed, mut runs) = (0, 0, 0, 0);
        let start = Instant::now();
        let mut elapsed = Duration::ZERO;
        while elapsed < duration {
            let due = (elapsed.as_secs_f64() * runs_per_s) as u64 - missed;
            missed += (due - runs).saturating_sub(ARREARS);
            let now = (due - runs).min(RUNS_AT_ONCE);
            for _ in 0..now {
                sent += self.send()?;
            }
            runs += now;
            let arrived = self.receive()?;
            received += arrived;
            if now == 0 && arrived == 0 {
                thread::sleep(PAUSE);
            }
            elapsed = start.elapsed();
        }
        while start.elapsed() < elapsed + GRACE {
            received += self.receive()?;
        }
        self.flush()?;
        let seconds = elapsed.as_secs_f64();
        Ok(Transfer { sent, received, seconds, effort: sent as f64 / (rate * seconds) })
    }
}

impl Flow {
    fn set_up(network: &Network, number: u32, shape: &Shape) -> Result<Self> {
        let client = network.clients.enter(|| UdpSocket::bind("10.0.1.2:0"))??;
        client.connect(RELAY)?;
        let mut allocation = Allocation::open(client, user_of(number))?;
        let peer = network.peers.enter(|| UdpSocket::bind(SocketAddrV4::new(PEERS, 0)))??;
        peer.connect(reached_at(allocation.relayed()))?;
        let channel = CHANNEL + u16::try_from(number)?;
        allocation.bind(channel, peer.local_addr()?)?;

        let payload = payload(number, shape.payload, SMALLEST_PAYLOAD);
        let data = channel_data(channel, &payload);
        let start = |datagram: &[u8], length| datagram.iter().copied().take(length).collect();
        let flow = Self {
            allocation,
            channel,
            peer,
            up: Run {
                sent: data.repeat(shape.run),
                start: start(&payload, SMALLEST_PAYLOAD),
                length: payload.len(),
            },
            down: Run {
                sent: payload.repeat(shape.run),
                start: start(&data, CHANNEL_HEADER + SMALLEST_PAYLOAD),
                length: data.len(),
            },
        };
        flow.make_ready()?;
        Ok(flow)
    }

    /// Prepares the sockets for runs.
    fn make_ready(&self) -> Result<()> {
        let client = self.allocation.socket();
        for (socket, segment) in [(client, self.down.length), (&self.peer, self.up.length)] {
            setsockopt(socket, sockopt::UdpGsoSegment, &i32::try_from(segment)?)?;
            setsockopt(socket, sockopt::UdpGroSegment, &true)?;
            setsockopt(socket, sockopt::RcvBufForce, &SOCKET_BUFFER)?;
            setsockopt(socket, sockopt::SndBufForce, &SOCKET_BUFFER)?;
            socket.set_nonblocking(true)?;
        }
        Ok(())
    }
}

impl Run {
    /// How many datagrams of this kind these bytes are.
    fn count(&self, bytes: &[u8]) -> u64 {
        let whole = bytes.chunks_exact(self.length);
        whole.filter(|datagram| datagram.starts_with(&self.start)).count() as u64
    }
}

/// Nothing there, no room, or news of a datagram that met nobody.
fn is_passing(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::ConnectionRefused)
        || error.raw_os_error() == Some(nix::errno::Errno::ENOBUFS as i32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_whole_datagrams_of_the_flow_count() {
        let run =
            |flow| Run { sent: Vec::new(), start: payload(flow, SMALLEST_PAYLOAD, 0), length: 100 };
        let joined = payload(7, 100, 0).repeat(3);
        assert_eq!(run(7).count(&joined), 3);
        assert_eq!(run(7).count(&joined[..299]), 2);
        assert_eq!(run(8).count(&joined), 0);
        assert_eq!(run(7).count(&[]), 0);
    }
}
