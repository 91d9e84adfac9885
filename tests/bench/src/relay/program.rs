//! The load's program in the kernel, which sends frames, and counts and drops those that come back.
//!
//! Its source is beside the relay's own program. How maps look is agreed with it.

use std::{
    env, fs,
    path::PathBuf,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use aya::{
    Ebpf, TestRunOptions,
    maps::{Array, MapData, PerCpuArray},
    programs::{TestRun as _, TestRunAttrs, Xdp, XdpMode},
};
use nix::{
    net::if_::if_nametoindex,
    time::{ClockId, clock_gettime},
};

use super::load::{GRACE, SILENCE, Transfer};

/// The object, beside the program that measures.
const OBJECT: &str = "connlib-bench-load.o";
const PROGRAM: &str = "load";

/// The bytes in which frames differ, from the first one on.
pub(super) const FRONT: usize = 54;
/// Those in words of 16 bits, and by how much a frame is shorter than the longest.
type Kind = [u16; FRONT / 2 + 1];

/// How many kinds of frames there is room for.
const KINDS: usize = 1024;
/// Buffers that the kernel takes at once, and hands over together.
const BATCH: u32 = 64;
/// Buffers for one call, which then takes some ten milliseconds; those for which no frame is due are dropped.
const BUFFERS: u32 = 1 << 18;

/// The program, what it is told and what it tells.
pub(super) struct Program {
    ebpf: Ebpf,
    /// The longest frame.
    longest: Vec<u8>,
    kinds: u64,
    /// When to start, in nanoseconds of the monotonic clock; frames a second; frames in a run; kinds; the interface.
    plan: Array<MapData, [u64; 5]>,
    /// Frames that were sent, and that were given up.
    progress: Array<MapData, [u64; 2]>,
    arrived: PerCpuArray<MapData, u64>,
}

/// Where the program is, if it has been built.
pub(super) fn object() -> Result<PathBuf> {
    let object = env::current_exe()?.with_file_name(OBJECT);
    ensure!(object.exists(), "`cargo xtask bench relay` builds what sends frames, if it can");
    Ok(object)
}

impl Program {
    /// For these frames, which are sent in turn. Where they are as long they differ in their [fronts](FRONT) alone.
    pub(super) fn load(frames: &[Vec<u8>]) -> Result<Self> {
        let mut ebpf =
            Ebpf::load(&fs::read(object()?)?).context("cannot load what sends frames")?;
        program(&mut ebpf)?.load()?;
        let longest = frames.iter().max_by_key(|frame| frame.len());
        let mut longest = longest.context("there is no frame to be sent")?.clone();
        longest.resize(longest.len().max(FRONT), 0);
        ensure!(frames.len() <= KINDS, "more than {KINDS} kinds of frames");
        let mut fronts: Array<_, Kind> = map(&mut ebpf, "FRAMES")?;
        for (index, frame) in (0..).zip(frames) {
            fronts.set(index, kind(frame, longest.len())?, 0)?;
        }
        Ok(Self {
            kinds: frames.len() as u64,
            longest,
            plan: map(&mut ebpf, "PLAN")?,
            progress: map(&mut ebpf, "PROGRESS")?,
            arrived: map(&mut ebpf, "ARRIVED")?,
            ebpf,
        })
    }

    /// Sends by an interface of this namespace, and counts what comes back to it.
    pub(super) fn run(
        &mut self,
        interface: &str,
        rate: f64,
        run: usize,
        duration: Duration,
    ) -> Result<Transfer> {
        let index = if_nametoindex(interface)?;
        let link = program(&mut self.ebpf)?.attach(interface, XdpMode::Driver)?;
        let transfer = self.run_attached(index, rate, run, duration);
        program(&mut self.ebpf)?.detach(link)?;
        transfer
    }

    fn run_attached(
        &mut self,
        interface: u32,
        rate: f64,
        run: usize,
        duration: Duration,
    ) -> Result<Transfer> {
        let before = self.arrived()?;
        self.progress.set(0, [0; 2], 0)?;
        let now = Duration::from(clock_gettime(ClockId::CLOCK_MONOTONIC)?).as_nanos();
        let start = u64::try_from(now)?;
        self.plan.set(0, [start, rate as u64, run as u64, self.kinds, interface.into()], 0)?;
        let start = Instant::now();
        let mut elapsed = Duration::ZERO;
        while elapsed < duration {
            self.generate()?;
            elapsed = start.elapsed();
        }
        thread::sleep(GRACE);
        let received = self.arrived()? - before;
        self.flush()?;
        let [sent, _] = self.progress.get(&0, 0)?;
        let seconds = elapsed.as_secs_f64();
        Ok(Transfer { sent, received, seconds, effort: sent as f64 / (rate * seconds) })
    }

    /// Has the kernel run the program on some of its buffers.
    fn generate(&mut self) -> Result<()> {
        program(&mut self.ebpf)?
            .test_run(TestRunOptions {
                data_in: Some(&self.longest),
                repeat: BUFFERS,
                attrs: TestRunAttrs::new().xdp_live_frames(BATCH),
                ..TestRunOptions::default()
            })
            .context("the kernel does not send frames (it has to be 5.18 or newer)")?;
        Ok(())
    }

    /// Waits until nothing comes any more.
    fn flush(&self) -> Result<()> {
        let start = Instant::now();
        let mut before = None;
        while start.elapsed() < 20 * SILENCE {
            let arrived = Some(self.arrived()?);
            if arrived == before {
                break;
            }
            before = arrived;
            thread::sleep(SILENCE);
        }
        Ok(())
    }

    fn arrived(&self) -> Result<u64> {
        Ok(self.arrived.get(&0, 0)?.iter().sum())
    }
}

fn program(ebpf: &mut Ebpf) -> Result<&mut Xdp> {
    Ok(ebpf.program_mut(PROGRAM).context("the object has no program")?.try_into()?)
}

fn map<M: TryFrom<aya::maps::Map, Error = aya::maps::MapError>>(
    ebpf: &mut Ebpf,
    name: &str,
) -> Result<M> {
    let map = ebpf.take_map(name).with_context(|| format!("there is no map {name}"))?;
    Ok(M::try_from(map)?)
}

fn kind(frame: &[u8], longest: usize) -> Result<Kind> {
    let mut kind = Kind::default();
    // A frame with the shortest payload may be shorter than its front: the rest is cut off.
    for (word, bytes) in kind.iter_mut().zip(frame.chunks(2).take(FRONT / 2)) {
        *word = u16::from_ne_bytes([bytes.first(), bytes.get(1)].map(|b| b.copied().unwrap_or(0)));
    }
    let shorter_by = u16::try_from(longest - frame.len())?;
    if let Some(last) = kind.last_mut() {
        *last = shorter_by;
    }
    Ok(kind)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kind_is_a_front_and_by_how_much_the_frame_is_shorter() {
        let frame: Vec<u8> = (0..50).collect();
        let kind = kind(&frame, 54).unwrap();
        let (front, shorter_by) = kind.split_at(FRONT / 2);
        assert_eq!(front[24].to_ne_bytes(), [48, 49]);
        assert_eq!((front[25], front[26], shorter_by), (0, 0, &[4][..]));
    }
}
