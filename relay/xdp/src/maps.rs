//! What the program knows, and counts.

use std::net::{Ipv4Addr, Ipv6Addr};

use aya::{
    Ebpf,
    maps::{Array, HashMap, MapData, PerCpuArray},
};
use connlib_relay_xdp_types::{self as types, Family, Leg, Outcome, names};

use crate::{
    Addresses, AttachError, Binding, Config, Counters, MapError, forwarding, program::take_map,
};

/// Any entry of a hash map may be written, whether it is there or not.
pub(crate) const ANY: u64 = 0;

type LegMap = HashMap<MapData, [u16; Leg::WORDS], [u16; Leg::WORDS]>;

/// The ports and channels that the program relays, and its counters. They are there as long as the program is loaded: it can
/// be told of things while it is not attached, and counts on when it is attached again.
pub struct Maps {
    config: Config,
    own: Array<MapData, [u16; types::Config::WORDS]>,
    channels: LegMap,
    peers: LegMap,
    ports: Array<MapData, u8>,
    counts: PerCpuArray<MapData, [u64; 2]>,
}

impl Maps {
    /// Takes them out of the object, and tells the program who we are.
    pub(crate) fn take(ebpf: &mut Ebpf, config: &Config) -> Result<Self, AttachError> {
        let mut maps = Self {
            config: config.clone(),
            own: take_map(ebpf, names::CONFIG)?,
            channels: take_map(ebpf, names::CHANNELS)?,
            peers: take_map(ebpf, names::PEERS)?,
            ports: take_map(ebpf, names::PORTS)?,
            counts: take_map(ebpf, names::COUNTS)?,
        };
        maps.own.set(0, config.for_program().words(), ANY).map_err(AttachError::load)?;
        allow_forwarding(config);
        Ok(maps)
    }

    /// From now on these are the relay's addresses. The program is told only what is new.
    ///
    /// # Errors
    ///
    /// If the kernel fails; the addresses are as they were.
    pub fn set_addresses(
        &mut self,
        v4: Option<Addresses<Ipv4Addr>>,
        v6: Option<Addresses<Ipv6Addr>>,
    ) -> Result<(), MapError> {
        if (v4, v6) == (self.config.v4, self.config.v6) {
            return Ok(());
        }
        let config = Config { v4, v6, ..self.config.clone() };
        self.own.set(0, config.for_program().words(), ANY)?;
        allow_forwarding(&config);
        self.config = config;
        Ok(())
    }

    /// This port is an allocation's from now on, in this family: packets to it may be relayed by the program.
    ///
    /// # Errors
    ///
    /// If the kernel fails; user space relays then.
    pub fn add_port(&mut self, allocation_port: u16, family: Family) -> Result<(), MapError> {
        self.set_port(allocation_port, family, family.bit())
    }

    /// The allocation is gone: packets to its port are none of the program's business.
    ///
    /// # Errors
    ///
    /// If the kernel fails.
    pub fn remove_port(&mut self, allocation_port: u16, family: Family) -> Result<(), MapError> {
        self.set_port(allocation_port, family, 0)
    }

    fn set_port(&mut self, port: u16, family: Family, bit: u8) -> Result<(), MapError> {
        let others = self.ports.get(&port.into(), ANY)? & !family.bit();
        Ok(self.ports.set(port.into(), others | bit, ANY)?)
    }

    /// From now on the program relays what belongs to this binding, both ways, as long as its port is
    /// [one of ours](Self::add_port). To insert it again is fine.
    ///
    /// A peer that is an allocation of this relay may be named by the public or the local address.
    ///
    /// # Errors
    ///
    /// If there is no room or the kernel fails; user space relays then.
    pub fn insert_channel(&mut self, binding: &Binding) -> Result<(), MapError> {
        let Binding { client, channel, allocation_port, peer } = *binding;
        let client = Leg::to(client, channel).words();
        let peer = Leg::to(self.config.known_as(peer), allocation_port).words();
        self.channels.insert(client, peer, ANY)?;
        let inserted = self.peers.insert(peer, client, ANY);
        if inserted.is_err() {
            // One without the other would be relayed one way by us and the other way by user space.
            drop(self.channels.remove(&client));
        }
        Ok(inserted?)
    }

    /// The channel is not bound any more. It is fine if it never was.
    ///
    /// # Errors
    ///
    /// If the kernel fails.
    pub fn remove_channel(&mut self, binding: &Binding) -> Result<(), MapError> {
        let client = Leg::to(binding.client, binding.channel).words();
        // What it was when it was inserted: our own name may have changed since.
        let Some(peer) = found(self.channels.get(&client, ANY))? else { return Ok(()) };
        found(self.channels.remove(&client))?;
        found(self.peers.remove(&peer))?;
        Ok(())
    }

    /// What became of packets so far. Costs a system call for each counter.
    ///
    /// # Errors
    ///
    /// If the kernel fails.
    pub fn counters(&self) -> Result<Counters, MapError> {
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
}

impl std::fmt::Debug for Maps {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Maps").field("config", &self.config).finish_non_exhaustive()
    }
}

/// For the families that the relay has.
fn allow_forwarding(config: &Config) {
    if config.v4.is_some() {
        forwarding::allow(Family::V4);
    }
    if config.v6.is_some() {
        forwarding::allow(Family::V6);
    }
}

/// An entry, if it is there.
fn found<T>(result: Result<T, aya::maps::MapError>) -> Result<Option<T>, MapError> {
    match result {
        Ok(entry) => Ok(Some(entry)),
        Err(aya::maps::MapError::KeyNotFound) => Ok(None),
        Err(aya::maps::MapError::SyscallError(error))
            if error.io_error.kind() == std::io::ErrorKind::NotFound =>
        {
            Ok(None)
        }
        Err(error) => Err(error.into()),
    }
}
