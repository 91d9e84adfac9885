//! Sending what was gathered.

use std::io::{self, IoSlice};
use std::net::{IpAddr, SocketAddr};

use super::Listen;
use super::ports::Ports;
use super::stats::IoCounters;
use crate::outbox::{Gathered, Outbox, Slices, Via};
use crate::udp::{MAX_SEGMENTS, UdpSocket, may_refuse_segmentation};

/// Destinations to remember that the kernel does not segment for.
const REFUSALS: usize = 16;

/// Sends runs of datagrams, cut by the kernel where it can.
///
/// That it can't belongs to a path (its device cannot checksum, IPsec covers it, its MTU is below the segment size), so
/// that other destinations keep the fast way. The oldest refusal makes room; a forgotten one costs a failed call.
#[derive(Debug, Default)]
pub(super) struct Sender {
    refusals: [Option<IpAddr>; REFUSALS],
    next: usize,
}

impl Sender {
    /// Sends all there is and clears the outbox.
    pub(super) fn flush(
        &mut self,
        outbox: &mut Outbox,
        buffer: &[u8],
        listen: &Listen,
        ports: &Ports,
        counters: &mut IoCounters,
    ) {
        for run in outbox.runs(buffer) {
            let socket = match run.via {
                Via::Listen => listen.socket(run.to),
                Via::Relay(slot) => ports.at(slot).and_then(|port| port.socket(run.to)),
            };
            match socket {
                Some(socket) => self.send(socket, run, counters),
                None => counters.send_refused += run.count as u64,
            }
        }
        outbox.clear();
    }

    fn send(&mut self, socket: &UdpSocket, mut run: Gathered<'_>, counters: &mut IoCounters) {
        if run.count == 1 || !self.refuses(run.to) {
            let mut slices: Slices<'_> = [IoSlice::new(&[]); 3 * MAX_SEGMENTS];
            // Some drivers dislike segmentation of what is one segment.
            let segment_size =
                if run.count > 1 { u16::try_from(run.segment_size).ok() } else { None };
            let result = socket.send(run.to, run.ecn, segment_size, run.gather(&mut slices));
            match result {
                Err(error) if run.count > 1 && may_refuse_segmentation(&error) => {}
                result => return count(result, run.count, counters),
            }
        }
        let mut sent = 0;
        while let Some(parts) = run.next_datagram() {
            let result = socket.send(run.to, run.ecn, None, &parts);
            sent += usize::from(result.is_ok());
            count(result, 1, counters);
        }
        // What failed as a whole went out in parts: segmentation is at fault, not an address or a filter.
        if sent > 0 && !self.refuses(run.to) {
            tracing::debug!(to = %run.to, segment = run.segment_size, "this path takes no segmentation offload");
            self.refusals[self.next] = Some(run.to.ip());
            self.next = (self.next + 1) % REFUSALS;
        }
    }

    fn refuses(&self, to: SocketAddr) -> bool {
        // Filled from the front: an empty first slot means that there are none.
        self.refusals[0].is_some() && self.refusals.contains(&Some(to.ip()))
    }
}

/// Counts what became of `datagrams` after one system call.
pub(super) fn count(result: io::Result<()>, datagrams: usize, counters: &mut IoCounters) {
    counters.sent.calls += 1;
    match result {
        Ok(()) => counters.sent.datagrams += datagrams as u64,
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
            counters.send_buffer_full += datagrams as u64;
        }
        Err(error) => {
            tracing::trace!(%error, "datagrams were not sent");
            counters.send_refused += datagrams as u64;
        }
    }
}
