//! What an application would notice: the longest time without an answer.

use std::{
    io::{self, ErrorKind, Write as _},
    net::{SocketAddr, UdpSocket},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, anyhow, ensure};

use crate::{Namespace, wait};

const INTERVAL: Duration = Duration::from_millis(10);

/// Sends numbered datagrams every 10 ms to an [`Echo`] and listens for the answers.
#[derive(Debug)]
pub struct Probe {
    stop: Arc<AtomicBool>,
    seen: Arc<Mutex<Seen>>,
    thread: JoinHandle<Result<()>>,
}

#[derive(Debug)]
struct Seen {
    report: Report,
    last_answer: Instant,
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

impl Report {
    /// Says what was measured in the test's log, and panics if an application would have noticed more than it may.
    ///
    /// A test machine that is busy with other things is given as much again.
    #[allow(clippy::panic, reason = "called by tests alone")]
    pub fn assert_silence(&self, what: &str, limit: Duration) {
        let Self { sent, answered, longest_silence } = self;
        // Not `println`, which a test that passes keeps to itself.
        let line = format!(
            "longest silence, {what}: {longest_silence:.2?} of {limit:.2?}, {answered}/{sent}\n"
        );
        drop(io::stderr().write_all(line.as_bytes()));
        assert!(*longest_silence <= 2 * limit, "{line}");
    }
}

impl Probe {
    /// Starts probing from inside `namespace`. Send errors count as silence.
    pub fn start(namespace: &Namespace, echo: SocketAddr) -> Result<Self> {
        let socket = namespace.enter(|| UdpSocket::bind(any_address(echo)))??;
        socket.set_read_timeout(Some(INTERVAL))?;
        let stop = Arc::new(AtomicBool::new(false));
        let seen = Arc::new(Mutex::new(Seen::nothing()));
        let (stopped, writer) = (Arc::clone(&stop), Arc::clone(&seen));
        let thread = thread::spawn(move || probe(&socket, echo, &stopped, &writer));
        Ok(Self { stop, seen, thread })
    }

    /// [`start`](Self::start), and measures from the first answer on. An error if none comes in time.
    pub fn start_answered(
        namespace: &Namespace,
        echo: SocketAddr,
        deadline: Duration,
    ) -> Result<Self> {
        let probe = Self::start(namespace, echo)?;
        probe.wait_for_answers(10, deadline)?;
        *lock(&probe.seen) = Seen::nothing();
        Ok(probe)
    }

    /// Waits for so many more answers.
    pub fn wait_for_answers(&self, count: u64, deadline: Duration) -> Result<()> {
        let before = lock(&self.seen).report.answered;
        wait::until("answers to the probe", deadline, || {
            (lock(&self.seen).report.answered >= before + count).then_some(())
        })
    }

    /// What it has seen so far, the silence that goes on included.
    pub fn report(&self) -> Report {
        lock(&self.seen).report()
    }

    /// Stops probing.
    pub fn stop(self) -> Result<Report> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().map_err(|_| anyhow!("the probe panicked"))??;
        Ok(lock(&self.seen).report())
    }
}

impl Seen {
    fn nothing() -> Self {
        Self { report: Report::default(), last_answer: Instant::now() }
    }

    fn report(&self) -> Report {
        let longest_silence = self.report.longest_silence.max(self.last_answer.elapsed());
        Report { longest_silence, ..self.report.clone() }
    }
}

fn lock(seen: &Mutex<Seen>) -> MutexGuard<'_, Seen> {
    seen.lock().unwrap_or_else(PoisonError::into_inner)
}

fn probe(
    socket: &UdpSocket,
    echo: SocketAddr,
    stopped: &AtomicBool,
    seen: &Mutex<Seen>,
) -> Result<()> {
    let mut buffer = [0; 64];
    let mut next_number: u64 = 0;
    let mut next_send = Instant::now();
    let mut newest = None;
    while !stopped.load(Ordering::Relaxed) {
        let now = Instant::now();
        if now >= next_send {
            drop(socket.send_to(&next_number.to_be_bytes(), echo));
            next_number += 1;
            lock(seen).report.sent += 1;
            next_send = now + INTERVAL;
        }
        match socket.recv_from(&mut buffer) {
            Ok((8, from)) if from == echo => {
                let number = Some(u64::from_be_bytes(buffer[..8].try_into()?));
                // Late and doubled answers tell an application nothing new.
                if number > newest {
                    newest = number;
                    let mut seen = lock(seen);
                    seen.report.answered += 1;
                    seen.report.longest_silence = seen.report().longest_silence;
                    seen.last_answer = Instant::now();
                }
            }
            Ok(_) => {}
            // An ICMP error is no answer.
            Err(error) if is_passing(error.kind()) => thread::sleep(Duration::from_millis(1)),
            Err(error) => return Err(error).context("the probe cannot receive"),
        }
    }
    Ok(())
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
        ConnectionRefused, HostUnreachable, Interrupted, NetworkUnreachable, PermissionDenied,
        TimedOut, WouldBlock,
    };
    matches!(
        kind,
        ConnectionRefused
            | HostUnreachable
            | Interrupted
            | NetworkUnreachable
            | PermissionDenied
            | TimedOut
            | WouldBlock
    )
}
