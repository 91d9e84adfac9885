//! The programs around the state machines, as the real ones would do it: they pass things on and drain outputs.

mod client;
mod gateway;

use std::time::Instant;

use connlib_link::{SendQueue, Transmit};
use connlib_packet::Ecn;
use connlib_tunnel::client::DnsQuery;
use connlib_tunnel::{Relay, ResolutionId};

pub(crate) use client::ClientHost;
pub(crate) use gateway::GatewayHost;

use uuid::Uuid;

use crate::internet::{STUN_V4, STUN_V6};
use crate::model::ProbeId;
use crate::portal::ToPortal;

/// What a host wants done.
#[derive(Debug)]
pub(crate) enum Effect {
    /// Send a datagram. The probe that is inside, if that is known.
    Transmit(Transmit, Ecn, Option<ProbeId>),
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

/// The server that tells hosts their addresses, as the portal announces it.
fn stun_server() -> Relay {
    Relay { id: Uuid::from_u128(0x57), addresses: vec![STUN_V4, STUN_V6], credentials: None }
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

/// Whether a datagram is a packet inside WireGuard.
pub(crate) fn is_data(datagram: &[u8]) -> bool {
    datagram.starts_with(&[4, 0, 0, 0]) && datagram.len() > connlib_link::OVERHEAD
}

/// Whether a datagram begins a WireGuard handshake.
pub(crate) fn is_initiation(datagram: &[u8]) -> bool {
    datagram.starts_with(&[1, 0, 0, 0]) && datagram.len() == 148
}

/// What a datagram is, for people.
pub(crate) fn kind(datagram: &[u8]) -> &'static str {
    match datagram.first() {
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
