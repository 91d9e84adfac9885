//! What goes out at the end of a turn: datagrams of one batch, gathered into runs that the kernel cuts.

use std::io::IoSlice;
use std::net::SocketAddr;
use std::ops::Range;

use connlib_relay::server::Prefix;

use crate::udp::{MAX_PAYLOAD, MAX_SEGMENTS};

/// Datagrams that are gathered at most before they have to be sent.
const CAPACITY: usize = 512;

/// Places to remember the latest run of a flow in.
const FLOWS: usize = 64;

const ZEROS: [u8; 3] = [0; 3];

/// The end of a run's list of parts.
const NO_PART: u16 = u16::MAX;

/// Through which socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Via {
    /// The one that clients talk to, of the destination's family.
    Listen,
    /// That of the allocation in this slot, of the destination's family.
    Relay(usize),
}

/// Datagrams whose payload is still where it was received. They go in the order in which they came, flow by flow.
#[derive(Debug)]
pub(crate) struct Outbox {
    parts: Vec<Part>,
    runs: Vec<Run>,
    latest: [Option<u16>; FLOWS],
}

#[derive(Debug)]
struct Part {
    prefix: Option<Prefix>,
    payload: Range<usize>,
    padding: usize,
    next: u16,
}

#[derive(Debug)]
struct Run {
    via: Via,
    to: SocketAddr,
    ecn: u8,
    segment_size: usize,
    bytes: usize,
    count: usize,
    /// A shorter segment has ended it.
    is_closed: bool,
    first: u16,
    last: u16,
}

/// A run, ready to be sent.
pub(crate) struct Gathered<'a> {
    pub(crate) via: Via,
    pub(crate) to: SocketAddr,
    pub(crate) ecn: u8,
    /// Bytes of each datagram but the last.
    pub(crate) segment_size: usize,
    /// How many datagrams there are.
    pub(crate) count: usize,
    outbox: &'a Outbox,
    first: u16,
    buffer: &'a [u8],
}

/// The memory of one system call's parts: three for each datagram.
pub(crate) type Slices<'a> = [IoSlice<'a>; 3 * MAX_SEGMENTS];

impl Outbox {
    pub(crate) fn new() -> Self {
        Self {
            parts: Vec::with_capacity(CAPACITY),
            runs: Vec::with_capacity(CAPACITY),
            latest: [None; FLOWS],
        }
    }

    /// Whether nothing more can be [pushed](Self::push) before it is cleared.
    pub(crate) fn is_full(&self) -> bool {
        self.parts.len() == CAPACITY
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.parts.is_empty()
    }

    /// Adds a datagram: `prefix`, the `payload` by its place in the buffer, and `padding` zeros (at most three).
    pub(crate) fn push(
        &mut self,
        via: Via,
        to: SocketAddr,
        ecn: u8,
        prefix: Option<Prefix>,
        payload: Range<usize>,
        padding: usize,
    ) {
        debug_assert!(!self.is_full());
        let size =
            prefix.as_ref().map_or(0, |prefix| prefix.as_bytes().len()) + payload.len() + padding;
        let part = self.parts.len() as u16;
        self.parts.push(Part { prefix, payload, padding: padding.min(ZEROS.len()), next: NO_PART });

        let flow = flow(via, to);
        if let Some(run) = self.latest[flow].and_then(|run| self.runs.get_mut(usize::from(run)))
            && run.takes(via, to, ecn, size)
        {
            self.parts[usize::from(run.last)].next = part;
            run.last = part;
            run.count += 1;
            run.bytes += size;
            run.is_closed = size < run.segment_size;
            return;
        }
        self.latest[flow] = Some(self.runs.len() as u16);
        self.runs.push(Run {
            via,
            to,
            ecn,
            segment_size: size,
            bytes: size,
            count: 1,
            is_closed: size == 0,
            first: part,
            last: part,
        });
    }

    /// What is to be sent, from the `buffer` in which the payloads are.
    pub(crate) fn runs<'a>(&'a self, buffer: &'a [u8]) -> impl Iterator<Item = Gathered<'a>> {
        self.runs.iter().map(move |run| Gathered {
            via: run.via,
            to: run.to,
            ecn: run.ecn,
            segment_size: run.segment_size,
            count: run.count,
            outbox: self,
            first: run.first,
            buffer,
        })
    }

    pub(crate) fn clear(&mut self) {
        self.parts.clear();
        self.runs.clear();
        self.latest = [None; FLOWS];
    }
}

impl Run {
    fn takes(&self, via: Via, to: SocketAddr, ecn: u8, size: usize) -> bool {
        !self.is_closed
            && self.to == to
            && self.via == via
            && self.ecn == ecn
            && (1..=self.segment_size).contains(&size)
            && self.count < MAX_SEGMENTS
            && self.bytes + size <= MAX_PAYLOAD
    }
}

impl<'a> Gathered<'a> {
    /// The parts of the datagram at the front, which is taken off.
    pub(crate) fn next_datagram(&mut self) -> Option<[IoSlice<'a>; 3]> {
        let part = self.outbox.parts.get(usize::from(self.first))?;
        self.first = part.next;
        let prefix = part.prefix.as_ref().map_or(&[][..], |prefix| prefix.as_bytes());
        let payload = &self.buffer[part.payload.clone()];
        Some([prefix, payload, &ZEROS[..part.padding]].map(IoSlice::new))
    }

    /// All parts that are not empty.
    pub(crate) fn gather<'s>(&self, slices: &'s mut Slices<'a>) -> &'s [IoSlice<'a>] {
        let mut rest = Self { ..*self };
        let mut len = 0;
        while let Some(datagram) = rest.next_datagram() {
            for slice in datagram.into_iter().filter(|slice| !slice.is_empty()) {
                slices[len] = slice;
                len += 1;
            }
        }
        &slices[..len]
    }
}

/// Where the latest run of a flow is remembered. Flows that share a place only break each other's runs.
fn flow(via: Via, to: SocketAddr) -> usize {
    let slot = match via {
        Via::Listen => 0,
        Via::Relay(slot) => slot + 1,
    };
    let address = match to.ip() {
        std::net::IpAddr::V4(ip) => ip.to_bits(),
        std::net::IpAddr::V6(ip) => ip.to_bits() as u32,
    };
    let mixed = (slot as u32 ^ address ^ u32::from(to.port()) << 16).wrapping_mul(0x9e37_79b1);
    (mixed >> 26) as usize % FLOWS
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(port: u16) -> SocketAddr {
        ([192, 0, 2, 1], port).into()
    }

    fn sent(outbox: &Outbox, buffer: &[u8]) -> Vec<(Via, u16, usize, Vec<u8>)> {
        let run = |run: Gathered<'_>| {
            let mut slices = [IoSlice::new(&[]); 3 * MAX_SEGMENTS];
            let bytes = run.gather(&mut slices).iter().flat_map(|slice| slice.to_vec()).collect();
            (run.via, run.to.port(), run.segment_size, bytes)
        };
        outbox.runs(buffer).map(run).collect()
    }

    #[test]
    fn equal_datagrams_of_a_flow_become_a_run_and_a_shorter_one_ends_it() {
        let buffer: Vec<u8> = (0..100).collect();
        let mut outbox = Outbox::new();
        for range in [0..10, 20..30, 40..45, 50..60, 60..75, 80..81] {
            outbox.push(Via::Listen, address(1), 0, None, range, 0);
        }
        let runs = sent(&outbox, &buffer);
        let sizes: Vec<_> = runs.iter().map(|run| (run.2, run.3.len())).collect();
        assert_eq!(sizes, [(10, 25), (10, 10), (15, 16)]);
        assert_eq!(runs[0].3, [&buffer[0..10], &buffer[20..30], &buffer[40..45]].concat());
    }

    #[test]
    fn flows_that_alternate_have_a_run_each() {
        let buffer = [7; 100];
        let mut outbox = Outbox::new();
        for _ in 0..10 {
            for (via, port) in [(Via::Listen, 1), (Via::Listen, 2), (Via::Relay(0), 1)] {
                outbox.push(via, address(port), 0, None, 0..10, 2);
            }
        }
        let runs = sent(&outbox, &buffer);
        assert_eq!(runs.len(), 3);
        assert!(runs.iter().all(|run| run.2 == 12 && run.3.len() == 120));
        outbox.clear();
        assert!(outbox.is_empty() && sent(&outbox, &buffer).is_empty());
    }

    #[test]
    fn marked_and_unmarked_datagrams_are_not_mixed() {
        let mut outbox = Outbox::new();
        outbox.push(Via::Listen, address(1), 0, None, 0..10, 0);
        outbox.push(Via::Listen, address(1), 3, None, 0..10, 0);
        assert_eq!(sent(&outbox, &[0; 10]).len(), 2);
    }

    #[test]
    fn a_run_is_never_more_than_the_kernel_takes() {
        let buffer = vec![0; 65_535];
        let mut outbox = Outbox::new();
        for _ in 0..100 {
            outbox.push(Via::Listen, address(1), 0, None, 0..1400, 0);
        }
        for _ in 0..200 {
            outbox.push(Via::Listen, address(2), 0, None, 0..10, 0);
        }
        for (_, _, size, bytes) in sent(&outbox, &buffer) {
            assert!(bytes.len() <= MAX_PAYLOAD && bytes.len() <= size * MAX_SEGMENTS);
        }
    }

    #[test]
    fn empty_datagrams_travel_alone() {
        let mut outbox = Outbox::new();
        for range in [0..0, 0..0, 0..5, 0..0, 0..5] {
            outbox.push(Via::Listen, address(1), 0, None, range, 0);
        }
        let lengths: Vec<_> = sent(&outbox, &[0; 5]).iter().map(|run| run.3.len()).collect();
        assert_eq!(lengths, [0, 0, 5, 0, 5]);
    }
}
