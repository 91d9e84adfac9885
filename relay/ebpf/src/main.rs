//! The relay's fast path: channel data to datagrams and back, before the kernel's network stack sees them.
//!
//! A packet is first understood ([`packet`], [`datagram`]), then it is decided where it goes ([`from_channel`],
//! [`from_udp`]) and by which way ([`route`]), and only then it is touched ([`departure`]). Whatever is not plainly ours to
//! relay is passed on as it came: user space decides about that.
//!
//! The shapes of headers in `connlib-relay-xdp-types` are the only place that knows how long they are. Reading depends on
//! the shape that a packet has, writing on the one it gets, and the twelve ways through the relay are their combinations.
#![no_std]
#![no_main]

mod checksum;
mod datagram;
mod departure;
mod from_channel;
mod from_udp;
mod maps;
mod packet;
mod route;

use aya_ebpf::{bindings::xdp_action, macros::xdp, programs::XdpContext};
use connlib_relay_xdp_types::{Count, Outcome, Pass};

use datagram::Datagram;
use packet::Packet;

/// Why a packet goes on untouched: it is somebody else's, or ours for a reason that is counted.
enum Untouched {
    Foreign,
    Ours(Pass),
}

impl From<Pass> for Untouched {
    #[inline(always)]
    fn from(pass: Pass) -> Self {
        Self::Ours(pass)
    }
}

#[xdp]
pub fn relay(context: XdpContext) -> u32 {
    match forward(Packet::new(&context)) {
        Ok(action) => action,
        Err(Untouched::Foreign) => xdp_action::XDP_PASS,
        Err(Untouched::Ours(pass)) => {
            count(Outcome::Passed(pass), 0);
            xdp_action::XDP_PASS
        }
    }
}

#[inline(always)]
fn forward(packet: Packet<'_>) -> Result<u32, Untouched> {
    let datagram = Datagram::read(packet).ok_or(Untouched::Foreign)?;
    let config = maps::CONFIG.get(0).ok_or(Untouched::Foreign)?;
    let ethernet = maps::ETHERNET.get(0).ok_or(Untouched::Foreign)?;
    if !datagram.is_for(config) || datagram.is_from(config) || !packet.is_to(ethernet) {
        return Err(Untouched::Foreign);
    }
    let departure = if datagram.destination_port == config.listen_port {
        from_channel::decide(packet, &datagram, config)?
    } else {
        from_udp::decide(&datagram, config)?
    };
    let way = route::find(packet, &datagram, &departure)?;
    let path = departure.path(&datagram);
    departure.write(packet, &datagram, &way)?;
    count(Outcome::Relayed(path), departure.data.length);
    Ok(way.action())
}

#[inline(always)]
fn count(outcome: Outcome, bytes: u16) {
    if let Some(count) = maps::COUNTS.get_ptr_mut(outcome.index()) {
        // SAFETY: the slot is this CPU's alone, and nothing else of this program runs on it meanwhile.
        let count: &mut Count = unsafe { &mut *count };
        count.packets += 1;
        count.bytes += u64::from(bytes);
    }
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

/// The kernel answers questions about routes only to programs under the GPL; this one may be had under it.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 4] = *b"GPL\0";
