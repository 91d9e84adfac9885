//! The programs around the state machines, as the real ones would do it: they pass things on and drain outputs.

mod client;
mod gateway;
mod relay;

use std::time::Instant;

use connlib_link::{SendQueue, StreamRequest, Transmit};
use connlib_packet::Ecn;
use connlib_tunnel::ResolutionId;
use connlib_tunnel::client::DnsQuery;

pub(crate) use client::ClientHost;
pub(crate) use gateway::GatewayHost;
pub(crate) use relay::{RelayHost, addresses as relay_addresses};

use crate::model::ProbeId;
use crate::portal::ToPortal;

/// What a host wants done.
#[derive(Debug)]
pub(crate) enum Effect {
    /// Send a datagram. The probe that is inside, if that is known.
    Transmit(Transmit, Ecn, Option<ProbeId>),
    /// Connect to a relay, or leave it.
    Stream(StreamRequest),
    /// Tell the portal.
    Portal(ToPortal),
    /// A packet for an application, or for the network behind a gateway.
    Deliver(Vec<u8>),
    /// Look a name up.
    Resolve(ResolutionId, String),
    /// Ask a resolver.
    Query(DnsQuery),
    /// Something that is only worth knowing.
    Note(String),
    /// Something that must not be.
    Violation(String),
}

/// Bytes of a batch: room for a run of datagrams.
const BATCH: usize = 128 * 1024;

/// When a host was woken by its own timer.
#[derive(Debug, Default)]
pub(crate) struct Alarm {
    pub(crate) at: Option<Instant>,
    /// How often it went off.
    pub(crate) rings: u64,
    last: Option<Instant>,
    repeated: u32,
}

impl Alarm {
    /// It goes off; false if it does so without end.
    pub(crate) fn ring(&mut self, now: Instant) -> bool {
        self.rings += 1;
        if self.last == Some(now) {
            self.repeated += 1;
        } else {
            (self.last, self.repeated) = (Some(now), 0);
        }
        self.repeated < 16
    }
}

/// The datagrams of a queue, which all come from the packet with this probe.
fn flush(queue: &mut SendQueue, cargo: Option<ProbeId>, out: &mut Vec<Effect>) {
    for (run, bytes) in queue.runs() {
        for payload in bytes.chunks(run.segment_size) {
            let payload = payload.to_vec();
            let cargo = cargo.filter(|_| is_data(&payload));
            let transmit = Transmit { path: run.path, payload };
            out.push(Effect::Transmit(transmit, Ecn::from_bits(run.ecn), cargo));
        }
    }
    queue.clear();
}

/// What is inside a datagram that goes to or comes from a relay.
fn unwrapped(datagram: &[u8]) -> &[u8] {
    match datagram {
        [0x40..0x50, _, high, low, rest @ ..] => {
            rest.get(..u16::from_be_bytes([*high, *low]).into()).unwrap_or_default()
        }
        _ => datagram,
    }
}

/// Whether a datagram is a packet inside WireGuard.
pub(crate) fn is_data(datagram: &[u8]) -> bool {
    let datagram = unwrapped(datagram);
    datagram.starts_with(&[4, 0, 0, 0]) && datagram.len() > connlib_link::OVERHEAD
}

/// Whether a datagram begins a WireGuard handshake.
pub(crate) fn is_initiation(datagram: &[u8]) -> bool {
    let datagram = unwrapped(datagram);
    datagram.starts_with(&[1, 0, 0, 0]) && datagram.len() == 148
}

/// What a datagram is, for people.
pub(crate) fn kind(datagram: &[u8]) -> &'static str {
    match unwrapped(datagram).first() {
        Some(0) => "STUN request",
        Some(1) if datagram.get(4..8) == Some(&[0x21, 0x12, 0xa4, 0x42]) => "STUN answer",
        Some(1) => "handshake initiation",
        Some(2) => "handshake response",
        Some(3) => "cookie",
        Some(4) if is_data(datagram) => "packet",
        Some(4) => "keep-alive",
        _ => "something",
    }
}
