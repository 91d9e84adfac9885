//! Chance, from one seed.

use std::time::Duration;

use rand::{Rng, RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// A generator. Those made by [`fork`](Self::fork) don't depend on how much the others are used.
#[derive(Debug, Clone)]
pub struct Random {
    seed: u64,
    rng: ChaCha8Rng,
}

impl Random {
    /// The generator of this seed.
    pub fn new(seed: u64) -> Self {
        Self { seed, rng: ChaCha8Rng::seed_from_u64(seed) }
    }

    /// Another generator, for something else.
    pub fn fork(&self, purpose: u64) -> Self {
        Self::new(self.seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ purpose.rotate_left(40))
    }

    /// True so often.
    pub fn chance(&mut self, probability: f64) -> bool {
        // One draw, whatever the probability is, so that changing it moves nothing else.
        self.rng.random::<f64>() < probability
    }

    /// A number from `low` to below `high`.
    pub fn between(&mut self, low: u64, high: u64) -> u64 {
        self.rng.random_range(low..high.max(low + 1))
    }

    /// An index below `len`.
    pub fn index(&mut self, len: usize) -> usize {
        self.rng.random_range(0..len.max(1))
    }

    /// One of these.
    pub fn pick<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.index(choices.len())]
    }

    /// A duration between these.
    pub fn duration(&mut self, low: Duration, high: Duration) -> Duration {
        Duration::from_micros(self.between(low.as_micros() as u64, high.as_micros() as u64))
    }

    /// Bytes, for a state machine's own generator.
    pub fn seed32(&mut self) -> [u8; 32] {
        let mut seed = [0; 32];
        self.rng.fill_bytes(&mut seed);
        seed
    }
}
