//! The program in the kernel, whether it is attached or not.

use std::time::Duration;

use aya::{
    Ebpf, TestRunOptions,
    maps::{Array, HashMap, Map, MapData, PerCpuArray, xdp::DevMapHash},
    programs::{self, TestRun as _},
};
use connlib_relay_xdp_types::{self as types, Family, Leg, Outcome, names};

use crate::{AttachError, Binding, Config, Counters, MapError};

/// The object, if it was there when this was built.
#[cfg(has_program)]
const OBJECT: Option<&[u8]> = Some(aya::include_bytes_aligned!("../object/relay.o"));
#[cfg(not(has_program))]
const OBJECT: Option<&[u8]> = None;

/// Any entry of a hash map may be written, whether it is there or not.
const ANY: u64 = 0;

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

type LegMap = HashMap<MapData, [u16; Leg::WORDS], [u16; Leg::WORDS]>;

/// The program and its maps.
pub(crate) struct Program {
    ebpf: Ebpf,
    channels: LegMap,
    peers: LegMap,
    ports: Array<MapData, u8>,
    counts: PerCpuArray<MapData, [u64; 2]>,
}

impl Program {
    /// Has the kernel load and verify the program, and tells it who we are.
    pub(crate) fn load(config: &Config) -> Result<Self, AttachError> {
        let mut ebpf =
            Ebpf::load(OBJECT.ok_or(AttachError::NotBuilt)?).map_err(AttachError::load)?;
        xdp(&mut ebpf)?.load().map_err(AttachError::load)?;

        let mut own: Array<_, [u16; types::Config::WORDS]> = map(&mut ebpf, names::CONFIG)?;
        own.set(0, config.for_program().words(), 0).map_err(AttachError::load)?;
        let mut egress: DevMapHash<MapData> = map(&mut ebpf, names::EGRESS)?;
        for interface in &config.interfaces {
            let index = index(interface)?;
            egress.insert(index, index, None, ANY).map_err(AttachError::load)?;
        }
        let channels = map(&mut ebpf, names::CHANNELS)?;
        let peers = map(&mut ebpf, names::PEERS)?;
        let ports = map(&mut ebpf, names::PORTS)?;
        let counts = map(&mut ebpf, names::COUNTS)?;
        Ok(Self { ebpf, channels, peers, ports, counts })
    }

    pub(crate) fn xdp(&mut self) -> Result<&mut programs::Xdp, AttachError> {
        xdp(&mut self.ebpf)
    }

    pub(crate) fn insert(&mut self, client: Leg, peer: Leg) -> Result<(), MapError> {
        self.channels.insert(client.words(), peer.words(), ANY)?;
        let inserted = self.peers.insert(peer.words(), client.words(), ANY);
        if inserted.is_err() {
            // One without the other would be relayed one way by us and the other way by user space.
            drop(self.channels.remove(&client.words()));
        }
        Ok(inserted?)
    }

    pub(crate) fn remove(&mut self, client: Leg, peer: Leg) -> Result<(), MapError> {
        let removed = [self.channels.remove(&client.words()), self.peers.remove(&peer.words())];
        removed.into_iter().try_for_each(|removed| match removed {
            Err(aya::maps::MapError::KeyNotFound) | Ok(()) => Ok(()),
            Err(aya::maps::MapError::SyscallError(error))
                if error.io_error.kind() == std::io::ErrorKind::NotFound =>
            {
                Ok(())
            }
            Err(error) => Err(error.into()),
        })
    }

    pub(crate) fn set_port(
        &mut self,
        port: u16,
        family: Family,
        is_allocated: bool,
    ) -> Result<(), MapError> {
        let others = self.ports.get(&port.into(), ANY)? & !family.bit();
        let own = if is_allocated { family.bit() } else { 0 };
        Ok(self.ports.set(port.into(), others | own, ANY)?)
    }

    pub(crate) fn counters(&self) -> Result<Counters, MapError> {
        let mut counters = Counters::NONE;
        for outcome in Outcome::all() {
            let slot = counters.slot(outcome);
            for [packets, bytes] in self.counts.get(&outcome.index(), 0)?.iter() {
                slot.packets += packets;
                slot.bytes += bytes;
            }
        }
        Ok(counters)
    }

    pub(crate) fn runs(&mut self) -> Result<Runs, AttachError> {
        let info = self.xdp()?.info().map_err(AttachError::load)?;
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
        let result = self.xdp()?.test_run(TestRunOptions {
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

/// The legs of a binding, to its client and to its peer.
pub(crate) fn legs(config: &Config, binding: &Binding) -> (Leg, Leg) {
    let Binding { client, channel, allocation_port, peer } = *binding;
    (Leg::to(client, channel), Leg::to(config.known_as(peer), allocation_port))
}

/// The number that the kernel has for an interface.
pub(crate) fn index(interface: &str) -> Result<u32, AttachError> {
    nix::net::if_::if_nametoindex(interface)
        .map_err(|_| AttachError::UnknownInterface(interface.to_owned()))
}

fn xdp(ebpf: &mut Ebpf) -> Result<&mut programs::Xdp, AttachError> {
    let program = ebpf.program_mut(names::PROGRAM).ok_or(AttachError::NotBuilt)?;
    program.try_into().map_err(|error: programs::ProgramError| AttachError::load(error))
}

/// Takes a map out of the object, if it is as we know it.
fn map<M: TryFrom<Map, Error = aya::maps::MapError>>(
    ebpf: &mut Ebpf,
    name: &str,
) -> Result<M, AttachError> {
    let map = ebpf.take_map(name).ok_or(AttachError::NotBuilt)?;
    M::try_from(map).map_err(AttachError::load)
}
