//! Datagrams on their way to a socket, in one contiguous buffer.

use crate::output::Path;

/// Segments that one system call may carry (Linux's `UDP_MAX_SEGMENTS` before 6.9; later kernels take more).
const MAX_SEGMENTS: usize = 64;

/// Payload that fits into one UDP super-packet over IPv4 and IPv6 alike.
const MAX_RUN: usize = 65_487;

/// Datagrams to be sent, written one behind the other: runs of equal size to one destination leave by one system call
/// (UDP GSO, where a shorter datagram ends a run).
///
/// The buffer is allocated once. [`SendQueue::is_full`] tells when to send before more is sealed.
#[derive(Debug)]
pub struct SendQueue {
    buffer: Box<[u8]>,
    len: usize,
    runs: Vec<Run>,
    last_is_closed: bool,
}

/// Datagrams of equal size to one destination.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Run {
    /// From where to where.
    pub path: Path,
    /// ECN code point of the outer header (RFC 6040 §4.1).
    pub ecn: u8,
    /// Size of each datagram but the last, which may be shorter.
    pub segment_size: usize,
    /// Number of datagrams.
    pub segments: usize,
    start: usize,
    end: usize,
}

impl Run {
    fn has_room_for(&self, size: usize) -> bool {
        self.segments < MAX_SEGMENTS && self.end - self.start + size <= MAX_RUN
    }
}

impl SendQueue {
    /// Room that is kept for one super-packet from the TUN device, cut and sealed.
    const HEADROOM: usize = 96 * 1024;

    /// A queue of `capacity` bytes, 96 KiB at least.
    pub fn new(capacity: usize) -> Self {
        Self {
            buffer: vec![0; capacity.max(Self::HEADROOM)].into_boxed_slice(),
            len: 0,
            runs: Vec::with_capacity(64),
            last_is_closed: true,
        }
    }

    /// Whether another super-packet might not fit.
    pub fn is_full(&self) -> bool {
        self.buffer.len() - self.len < Self::HEADROOM
    }

    /// How many bytes there are to send.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there is nothing to send.
    pub fn is_empty(&self) -> bool {
        self.runs.is_empty()
    }

    /// The runs in the order they are to be sent, each with its bytes.
    pub fn runs(&self) -> impl Iterator<Item = (Run, &[u8])> {
        self.runs.iter().map(|run| (*run, self.bytes(run)))
    }

    /// How many runs, from the first on, nothing will be added to.
    pub fn complete_runs(&self) -> usize {
        let is_complete = |run: &Run| self.last_is_closed || !run.has_room_for(run.segment_size);
        match self.runs.last() {
            Some(last) if !is_complete(last) => self.runs.len() - 1,
            _ => self.runs.len(),
        }
    }

    /// Forgets the first `runs` runs: they have been sent.
    pub fn discard(&mut self, runs: usize) {
        if runs == 0 {
            return;
        }
        let Some(rest) = self.runs.get(runs).map(|run| run.start) else { return self.clear() };
        self.buffer.copy_within(rest..self.len, 0);
        self.len -= rest;
        self.runs.drain(..runs);
        for run in &mut self.runs {
            run.start -= rest;
            run.end -= rest;
        }
    }

    /// Forgets all datagrams.
    pub fn clear(&mut self) {
        self.len = 0;
        self.runs.clear();
        self.last_is_closed = true;
    }

    fn bytes(&self, run: &Run) -> &[u8] {
        self.buffer.get(run.start..run.end).unwrap_or_default()
    }

    /// Room for a datagram of at most `size` bytes, to be [committed](Self::commit). `None`: the queue is full.
    pub(crate) fn reserve(&mut self, size: usize) -> Option<&mut [u8]> {
        self.buffer.get_mut(self.len..self.len + size)
    }

    /// Queues the first `size` bytes of what was reserved last.
    pub(crate) fn commit(&mut self, path: Path, ecn: u8, size: usize) {
        let start = self.len;
        let end = (start + size).min(self.buffer.len());
        self.len = end;
        if let Some(last) = self.runs.last_mut() {
            let fits = !self.last_is_closed
                && last.path == path
                && last.ecn == ecn
                && size <= last.segment_size
                && last.has_room_for(size);
            if fits {
                last.end = end;
                last.segments += 1;
                self.last_is_closed = size < last.segment_size;
                return;
            }
        }
        self.runs.push(Run { path, ecn, segment_size: size, segments: 1, start, end });
        self.last_is_closed = false;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(port: u16) -> Path {
        Path { local: None, remote: ([192, 0, 2, 1], port).into() }
    }

    fn push(queue: &mut SendQueue, path: Path, ecn: u8, bytes: &[u8]) {
        queue.reserve(bytes.len()).unwrap().copy_from_slice(bytes);
        queue.commit(path, ecn, bytes.len());
    }

    fn shape(queue: &SendQueue) -> Vec<(u16, usize, usize, usize)> {
        queue
            .runs()
            .map(|(run, bytes)| {
                (run.path.remote.port(), run.segment_size, run.segments, bytes.len())
            })
            .collect()
    }

    #[test]
    fn equal_sizes_share_a_run_and_a_shorter_one_ends_it() {
        let mut queue = SendQueue::new(0);
        for size in [100, 100, 40, 40, 100] {
            push(&mut queue, path(1), 0, &vec![size as u8; size]);
        }
        assert_eq!(shape(&queue), [(1, 100, 3, 240), (1, 40, 1, 40), (1, 100, 1, 100)]);
        let (_, bytes) = queue.runs().next().unwrap();
        assert_eq!(bytes[200..], [40; 40]);
    }

    #[test]
    fn another_destination_or_ecn_starts_a_run() {
        let mut queue = SendQueue::new(0);
        push(&mut queue, path(1), 0, &[1; 10]);
        push(&mut queue, path(2), 0, &[1; 10]);
        push(&mut queue, path(2), 2, &[1; 10]);
        assert_eq!(queue.runs().count(), 3);
    }

    #[test]
    fn a_run_never_exceeds_what_one_system_call_takes() {
        let mut queue = SendQueue::new(1 << 20);
        for _ in 0..130 {
            push(&mut queue, path(1), 0, &[0; 1312]);
        }
        for (run, bytes) in queue.runs() {
            assert!(bytes.len() <= MAX_RUN && run.segments <= MAX_SEGMENTS);
        }
        assert_eq!(queue.runs().map(|(run, _)| run.segments).sum::<usize>(), 130);
    }

    #[test]
    fn what_can_still_grow_stays_when_the_rest_is_sent() {
        let mut queue = SendQueue::new(1 << 20);
        for number in 0..60 {
            push(&mut queue, path(1), 0, &[number; 1312]);
        }
        assert_eq!(queue.complete_runs(), 1);
        let sent = queue.runs().next().unwrap().0.segments;
        queue.discard(queue.complete_runs());
        push(&mut queue, path(1), 0, &[60; 1312]);
        assert_eq!(shape(&queue), [(1, 1312, 61 - sent, (61 - sent) * 1312)]);
        let (_, bytes) = queue.runs().next().unwrap();
        assert_eq!((usize::from(bytes[0]), bytes[bytes.len() - 1]), (sent, 60));

        push(&mut queue, path(1), 0, &[0; 7]);
        assert_eq!(queue.complete_runs(), 1, "a shorter datagram is the last");
        queue.discard(queue.complete_runs());
        assert!(queue.is_empty());
        push(&mut queue, path(1), 0, &[0; 1312]);
        assert_eq!((queue.complete_runs(), queue.len()), (0, 1312));
        queue.discard(usize::MAX);
        assert!(queue.is_empty());
    }

    #[test]
    fn a_full_queue_says_so_and_takes_nothing_more() {
        let mut queue = SendQueue::new(0);
        assert!(!queue.is_full());
        push(&mut queue, path(1), 0, &[0; 60_000]);
        assert!(queue.is_full());
        assert!(queue.reserve(60_000).is_none());
        queue.clear();
        assert!(queue.is_empty() && !queue.is_full());
    }
}
