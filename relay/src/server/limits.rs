//! What the relay gives at most.

/// Limits of a relay. Those of allocations hold for all [`Server`](super::Server)s that share a [`Quota`](super::Quota);
/// the others each worker has for itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Allocations at a time; beyond, 508 is answered.
    pub allocations: usize,
    /// Allocations of one user at a time, where a username may have several; beyond, 486 is answered. Names `expiry:salt`
    /// that differ in the expiry alone are one user's.
    pub allocations_per_user: usize,
    /// Allocations that one user begins, whether they last or not, but [as many as it may have](Self::allocations_per_user)
    /// at once in any case; beyond, 486 is answered.
    pub allocating: Rate,
    /// Allocations from one source at a time: an IPv4 address or an IPv6 /64; beyond, 486 is answered.
    pub allocations_per_source: usize,
    /// Channels of one allocation; beyond, 508 is answered. There are 4096 numbers.
    pub channels_per_allocation: usize,
    /// Channels of all allocations. Nobody gets another one who has as many as are left for others; 508 is answered.
    pub channels: usize,
    /// Addresses that one allocation has permissions for; beyond, 508 is answered.
    pub permissions_per_allocation: usize,
    /// Permissions of all allocations. As with channels, nobody gets more of them than are left for others.
    pub permissions: usize,
    /// Responses that a source gets without credentials: an IPv4 /24 or an IPv6 /48.
    pub unauthenticated: Rate,
    /// Of these, how many may be longer than what they answer.
    pub unauthenticated_longer: Rate,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            allocations: 16_384,
            allocations_per_user: 64,
            allocating: Rate { per_second: 10, burst: 128 },
            allocations_per_source: 1024,
            channels_per_allocation: 4096,
            channels: 65_536,
            permissions_per_allocation: 1024,
            permissions: 65_536,
            unauthenticated: Rate { per_second: 500, burst: 2000 },
            unauthenticated_longer: Rate { per_second: 50, burst: 500 },
        }
    }
}

impl Limits {
    /// The limits of each of so many servers that share a load: what strangers get is parted, so that it does not grow with
    /// their number.
    #[must_use]
    pub fn parted_among(self, servers: usize) -> Self {
        let servers = u32::try_from(servers).unwrap_or(u32::MAX).max(1);
        let part = |rate: Rate| Rate {
            per_second: (rate.per_second / servers).max(1),
            burst: (rate.burst / servers).max(1),
        };
        Self {
            unauthenticated: part(self.unauthenticated),
            unauthenticated_longer: part(self.unauthenticated_longer),
            ..self
        }
    }
}

/// So many a second, after so many at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    /// Over time.
    pub per_second: u32,
    /// At once.
    pub burst: u32,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_together_are_no_more_than_the_whole() {
        let whole = Limits::default();
        assert_eq!(whole.parted_among(1), whole);
        for servers in [2, 3, 8, 50] {
            let part = whole.parted_among(servers);
            for (part, whole) in [
                (part.unauthenticated, whole.unauthenticated),
                (part.unauthenticated_longer, whole.unauthenticated_longer),
            ] {
                assert!(part.per_second * servers as u32 <= whole.per_second);
                assert!(part.burst * servers as u32 <= whole.burst);
            }
            let Limits { allocations, channels, .. } = part;
            assert_eq!((allocations, channels), (whole.allocations, whole.channels));
        }
        // Nobody is left without anything.
        let Rate { per_second, burst } = whole.parted_among(100_000).unauthenticated_longer;
        assert_eq!((per_second, burst), (1, 1));
    }
}
