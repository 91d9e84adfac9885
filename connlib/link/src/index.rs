//! Session indices: which link a WireGuard message belongs to.

use std::num::NonZeroU32;

/// The least significant bits of a WireGuard index that boringtun counts sessions of one link with.
const SESSION_BITS: u32 = 8;

/// The 24 bits of WireGuard's index that name a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct LinkIndex(pub(crate) u32);

impl LinkIndex {
    /// The link that the receiver index of an incoming message names.
    pub(crate) fn of_receiver(receiver_index: u32) -> Self {
        Self(receiver_index >> SESSION_BITS)
    }
}

/// Walks all 24-bit values but zero in an order that looks random from outside: a Galois shift register with a
/// polynomial of maximal length. A value comes back after 2^24 - 1 steps, when its link is long gone.
#[derive(Debug)]
pub(crate) struct IndexSequence {
    state: NonZeroU32,
}

impl IndexSequence {
    const FEEDBACK: u32 = 0x00d8_0000;
    const MASK: u32 = 0x00ff_ffff;

    pub(crate) fn new(seed: u32) -> Self {
        Self { state: NonZeroU32::new(seed & Self::MASK).unwrap_or(NonZeroU32::MIN) }
    }

    pub(crate) fn next(&mut self) -> LinkIndex {
        let state = self.state.get();
        let shifted = state >> 1;
        let next = if state & 1 == 1 { shifted ^ Self::FEEDBACK } else { shifted };
        // INVARIANT: the register never reaches zero from a value that isn't.
        self.state = NonZeroU32::new(next).unwrap_or(NonZeroU32::MIN);
        LinkIndex(state)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_index_comes_once_before_one_comes_twice() {
        let mut sequence = IndexSequence::new(0xabcdef);
        let first = sequence.next();
        let mut steps = 1;
        while sequence.next() != first {
            steps += 1;
        }
        assert_eq!(steps, (1 << 24) - 1);
    }

    #[test]
    fn the_low_byte_of_a_receiver_index_rotates_sessions() {
        assert_eq!(LinkIndex::of_receiver(0x0012_3456), LinkIndex(0x1234));
    }
}
