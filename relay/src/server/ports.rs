//! Which ports are free, as far as this worker knows.

use std::ops::RangeInclusive;

use rand::{Rng, RngExt};

/// The ports of the configured range. Others may have bound one: opening it tells.
pub(crate) struct Ports {
    range: RangeInclusive<u16>,
    is_taken: Box<[bool]>,
}

impl Ports {
    pub(crate) fn new(range: RangeInclusive<u16>) -> Self {
        let is_taken = vec![false; range.len()].into_boxed_slice();
        Self { range, is_taken }
    }

    /// Takes a random free port, even if that is wanted.
    pub(crate) fn take(&mut self, must_be_even: bool, rng: &mut impl Rng) -> Option<u16> {
        let first = *self.range.start();
        let start = rng.random_range(0..self.is_taken.len());
        let index = (start..self.is_taken.len()).chain(0..start).find(|index| {
            let is_even = (usize::from(first) + index).is_multiple_of(2);
            !self.is_taken[*index] && (is_even || !must_be_even)
        })?;
        self.is_taken[index] = true;
        Some(first + index as u16)
    }

    pub(crate) fn release(&mut self, port: u16) {
        let index = port.checked_sub(*self.range.start()).map(usize::from);
        if let Some(is_taken) = index.and_then(|index| self.is_taken.get_mut(index)) {
            *is_taken = false;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;
    use rand_chacha::ChaCha20Rng;

    #[test]
    fn each_port_is_taken_once_until_it_is_released() {
        let mut rng = ChaCha20Rng::seed_from_u64(1);
        let mut ports = Ports::new(65_531..=65_535);
        let even: Vec<_> = std::iter::from_fn(|| ports.take(true, &mut rng)).collect();
        assert_eq!(even.len(), 2);
        assert!(even.iter().all(|port| port % 2 == 0));
        let odd: Vec<_> = std::iter::from_fn(|| ports.take(false, &mut rng)).collect();
        assert_eq!(odd.len(), 3);
        ports.release(odd[1]);
        ports.release(80);
        assert_eq!(ports.take(false, &mut rng), Some(odd[1]));
        assert_eq!(ports.take(false, &mut rng), None);
    }
}
