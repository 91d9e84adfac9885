//! Checksums of the internet, by their changes (RFC 1624).

/// A sum of words in ones' complement, not yet folded. Room for many more words than headers have.
#[derive(Clone, Copy)]
pub struct Sum(u64);

impl Sum {
    /// The sum of nothing.
    pub const ZERO: Self = Self(0);

    #[inline(always)]
    pub fn add(self, word: u16) -> Self {
        Self(self.0 + u64::from(word))
    }

    #[inline(always)]
    pub fn remove(self, word: u16) -> Self {
        self.add(!word)
    }

    #[inline(always)]
    pub fn add_all(self, words: &[u16; 8]) -> Self {
        words.iter().fold(self, |sum, word| sum.add(*word))
    }

    /// The sum as a word.
    #[inline(always)]
    pub fn folded(self) -> u16 {
        // Words are 16 bits and there are fewer than 2^16 of them: the second carry is the last.
        let once = (self.0 & 0xffff) + (self.0 >> 16);
        let twice = (once & 0xffff) + (once >> 16);
        twice as u16
    }

    /// The checksum of what is in the sum.
    #[inline(always)]
    pub fn checksum(self) -> u16 {
        !self.folded()
    }

    /// The same for UDP, where zero says that there is none (RFC 768).
    #[inline(always)]
    pub fn udp_checksum(self) -> u16 {
        match self.checksum() {
            0 => 0xffff,
            checksum => checksum,
        }
    }
}
