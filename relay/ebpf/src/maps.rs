//! What user space tells the program, and hears from it.

use aya_ebpf::{
    bindings::BPF_F_NO_PREALLOC,
    macros::map,
    maps::{Array, DevMapHash, HashMap, PerCpuArray},
};
use connlib_relay_xdp_types::{
    COUNTS as COUNTERS, Config, Count, Ethernet, Family, INTERFACES, Leg,
};

use crate::route::Hop;

/// Bindings beyond these are user space's to relay. An entry costs about 100 bytes in each of the two maps, once it is
/// there.
const BINDINGS: u32 = 1 << 18;
/// There are as many ways out to remember, for each CPU, as this many bits count. One takes 48 bytes.
pub const HOPS_BITS: u32 = 10;

#[map]
pub static CONFIG: Array<Config> = Array::with_max_entries(1, 0);

#[map]
pub static ETHERNET: Array<Ethernet> = Array::with_max_entries(1, 0);

#[map]
pub static PORTS: Array<u8> = Array::with_max_entries(1 << 16, 0);

/// Not preallocated: an entry's memory is used for another only when no packet can be reading it any more.
#[map]
pub static CHANNELS: HashMap<Leg, Leg> = HashMap::with_max_entries(BINDINGS, BPF_F_NO_PREALLOC);

#[map]
pub static PEERS: HashMap<Leg, Leg> = HashMap::with_max_entries(BINDINGS, BPF_F_NO_PREALLOC);

#[map]
pub static EGRESS: DevMapHash = DevMapHash::with_max_entries(INTERFACES as u32, 0);

#[map]
pub static COUNTS: PerCpuArray<Count> = PerCpuArray::with_max_entries(COUNTERS, 0);

/// Ways out that were found lately, by a part of the address they lead to.
#[map]
pub static HOPS: PerCpuArray<Hop> = PerCpuArray::with_max_entries(1 << HOPS_BITS, 0);

/// Whether a port (a word) is an allocation's.
#[inline(always)]
pub fn is_allocated(family: Family, port: u16) -> bool {
    let number = connlib_relay_xdp_types::number(port);
    PORTS.get(u32::from(number)).is_some_and(|families| families & family.bit() != 0)
}

/// The other leg of a binding.
#[inline(always)]
pub fn other_leg<'a>(map: &'static HashMap<Leg, Leg>, leg: &Leg) -> Option<&'a Leg> {
    // SAFETY: entries are not preallocated, so one that is being read stays as it is; and it stays until the program
    // ends, for which 'a is a stand-in.
    unsafe { map.get(leg) }
}
