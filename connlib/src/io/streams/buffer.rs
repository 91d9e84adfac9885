//! Bytes that wait, in the order in which they came.

/// A buffer that is filled at one end and emptied at the other. Allocated once.
pub(super) struct Buffer {
    bytes: Box<[u8]>,
    start: usize,
    end: usize,
}

impl Buffer {
    pub(super) fn new(capacity: usize) -> Self {
        Self { bytes: vec![0; capacity].into_boxed_slice(), start: 0, end: 0 }
    }

    /// What waits.
    pub(super) fn filled(&mut self) -> &mut [u8] {
        &mut self.bytes[self.start..self.end]
    }

    /// Room for more: all there is.
    pub(super) fn free(&mut self) -> &mut [u8] {
        self.bytes.copy_within(self.start..self.end, 0);
        (self.start, self.end) = (0, self.end - self.start);
        &mut self.bytes[self.end..]
    }

    /// The first `len` bytes of what was free are filled now.
    pub(super) fn commit(&mut self, len: usize) {
        self.end = (self.end + len).min(self.bytes.len());
    }

    /// The first `len` bytes of what was filled wait no more.
    pub(super) fn consume(&mut self, len: usize) {
        self.start = (self.start + len).min(self.end);
    }

    /// Adds all of these, or nothing if there is no room. Whether there was.
    pub(super) fn push(&mut self, parts: &[&[u8]]) -> bool {
        let len: usize = parts.iter().map(|part| part.len()).sum();
        if self.bytes.len() - self.end < len {
            self.free();
        }
        if self.bytes.len() - self.end < len {
            return false;
        }
        for part in parts {
            self.bytes[self.end..self.end + part.len()].copy_from_slice(part);
            self.end += part.len();
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_goes_in_comes_out_and_nothing_is_cut() {
        let mut buffer = Buffer::new(8);
        assert!(buffer.push(&[b"abc", b"d"]));
        assert!(!buffer.push(&[b"12345"]), "no room");
        assert_eq!(buffer.filled(), b"abcd");
        buffer.consume(3);
        assert!(buffer.push(&[b"12345", b"67"]), "room in front");
        assert_eq!(buffer.filled(), b"d1234567");
        buffer.consume(5);
        buffer.free()[..2].copy_from_slice(b"xy");
        buffer.commit(2);
        assert_eq!(buffer.filled(), b"567xy");
        buffer.consume(100);
        assert_eq!((buffer.filled().len(), buffer.free().len()), (0, 8));
    }
}
