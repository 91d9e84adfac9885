//! Carries frames between two TAP devices, with faults.

use std::{
    fs::File,
    io::{self, ErrorKind, Read as _},
    os::fd::AsFd as _,
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use connlib_e2e::{Impairment, impairment::Direction};
use nix::{
    poll::{PollFd, PollFlags, ppoll},
    sched::{CloneFlags, setns},
    sys::time::TimeSpec,
};
use tappers::{DeviceState, Interface, Tap};

/// Carry frames between an interface of this namespace and one of another.
///
/// Both are created. Standard input takes other faults, one JSON object a line.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// The interface to create in this namespace
    #[arg(long)]
    left: String,
    /// The interface to create in the other namespace
    #[arg(long)]
    right: String,
    /// The other namespace, as `ip netns` knows it
    #[arg(long)]
    right_namespace: String,
    /// Decides which packets the faults hit
    #[arg(long)]
    seed: u64,
    /// The faults, as JSON
    #[arg(long, value_parser = parse_impairment)]
    impairment: Impairment,
}

/// Frames taken from one device before the other gets its turn.
const BATCH: usize = 64;
const LARGEST_FRAME: usize = 1 << 16;

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let left = open(&arguments.left)?;
    let other = Path::new("/run/netns").join(&arguments.right_namespace);
    setns(File::open(&other)?, CloneFlags::CLONE_NEWNET)
        .with_context(|| format!("cannot enter {}", other.display()))?;
    let right = open(&arguments.right)?;

    let impairment = &arguments.impairment;
    let seeds = [arguments.seed, !arguments.seed];
    let mut directions = seeds.map(|seed| Direction::new(impairment.clone(), seed));
    let mut orders = Some(Orders::default());
    let mut buffer = vec![0; LARGEST_FRAME];
    crate::log("INFO", "carrying frames");
    loop {
        let now = Instant::now();
        let [there, back] = &mut directions;
        take(&left, there, now, &mut buffer)?;
        take(&right, back, now, &mut buffer)?;
        deliver(there, &right, now)?;
        deliver(back, &left, now)?;

        let next = directions.iter().filter_map(Direction::next_release).min();
        let timeout = next.map(|next| next.saturating_duration_since(Instant::now()));
        if is_ordered(&left, &right, orders.is_some(), timeout)?
            && let Some(reader) = &mut orders
        {
            match reader.read()? {
                Some(impairments) => {
                    for impairment in impairments {
                        for direction in &mut directions {
                            direction.set_impairment(impairment.clone());
                        }
                        crate::log("INFO", "impairment changed");
                    }
                }
                None => orders = None,
            }
        }
    }
}

fn open(name: &str) -> Result<Tap> {
    let open = || -> io::Result<Tap> {
        let mut tap = Tap::new_named(Interface::new(name)?)?;
        tap.set_nonblocking(true)?;
        tap.set_state(DeviceState::Up)?;
        Ok(tap)
    };
    open().with_context(|| format!("cannot create the interface {name}"))
}

fn take(tap: &Tap, direction: &mut Direction, now: Instant, buffer: &mut [u8]) -> Result<()> {
    for _ in 0..BATCH {
        match tap.recv(buffer) {
            Ok(length) => direction.handle_frame(&buffer[..length], now),
            Err(error) if error.kind() == ErrorKind::WouldBlock => break,
            Err(error) => return Err(error).context("cannot read a frame"),
        }
    }
    Ok(())
}

fn deliver(direction: &mut Direction, tap: &Tap, now: Instant) -> Result<()> {
    while let Some(frame) = direction.poll_frame(now) {
        match tap.send(&frame) {
            // An interface that is down takes nothing, like a cable that is pulled.
            Err(error) if error.raw_os_error() != Some(nix::libc::EIO) => {
                return Err(error).context("cannot write a frame");
            }
            _ => direction.recycle(frame),
        }
    }
    Ok(())
}

/// Waits until there is something to do, and says whether there are orders to read.
fn is_ordered(left: &Tap, right: &Tap, listens: bool, timeout: Option<Duration>) -> Result<bool> {
    let stdin = io::stdin();
    let mut sources = vec![
        PollFd::new(left.as_fd(), PollFlags::POLLIN),
        PollFd::new(right.as_fd(), PollFlags::POLLIN),
    ];
    if listens {
        sources.push(PollFd::new(stdin.as_fd(), PollFlags::POLLIN));
    }
    ppoll(&mut sources, timeout.map(TimeSpec::from_duration), None)?;
    Ok(sources.get(2).and_then(PollFd::any).unwrap_or_default())
}

/// Orders from standard input, line by line.
#[derive(Debug, Default)]
struct Orders {
    pending: Vec<u8>,
}

impl Orders {
    /// The orders that have arrived; nothing once there can be no more.
    fn read(&mut self) -> Result<Option<Vec<Impairment>>> {
        let mut buffer = [0; 4096];
        let length = io::stdin().lock().read(&mut buffer)?;
        if length == 0 {
            return Ok(None);
        }
        self.pending.extend_from_slice(&buffer[..length]);
        let mut orders = Vec::new();
        while let Some(end) = self.pending.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = self.pending.drain(..=end).collect();
            orders.push(serde_json::from_slice(&line)?);
        }
        Ok(Some(orders))
    }
}

fn parse_impairment(text: &str) -> serde_json::Result<Impairment> {
    serde_json::from_str(text)
}
