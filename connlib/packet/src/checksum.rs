//! The internet checksum: sums (RFC 1071), pseudo-headers and incremental updates (RFC 1624).

use std::net::IpAddr;

/// A ones'-complement sum of 16-bit words, not folded yet.
///
/// Words are numbers in network order, so that sums of headers, pseudo-headers and payloads can be added up. Every
/// piece but the last must have an even length.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Sum(u64);

impl Sum {
    /// The sum of `bytes`; an odd last byte counts as the high half of a word.
    #[inline]
    pub fn of(bytes: &[u8]) -> Self {
        // RFC 1071 §2 (B): a sum of byte-swapped words is the byte-swapped sum, so swap once, at the end.
        Self(u64::from(u16::from_be(fold(native_sum(bytes)))))
    }

    /// Adds the words of `bytes`.
    #[inline]
    #[must_use]
    pub fn add_bytes(self, bytes: &[u8]) -> Self {
        self.add(Self::of(bytes))
    }

    /// Adds one word.
    #[inline]
    #[must_use]
    pub fn add_word(self, word: u16) -> Self {
        Self(self.0 + u64::from(word))
    }

    /// Adds both words of a 32-bit number.
    #[inline]
    #[must_use]
    pub fn add_long(self, long: u32) -> Self {
        // 2^16 is 1 modulo 2^16 - 1: folding later makes two words of it.
        Self(self.0 + u64::from(long))
    }

    /// Adds another sum.
    #[inline]
    #[must_use]
    #[expect(
        clippy::should_implement_trait,
        reason = "an operator would hide that it is ones' complement"
    )]
    pub fn add(self, other: Self) -> Self {
        Self(self.0 + other.0)
    }

    /// The sum as one word, **not** complemented: what a partial checksum field holds. 0 only if all words are 0.
    #[inline]
    pub fn fold(self) -> u16 {
        fold(self.0)
    }

    /// The checksum: the complement of the folded sum.
    #[inline]
    pub fn checksum(self) -> u16 {
        !self.fold()
    }

    /// The checksum as UDP sends it: a computed 0 becomes 0xFFFF, as 0 means "none" (RFC 768).
    #[inline]
    pub fn udp_checksum(self) -> u16 {
        never_zero(self.checksum())
    }

    /// Whether data whose checksum field was summed with it is intact.
    #[inline]
    pub fn is_intact(self) -> bool {
        self.fold() == 0xffff
    }
}

/// The sum of the pseudo-header of IPv4 (RFC 9293 §3.1) or IPv6 (RFC 8200 §8.1). Two addresses of different families
/// have no pseudo-header; their words are summed all the same.
#[inline]
pub fn pseudo_header(source: IpAddr, destination: IpAddr, protocol: u8, len: usize) -> Sum {
    address(source).add(address(destination)).add_word(u16::from(protocol)).add_long(len as u32)
}

/// The sum of an address.
#[inline]
pub fn address(address: IpAddr) -> Sum {
    match address {
        IpAddr::V4(v4) => Sum::default().add_long(v4.to_bits()),
        IpAddr::V6(v6) => {
            let bits = v6.to_bits();
            let half = |bits: u64| (bits >> 32) + (bits & 0xffff_ffff);
            Sum(half((bits >> 64) as u64) + half(bits as u64))
        }
    }
}

/// What replacing some words does to the checksum over them (RFC 1624, equation 3).
#[derive(Debug, Clone, Copy, Default)]
pub struct Update(u64);

impl Update {
    /// One word is replaced.
    #[inline]
    #[must_use]
    pub fn word(self, old: u16, new: u16) -> Self {
        Self(self.0 + u64::from(!old) + u64::from(new))
    }

    /// Words that sum up to `old` are replaced by words that sum up to `new`.
    #[inline]
    #[must_use]
    pub fn sum(self, old: Sum, new: Sum) -> Self {
        self.word(old.fold(), new.fold())
    }

    /// The new value of a complete checksum.
    #[inline]
    pub fn apply(self, checksum: u16) -> u16 {
        !fold(u64::from(!checksum) + self.0)
    }

    /// The new value of a complete UDP checksum: 0, "none", stays 0; a computed 0 becomes 0xFFFF.
    #[inline]
    pub fn apply_udp(self, checksum: u16) -> u16 {
        if checksum == 0 { 0 } else { never_zero(self.apply(checksum)) }
    }

    /// The new value of a partial checksum, which is a folded sum that has not been complemented.
    #[inline]
    pub fn apply_partial(self, sum: u16) -> u16 {
        fold(u64::from(sum) + self.0)
    }
}

#[inline]
fn never_zero(checksum: u16) -> u16 {
    if checksum == 0 { 0xffff } else { checksum }
}

#[inline]
fn fold(sum: u64) -> u16 {
    let sum = (sum >> 32) + (sum & 0xffff_ffff);
    let sum = (sum >> 16) + (sum & 0xffff);
    let sum = (sum >> 16) + (sum & 0xffff);
    let sum = (sum >> 16) + (sum & 0xffff);
    sum as u16
}

/// Sums words in the machine's own byte order: 32-bit words into 64-bit lanes, which compilers turn into SIMD code
/// on every target and which can't overflow.
#[inline]
fn native_sum(bytes: &[u8]) -> u64 {
    const LANES: usize = 16;
    let (blocks, rest) = bytes.as_chunks::<{ 4 * LANES }>();
    let mut sum = 0u64;
    if !blocks.is_empty() {
        let mut lanes = [0u64; LANES];
        for block in blocks {
            let (longs, _) = block.as_chunks::<4>();
            for (lane, long) in lanes.iter_mut().zip(longs) {
                *lane += u64::from(u32::from_ne_bytes(*long));
            }
        }
        sum = lanes.iter().sum();
    }
    let (longs, rest) = rest.as_chunks::<4>();
    for long in longs {
        sum += u64::from(u32::from_ne_bytes(*long));
    }
    let mut last = [0; 4];
    last[..rest.len()].copy_from_slice(rest);
    sum + u64::from(u32::from_ne_bytes(last))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Random;

    /// RFC 1071, word for word.
    fn reference(bytes: &[u8]) -> u16 {
        let mut sum = 0u32;
        for pair in bytes.chunks(2) {
            let word = [pair[0], *pair.get(1).unwrap_or(&0)];
            sum += u32::from(u16::from_be_bytes(word));
            sum = (sum & 0xffff) + (sum >> 16);
        }
        sum as u16
    }

    #[test]
    fn sums_like_the_reference() {
        let mut random = Random::new(1);
        for len in (0..300).chain([1239, 1240, 1280, 65535]) {
            let bytes = random.bytes(len);
            assert_eq!(Sum::of(&bytes).fold(), reference(&bytes), "{len} bytes");
        }
        assert_eq!(Sum::of(&[0xff; 65535]).fold(), reference(&[0xff; 65535]));
    }

    #[test]
    fn the_example_of_the_rfc() {
        // RFC 1071 §3.
        assert_eq!(Sum::of(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]).fold(), 0xddf2);
    }

    #[test]
    fn pieces_add_up() {
        let mut random = Random::new(2);
        for _ in 0..1000 {
            let len = random.below(200) as usize;
            let bytes = random.bytes(len);
            let cut = (random.below(len as u64 + 1) & !1) as usize;
            let pieces = Sum::of(&bytes[..cut]).add_bytes(&bytes[cut..]);
            assert_eq!(pieces.fold(), Sum::of(&bytes).fold());
        }
    }

    #[test]
    fn addresses_sum_like_their_bytes() {
        let mut random = Random::new(3);
        for _ in 0..1000 {
            let v4 = random.array::<4>();
            let v6 = random.array::<16>();
            assert_eq!(address(v4.into()).fold(), reference(&v4));
            assert_eq!(address(v6.into()).fold(), reference(&v6));
        }
    }

    #[test]
    fn updates_equal_recomputing() {
        let mut random = Random::new(4);
        for round in 0..20_000u64 {
            let mut bytes = random.bytes(40);
            // Extremes are where incremental updates go wrong (RFC 1624 §3).
            if round % 2 == 0 {
                bytes[4..].fill(if round % 4 == 0 { 0 } else { 0xff });
            }
            let word = (random.below(20) * 2) as usize;
            let old = u16::from_be_bytes([bytes[word], bytes[word + 1]]);
            let new = *[0, 0xffff, random.next() as u16].get(random.below(3) as usize).unwrap();
            let before = Sum::of(&bytes);
            bytes[word..word + 2].copy_from_slice(&new.to_be_bytes());
            let after = Sum::of(&bytes);
            if before.fold() == 0 || after.fold() == 0 {
                continue; // All zero, which no packet is.
            }

            let update = Update::default().word(old, new);
            assert_eq!(update.apply(before.checksum()), after.checksum());
            assert_eq!(update.apply_udp(before.udp_checksum()), after.udp_checksum());
            assert_eq!(update.apply_partial(before.fold()), after.fold());
            assert_eq!(update.apply_udp(0), 0);
        }
    }

    #[test]
    fn a_udp_checksum_is_never_zero() {
        assert_eq!(Sum::of(&[0xff, 0xff]).checksum(), 0);
        assert_eq!(Sum::of(&[0xff, 0xff]).udp_checksum(), 0xffff);
        // 0x0001 -> 0xffff makes the sum 0xffff.
        let update = Update::default().word(0x0001, 0xffff);
        assert_eq!(update.apply_udp(!0x0001), 0xffff);
    }
}
