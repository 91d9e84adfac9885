//! Bytes that both ends of a transfer can make up by themselves, so that neither needs a file.

use std::io::{self, Read};

use sha2::{Digest as _, Sha256};

/// A reproducible stream of `length` bytes that does not compress.
#[derive(Debug, Clone)]
pub struct Payload {
    state: u64,
    word: [u8; 8],
    used: usize,
    left: u64,
}

impl Payload {
    /// The first `length` bytes of the stream.
    pub fn new(length: u64) -> Self {
        Self { state: 0, word: [0; 8], used: 8, left: length }
    }

    /// The SHA-256 of the first `length` bytes, in hexadecimal.
    pub fn sha256(length: u64) -> String {
        let mut digest = Hash::default();
        let mut buffer = vec![0; 1 << 16];
        let mut payload = Self::new(length);
        while let Ok(count @ 1..) = payload.read(&mut buffer) {
            digest.update(&buffer[..count]);
        }
        digest.finish()
    }
}

impl Read for Payload {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let limit = usize::try_from(self.left).map_or(buffer.len(), |left| left.min(buffer.len()));
        let mut count = 0;
        while count < limit {
            if self.used == self.word.len() {
                self.word = next_word(&mut self.state).to_le_bytes();
                self.used = 0;
            }
            let part = (self.word.len() - self.used).min(limit - count);
            buffer[count..count + part].copy_from_slice(&self.word[self.used..self.used + part]);
            self.used += part;
            count += part;
        }
        self.left -= count as u64;
        Ok(count)
    }
}

/// A running SHA-256.
#[derive(Debug, Default, Clone)]
pub struct Hash {
    digest: Sha256,
}

impl Hash {
    /// Adds bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        self.digest.update(bytes);
    }

    /// The sum in hexadecimal.
    pub fn finish(self) -> String {
        self.digest.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

/// SplitMix64: one addition and three mixes a word, and every seed is a good one.
pub(crate) fn next_word(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut word = *state;
    word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ (word >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_stream_does_not_depend_on_how_it_is_read() {
        let mut at_once = Vec::new();
        Payload::new(1003).read_to_end(&mut at_once).unwrap();
        assert_eq!(at_once.len(), 1003);

        let mut in_pieces = Vec::new();
        let mut payload = Payload::new(1003);
        let mut piece = [0; 13];
        while let count @ 1.. = payload.read(&mut piece).unwrap() {
            in_pieces.extend_from_slice(&piece[..count]);
        }
        assert_eq!(in_pieces, at_once);

        let mut hash = Hash::default();
        hash.update(&at_once);
        assert_eq!(hash.finish(), Payload::sha256(1003));
    }
}
