//! How often one source may connect with one token.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use sha2::{Digest as _, Sha256};

/// Connections that a source may make in a row; after that, one for each interval (spec 1.4, which
/// allows one in a row: some more let a peer that roams come back without a pause).
const BURST: u32 = 3;
const INTERVAL: Duration = Duration::from_secs(1);
/// Sources that are remembered; when all of them are active, newcomers wait.
const MAX_SOURCES: usize = 10_000;

/// A token bucket for each source and token.
#[derive(Debug, Default)]
pub(super) struct Limiter(HashMap<(IpAddr, [u8; 8]), Instant>);

impl Limiter {
    /// Whether this one may connect now.
    pub(super) fn allows(&mut self, source: IpAddr, token: &str, now: Instant) -> bool {
        let digest: [u8; 32] = Sha256::digest(token).into();
        let mut short = [0; 8];
        short.copy_from_slice(&digest[..8]);
        let key = (source, short);
        if self.0.len() >= MAX_SOURCES && !self.0.contains_key(&key) {
            self.0.retain(|_, full_at| *full_at > now);
            if self.0.len() >= MAX_SOURCES {
                return false;
            }
        }
        // A bucket is the time at which it is full again.
        let full_at = self.0.get(&key).copied().unwrap_or(now).max(now) + INTERVAL;
        if full_at > now + INTERVAL * BURST {
            return false;
        }
        self.0.insert(key, full_at);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_passes_then_one_a_second() {
        let mut limiter = Limiter::default();
        let start = Instant::now();
        let source = IpAddr::from([192, 0, 2, 1]);
        let mut allowed = |token: &str, at_ms: u64| {
            limiter.allows(source, token, start + Duration::from_millis(at_ms))
        };
        assert_eq!([0, 0, 0, 0, 500].map(|at| allowed("a", at)), [true, true, true, false, false]);
        assert!(allowed("b", 500));
        assert_eq!([1000, 1500, 2000].map(|at| allowed("a", at)), [true, false, true]);
    }

    #[test]
    fn memory_is_bounded_and_comes_back() {
        let mut limiter = Limiter::default();
        let now = Instant::now();
        let source = |n: u32| IpAddr::from(n.to_be_bytes());
        let count = u32::try_from(MAX_SOURCES).unwrap();
        for n in 0..count {
            assert!(limiter.allows(source(n), "t", now));
        }
        assert!(!limiter.allows(source(count), "t", now));
        assert!(limiter.allows(source(count), "t", now + INTERVAL));
    }
}
