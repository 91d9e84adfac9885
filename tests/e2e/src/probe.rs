//! What an application would notice: the longest time without an answer.

use std::{
    io::ErrorKind,
    net::{SocketAddr, UdpSocket},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, anyhow, ensure};

use crate::Namespace;

const INTERVAL: Duration = Duration::from_millis(10);

/// Sends numbered datagrams every 10 ms to an [`Echo`] and listens for the answers.
#[derive(Debug)]
pub struct Probe {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Result<Report>>,
}

/// What a [`Probe`] saw.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// Datagrams sent.
    pub sent: u64,
    /// Datagrams answered, each counted once.
    pub answered: u64,
    /// The longest time without an answer, including that before the first and after the last one.
    pub longest_silence: Duration,
}

impl Probe {
    /// Starts probing from inside `namespace`. Send errors count as silence.
    pub fn start(namespace: &Namespace, echo: SocketAddr) -> Result<Self> {
        let socket = namespace.enter(|| UdpSocket::bind(any_address(echo)))??;
        socket.set_read_timeout(Some(INTERVAL))?;
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = thread::spawn(move || probe(&socket, echo, &stopped));
        Ok(Self { stop, thread })
    }

    /// Stops probing.
    pub fn stop(self) -> Result<Report> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().map_err(|_| anyhow!("the probe panicked"))?
    }
}

fn probe(socket: &UdpSocket, echo: SocketAddr, stopped: &AtomicBool) -> Result<Report> {
    let mut report = Report::default();
    let mut buffer = [0; 64];
    let mut last_answer = Instant::now();
    let mut next_send = last_answer;
    let mut newest = None;
    while !stopped.load(Ordering::Relaxed) {
        let now = Instant::now();
        if now >= next_send {
            drop(socket.send_to(&report.sent.to_be_bytes(), echo));
            report.sent += 1;
            next_send = now + INTERVAL;
        }
        match socket.recv_from(&mut buffer) {
            Ok((8, from)) if from == echo => {
                let number = Some(u64::from_be_bytes(buffer[..8].try_into()?));
                // Late and doubled answers tell an application nothing new.
                if number > newest {
                    newest = number;
                    report.answered += 1;
                    let now = Instant::now();
                    report.longest_silence = report.longest_silence.max(now - last_answer);
                    last_answer = now;
                }
            }
            Ok(_) => {}
            // An ICMP error is no answer.
            Err(error) if is_passing(error.kind()) => thread::sleep(Duration::from_millis(1)),
            Err(error) => return Err(error).context("the probe cannot receive"),
        }
    }
    report.longest_silence = report.longest_silence.max(last_answer.elapsed());
    Ok(report)
}

/// Answers every datagram with itself.
#[derive(Debug)]
pub struct Echo {
    address: SocketAddr,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Echo {
    /// Listens inside `namespace`.
    pub fn start(namespace: &Namespace, address: SocketAddr) -> Result<Self> {
        let socket = namespace
            .enter(|| UdpSocket::bind(address))?
            .with_context(|| format!("cannot listen on {address} in {}", namespace.name()))?;
        socket.set_read_timeout(Some(INTERVAL))?;
        let address = socket.local_addr()?;
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = thread::spawn(move || {
            let mut buffer = [0; 2048];
            while !stopped.load(Ordering::Relaxed) {
                if let Ok((length, peer)) = socket.recv_from(&mut buffer) {
                    drop(socket.send_to(&buffer[..length], peer));
                }
            }
        });
        Ok(Self { address, stop, thread: Some(thread) })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        drop(self.thread.take().map(JoinHandle::join));
    }
}

/// Sends one datagram and returns the address that the receiver saw: what NAT made of the sender.
pub fn observed_source(
    sender: &UdpSocket,
    receiver: &UdpSocket,
    deadline: Duration,
) -> Result<SocketAddr> {
    let mut buffer = [0; 64];
    receiver.set_read_timeout(Some(deadline))?;
    sender.send_to(b"who am I", receiver.local_addr()?)?;
    let (length, source) = receiver.recv_from(&mut buffer).context("nothing arrived")?;
    ensure!(&buffer[..length] == b"who am I", "another datagram arrived");
    Ok(source)
}

fn any_address(peer: SocketAddr) -> &'static str {
    if peer.is_ipv6() { "[::]:0" } else { "0.0.0.0:0" }
}

fn is_passing(kind: ErrorKind) -> bool {
    use ErrorKind::{
        ConnectionRefused, HostUnreachable, Interrupted, NetworkUnreachable, TimedOut, WouldBlock,
    };
    matches!(
        kind,
        ConnectionRefused
            | HostUnreachable
            | Interrupted
            | NetworkUnreachable
            | TimedOut
            | WouldBlock
    )
}
