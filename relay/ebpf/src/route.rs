//! The way out, by the kernel's routes and neighbours.

use aya_ebpf::{
    bindings::{
        BPF_FIB_LKUP_RET_FRAG_NEEDED, BPF_FIB_LKUP_RET_SUCCESS, bpf_fib_lookup as Lookup,
        bpf_fib_lookup__bindgen_ty_1 as Length, bpf_fib_lookup__bindgen_ty_2 as Class,
        bpf_fib_lookup__bindgen_ty_3 as Source, bpf_fib_lookup__bindgen_ty_4 as Destination,
        bpf_fib_lookup__bindgen_ty_5 as Vlan, xdp_action,
    },
    helpers::{bpf_fib_lookup, bpf_ktime_get_coarse_ns},
};
use connlib_relay_xdp_types::{Address, Family, Pass};

use crate::{
    datagram::{Datagram, UDP},
    departure::Departure,
    maps::{self, HOPS_BITS},
    packet::Packet,
};

/// Routes are asked for as from the loopback interface, which is what the kernel does for packets that the host itself
/// sends. It always has this index. It has to be allowed to forward, which lets nobody else's packets through.
const LOOPBACK: u32 = 1;
const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;

/// To ask takes as long as all else that is done for a packet, so an answer is good for the next packets as well. Not for
/// long: routes and neighbours change without us being told.
const GOOD_FOR: u64 = 100_000_000;
/// Routes may depend on the DSCP, and do not on ECN.
const DSCP: u8 = 0xfc;

/// A way out that was found.
#[repr(C)]
pub struct Hop {
    /// Where it leads to
    address: Address,
    /// In nanoseconds since the system started
    good_until: u64,
    interface: u32,
    family: u16,
    dscp: u8,
    reserved: u8,
    /// The longest packet that takes it, in bytes
    longest: u16,
    destination: [u16; 3],
    source: [u16; 3],
    end: u16,
}

/// Where to send a packet.
pub struct Way<'a> {
    hop: &'a Hop,
    action: u32,
}

/// Finds the way for what a packet is to become.
#[inline(always)]
pub fn find<'a>(
    packet: Packet<'_>,
    datagram: &Datagram,
    departure: &Departure<'_>,
) -> Result<Way<'a>, Pass> {
    if datagram.hops <= 1 {
        return Err(Pass::Expired);
    }
    let address = &departure.to.address;
    let hop = maps::HOPS.get_ptr_mut(slot(address)).ok_or(Pass::NoRoute)?;
    // SAFETY: the entry is this CPU's alone, and nothing else of this program runs on it meanwhile.
    let hop: &'a mut Hop = unsafe { &mut *hop };

    // SAFETY: has no arguments.
    let now = unsafe { bpf_ktime_get_coarse_ns() };
    let length = departure.family().header() as u16 + departure.length();
    let is_known = hop.good_until > now
        && hop.address == *address
        && hop.family == departure.to.family
        && hop.dscp == datagram.traffic_class & DSCP
        && hop.longest >= length;
    if !is_known {
        hop.good_until = 0;
        hop.look_up(packet, datagram, departure, length)?;
        hop.good_until = now + GOOD_FOR;
    }

    let action = if hop.interface == packet.interface() {
        xdp_action::XDP_TX
    } else if maps::EGRESS.get_ifindex(hop.interface).is_some() {
        xdp_action::XDP_REDIRECT
    } else {
        return Err(Pass::Egress);
    };
    Ok(Way { hop, action })
}

impl Hop {
    #[inline(always)]
    fn look_up(
        &mut self,
        packet: Packet<'_>,
        datagram: &Datagram,
        departure: &Departure<'_>,
        length: u16,
    ) -> Result<(), Pass> {
        if *departure.source == Address::NONE {
            return Err(Pass::NoRoute);
        }
        let family = departure.family();
        let dscp = datagram.traffic_class & DSCP;
        let mut lookup = Lookup {
            family: if family == Family::V4 { AF_INET } else { AF_INET6 },
            l4_protocol: UDP,
            sport: departure.source_port,
            dport: departure.to.port,
            __bindgen_anon_1: Length { tot_len: length },
            ifindex: LOOPBACK,
            __bindgen_anon_2: match family {
                Family::V4 => Class { flowinfo: u32::from_ne_bytes([dscp, 0, 0, 0]) },
                Family::V6 => Class { flowinfo: (u32::from(dscp) << 20).to_be() },
            },
            __bindgen_anon_3: Source { ipv6_src: halves(departure.source) },
            __bindgen_anon_4: Destination { ipv6_dst: halves(&departure.to.address) },
            __bindgen_anon_5: Vlan { tbid: 0 },
            smac: [0; 6],
            dmac: [0; 6],
        };
        // SAFETY: the context is the kernel's, and the lookup is as long as we say.
        let result = unsafe {
            bpf_fib_lookup(packet.context().cast(), &mut lookup, size_of::<Lookup>() as i32, 0)
        };
        match result as u32 {
            BPF_FIB_LKUP_RET_SUCCESS => {}
            BPF_FIB_LKUP_RET_FRAG_NEEDED => return Err(Pass::TooBig),
            _ => return Err(Pass::NoRoute),
        }
        self.address = departure.to.address;
        self.interface = lookup.ifindex;
        self.family = departure.to.family;
        self.dscp = dscp;
        // SAFETY: both of the union are the same number. Kernels before 5.12 leave it as it was.
        self.longest = unsafe { lookup.__bindgen_anon_1.mtu_result };
        self.destination = words(lookup.dmac);
        self.source = words(lookup.smac);
        Ok(())
    }
}

impl Way<'_> {
    /// Writes the addresses of the Ethernet header.
    #[inline(always)]
    pub fn write<const WORDS: usize>(&self, front: &mut [u16; WORDS]) {
        [front[0], front[1], front[2]] = self.hop.destination;
        [front[3], front[4], front[5]] = self.hop.source;
    }

    /// What the program is to answer for a packet that is written.
    #[inline(always)]
    pub fn action(&self) -> u32 {
        if self.action == xdp_action::XDP_REDIRECT {
            let failed = xdp_action::XDP_ABORTED;
            return maps::EGRESS.redirect(self.hop.interface, 0).unwrap_or(failed);
        }
        self.action
    }
}

/// Where the way to an address is remembered.
#[inline(always)]
fn slot(address: &Address) -> u32 {
    let [a, b, c, d] = halves(address);
    // Multiplied by the golden ratio, the upper bits depend on all.
    let mixed =
        (a ^ b.rotate_left(7) ^ c.rotate_left(14) ^ d.rotate_left(21)).wrapping_mul(0x9e37_79b9);
    mixed >> (u32::BITS - HOPS_BITS)
}

/// The words as pairs.
#[inline(always)]
fn halves(address: &Address) -> [u32; 4] {
    let words = &address.0;
    let pair = |at: usize| u32::from(words[at]) | u32::from(words[at + 1]) << 16;
    [pair(0), pair(2), pair(4), pair(6)]
}

#[inline(always)]
fn words([a, b, c, d, e, f]: [u8; 6]) -> [u16; 3] {
    [u16::from_ne_bytes([a, b]), u16::from_ne_bytes([c, d]), u16::from_ne_bytes([e, f])]
}
