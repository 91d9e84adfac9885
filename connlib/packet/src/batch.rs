//! Packets on their way to a TUN device, one behind the other in one buffer.

use std::ops::Range;

/// A buffer of packets. All memory is allocated by [`new`](Self::new).
///
/// ```
/// # use connlib_packet::PacketBatch;
/// let mut batch = PacketBatch::new(64 * 1024, 64);
/// let slot = batch.reserve(1280).expect("an empty batch has room");
/// slot[..5].copy_from_slice(b"hello");
/// batch.commit(5);
/// assert_eq!(batch.packets().collect::<Vec<_>>(), [b"hello"]);
/// ```
#[derive(Debug)]
pub struct PacketBatch {
    bytes: Box<[u8]>,
    /// Where the packets are, in order. INVARIANT: inside of `bytes`.
    packets: Vec<Slot>,
    max_packets: usize,
    /// The end of the last packet.
    end: usize,
    /// The end of the slot that was lent last; `end` if it has been committed.
    reserved: usize,
}

#[derive(Debug, Clone, Copy)]
struct Slot {
    start: u32,
    end: u32,
}

impl PacketBatch {
    /// A batch with room for `bytes` bytes (less than 4 GiB) and at most `packets` packets.
    pub fn new(bytes: usize, packets: usize) -> Self {
        let bytes = bytes.min(u32::MAX as usize);
        Self {
            bytes: vec![0; bytes].into_boxed_slice(),
            packets: Vec::with_capacity(packets),
            max_packets: packets,
            end: 0,
            reserved: 0,
        }
    }

    /// Lends room for a packet of at most `len` bytes, or `None` if the batch is full. Without a
    /// [`commit`](Self::commit) the next call lends the same room again. What is in it is left from earlier.
    pub fn reserve(&mut self, len: usize) -> Option<&mut [u8]> {
        if self.packets.len() == self.max_packets {
            return None;
        }
        let end = self.end.checked_add(len)?;
        let slot = self.bytes.get_mut(self.end..end)?;
        self.reserved = end;
        Some(slot)
    }

    /// Keeps the first `len` bytes of the slot that was lent last as a packet.
    ///
    /// # Panics
    /// If they are not part of it.
    pub fn commit(&mut self, len: usize) {
        self.commit_range(0..len);
    }

    /// Keeps some bytes of the slot that was lent last as a packet.
    ///
    /// # Panics
    /// If they are not part of it.
    pub fn commit_range(&mut self, range: Range<usize>) {
        let lent = self.reserved - self.end;
        assert!(range.start <= range.end && range.end <= lent, "a packet inside of its slot");
        let slot =
            Slot { start: (self.end + range.start) as u32, end: (self.end + range.end) as u32 };
        self.end = slot.end as usize;
        self.reserved = self.end;
        self.packets.push(slot);
    }

    /// Copies a packet into the batch. False if it is full.
    #[must_use]
    pub fn push(&mut self, packet: &[u8]) -> bool {
        let Some(slot) = self.reserve(packet.len()) else { return false };
        slot.copy_from_slice(packet);
        self.commit(packet.len());
        true
    }

    /// The packets, oldest first.
    pub fn packets(&self) -> impl ExactSizeIterator<Item = &[u8]> {
        self.packets.iter().map(|&slot| self.slice(slot))
    }

    /// The packet at `index`, oldest first.
    pub fn packet(&self, index: usize) -> Option<&[u8]> {
        Some(self.slice(*self.packets.get(index)?))
    }

    /// How many packets there are.
    pub fn len(&self) -> usize {
        self.packets.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.packets.is_empty()
    }

    /// Forgets all packets.
    pub fn clear(&mut self) {
        self.packets.clear();
        self.end = 0;
        self.reserved = 0;
    }

    fn slice(&self, slot: Slot) -> &[u8] {
        &self.bytes[slot.start as usize..slot.end as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_full_by_bytes_or_by_packets() {
        let mut batch = PacketBatch::new(10, 3);
        assert!(batch.push(b"12345678"));
        assert!(!batch.push(b"abc"));
        assert!(batch.push(b"ab"));
        assert!(batch.push(b""));
        assert!(!batch.push(b""));
        assert_eq!(batch.packets().collect::<Vec<_>>(), [&b"12345678"[..], b"ab", b""]);

        batch.clear();
        assert!(batch.is_empty());
        assert!(batch.push(b"0123456789"));
    }

    #[test]
    fn what_is_not_committed_is_lent_again() {
        let mut batch = PacketBatch::new(100, 10);
        batch.reserve(80).unwrap().fill(1);
        batch.reserve(100).unwrap()[..6].copy_from_slice(b"xabcdy");
        batch.commit_range(1..5);
        assert!(batch.push(b"next"));
        assert_eq!(batch.packets().collect::<Vec<_>>(), [b"abcd", b"next"]);
        assert_eq!(batch.packet(1), Some(&b"next"[..]));
        assert_eq!(batch.packet(2), None);
    }

    #[test]
    #[should_panic(expected = "inside of its slot")]
    fn a_slot_is_committed_once() {
        let mut batch = PacketBatch::new(100, 10);
        batch.reserve(50);
        batch.commit(5);
        batch.commit(5);
    }
}
