//! The way out, by the kernel's routes and neighbours.

use aya_ebpf::{
    bindings::{
        BPF_FIB_LKUP_RET_FRAG_NEEDED, BPF_FIB_LKUP_RET_SUCCESS, bpf_fib_lookup as Lookup,
        bpf_fib_lookup__bindgen_ty_1 as Length, bpf_fib_lookup__bindgen_ty_2 as Class,
        bpf_fib_lookup__bindgen_ty_3 as Source, bpf_fib_lookup__bindgen_ty_4 as Destination,
        bpf_fib_lookup__bindgen_ty_5 as Vlan, xdp_action,
    },
    helpers::bpf_fib_lookup,
};
use connlib_relay_xdp_types::{Address, Family, Pass};

use crate::{
    datagram::{Datagram, UDP},
    departure::Departure,
    maps,
    packet::Packet,
};

/// Routes are asked for as from the loopback interface, which is what the kernel does for packets that the host itself
/// sends. It always has this index. It has to be allowed to forward, which lets nobody else's packets through.
const LOOPBACK: u32 = 1;
const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;

/// Where to send a packet.
pub struct Way {
    interface: u32,
    action: u32,
    destination: [u8; 6],
    source: [u8; 6],
}

/// Finds the way for what a packet is to become.
#[inline(always)]
pub fn find(
    packet: Packet<'_>,
    datagram: &Datagram,
    departure: &Departure<'_>,
) -> Result<Way, Pass> {
    if datagram.hops <= 1 {
        return Err(Pass::Expired);
    }
    let family = departure.family();
    let mut lookup = Lookup {
        family: if family == Family::V4 { AF_INET } else { AF_INET6 },
        l4_protocol: UDP,
        sport: departure.source_port,
        dport: departure.to.port,
        __bindgen_anon_1: Length { tot_len: family.header() as u16 + departure.length() },
        ifindex: LOOPBACK,
        __bindgen_anon_2: match family {
            // Only the class: the rest of the union is of other uses.
            Family::V4 => Class { flowinfo: u32::from_ne_bytes([datagram.traffic_class, 0, 0, 0]) },
            Family::V6 => Class { flowinfo: (u32::from(datagram.traffic_class) << 20).to_be() },
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
    let action = if lookup.ifindex == packet.interface() {
        xdp_action::XDP_TX
    } else if maps::EGRESS.get_ifindex(lookup.ifindex).is_some() {
        xdp_action::XDP_REDIRECT
    } else {
        return Err(Pass::Egress);
    };
    Ok(Way { interface: lookup.ifindex, action, destination: lookup.dmac, source: lookup.smac })
}

impl Way {
    /// Writes the addresses of the Ethernet header.
    #[inline(always)]
    pub fn write<const WORDS: usize>(&self, front: &mut [u16; WORDS]) {
        let [a, b, c, d, e, f] = self.destination;
        let [g, h, i, j, k, l] = self.source;
        front[0] = u16::from_ne_bytes([a, b]);
        front[1] = u16::from_ne_bytes([c, d]);
        front[2] = u16::from_ne_bytes([e, f]);
        front[3] = u16::from_ne_bytes([g, h]);
        front[4] = u16::from_ne_bytes([i, j]);
        front[5] = u16::from_ne_bytes([k, l]);
    }

    /// What the program is to answer for a packet that is written.
    #[inline(always)]
    pub fn action(&self) -> u32 {
        if self.action == xdp_action::XDP_REDIRECT {
            return maps::EGRESS.redirect(self.interface, 0).unwrap_or(xdp_action::XDP_ABORTED);
        }
        self.action
    }
}

/// The words as pairs.
#[inline(always)]
fn halves(address: &Address) -> [u32; 4] {
    let words = &address.0;
    let pair = |at: usize| u32::from(words[at]) | u32::from(words[at + 1]) << 16;
    [pair(0), pair(2), pair(4), pair(6)]
}
