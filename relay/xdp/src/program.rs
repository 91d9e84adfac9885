//! The program in the kernel, whether it is attached or not.

use std::time::Duration;

use aya::{
    Ebpf, TestRunOptions,
    maps::{Array, Map, MapData, xdp::DevMapHash},
    programs::{self, ProgramError, TestRun as _, XdpMode, links::FdLink},
    util::KernelVersion,
};
use connlib_relay_xdp_types::{Ethernet, names};

use crate::{AttachError, Config, Maps, Mode, interface::Interface, maps::ANY};

/// The object, if it was there when this was built.
#[cfg(has_program)]
const OBJECT: Option<&[u8]> = Some(aya::include_bytes_aligned!("../object/relay.o"));
#[cfg(not(has_program))]
const OBJECT: Option<&[u8]> = None;

/// What the program would do with a frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// With the packet
    pub action: Action,
    /// What it has become
    pub frame: Vec<u8>,
    /// How long that took, on average
    pub duration: Duration,
}

/// How often the program ran and how long that took, while the kernel counted it (`kernel.bpf_stats_enabled`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Runs {
    /// How many packets it has seen
    pub count: u64,
    /// For all of them
    pub time: Duration,
}

/// What becomes of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Lost by a fault of the program
    Aborted,
    /// Dropped
    Drop,
    /// Goes on to the kernel's network stack
    Pass,
    /// Leaves by the interface it came by
    Transmit,
    /// Leaves by another interface
    Redirect,
}

/// Room for what a frame may grow by.
const GROWTH: usize = 64;

/// The program, loaded.
pub(crate) struct Program {
    ebpf: Ebpf,
    id: u32,
    ethernet: Array<MapData, [u16; Ethernet::WORDS]>,
    egress: DevMapHash<MapData>,
    /// What is in that map: the interfaces' indices.
    served: Vec<u32>,
}

impl Program {
    /// Has the kernel load and verify the program, and tells it who we are.
    pub(crate) fn load(config: &Config) -> Result<(Self, Maps), AttachError> {
        // Before it is attached in a way that would outlive us.
        if KernelVersion::current().is_ok_and(|version| version < KernelVersion::new(5, 9, 0)) {
            return Err(AttachError::OldKernel);
        }
        let mut ebpf =
            Ebpf::load(OBJECT.ok_or(AttachError::NotBuilt)?).map_err(AttachError::load)?;
        let program = xdp(&mut ebpf)?;
        program.load().map_err(AttachError::load)?;
        let id = program.info().map_err(AttachError::load)?.id();

        let maps = Maps::take(&mut ebpf, config)?;
        let ethernet = take_map(&mut ebpf, names::ETHERNET)?;
        let egress = take_map(&mut ebpf, names::EGRESS)?;
        Ok((Self { ebpf, id, ethernet, egress, served: Vec::new() }, maps))
    }

    /// The kernel's number for it.
    pub(crate) fn id(&self) -> u32 {
        self.id
    }

    /// From now on packets for these interfaces are relayed, and may leave by these, and no others.
    pub(crate) fn serve(&mut self, interfaces: &[Interface]) -> Result<(), AttachError> {
        let indices: Vec<u32> = interfaces.iter().map(|interface| interface.index).collect();
        for index in self.served.extract_if(.., |index| !indices.contains(index)) {
            // The kernel has forgotten those that are gone.
            drop(self.egress.remove(index));
        }
        for index in &indices {
            // The same number may be another interface's by now.
            self.egress.insert(*index, *index, None, ANY).map_err(AttachError::load)?;
            if !self.served.contains(index) {
                self.served.push(*index);
            }
        }
        let ethernet = Ethernet::new(interfaces.iter().filter_map(|interface| interface.ethernet));
        self.ethernet.set(0, ethernet.words(), ANY).map_err(AttachError::load)
    }

    /// Attaches it to one interface, until the link is dropped.
    pub(crate) fn attach(
        &mut self,
        interface: &str,
        index: u32,
        mode: Mode,
    ) -> Result<FdLink, AttachError> {
        let program = xdp(&mut self.ebpf)?;
        let wanted = match mode {
            Mode::Native => XdpMode::Driver,
            Mode::Generic => XdpMode::Skb,
        };
        let attached = program.attach_to_if_index(index, wanted).map_err(|error| {
            let source = match error {
                ProgramError::SyscallError(error) => error.io_error,
                error => std::io::Error::other(error),
            };
            AttachError::Attach { interface: interface.to_owned(), mode, source }
        })?;
        let link = program.take_link(attached).map_err(AttachError::load)?;
        // Of the process's own, so that nothing stays behind if we crash.
        FdLink::try_from(link).map_err(|_| AttachError::OldKernel)
    }

    pub(crate) fn runs(&mut self) -> Result<Runs, AttachError> {
        let info = xdp(&mut self.ebpf)?.info().map_err(AttachError::load)?;
        Ok(Runs { count: info.run_count(), time: info.run_time() })
    }

    /// Runs the program on a frame as if it had come by an interface.
    pub(crate) fn run(
        &mut self,
        frame: &[u8],
        interface: u32,
        times: u32,
    ) -> Result<Verdict, AttachError> {
        let mut out = vec![0; frame.len() + GROWTH];
        // `struct xdp_md`: start, end and metadata of the packet, interface and queue it came by, and the one it leaves by.
        let length = u32::try_from(frame.len()).unwrap_or(u32::MAX);
        let context = [0, length, 0, interface, 0, 0].map(u32::to_ne_bytes).concat();
        let result = xdp(&mut self.ebpf)?.test_run(TestRunOptions {
            data_in: Some(frame),
            data_out: Some(&mut out),
            ctx_in: Some(&context),
            repeat: times,
            ..TestRunOptions::default()
        });
        let result = result.map_err(AttachError::load)?;
        out.truncate(result.data_size_out as usize);
        Ok(Verdict { action: result.return_value.into(), frame: out, duration: result.duration })
    }
}

impl From<u32> for Action {
    fn from(number: u32) -> Self {
        match number {
            1 => Self::Drop,
            2 => Self::Pass,
            3 => Self::Transmit,
            4 => Self::Redirect,
            _ => Self::Aborted,
        }
    }
}

fn xdp(ebpf: &mut Ebpf) -> Result<&mut programs::Xdp, AttachError> {
    let program = ebpf.program_mut(names::PROGRAM).ok_or(AttachError::NotBuilt)?;
    program.try_into().map_err(|error: ProgramError| AttachError::load(error))
}

/// Takes a map out of the object, if it is as we know it.
pub(crate) fn take_map<M: TryFrom<Map, Error = aya::maps::MapError>>(
    ebpf: &mut Ebpf,
    name: &str,
) -> Result<M, AttachError> {
    let map = ebpf.take_map(name).ok_or(AttachError::NotBuilt)?;
    M::try_from(map).map_err(AttachError::load)
}
