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

/// So many a second, after so many at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    /// Over time.
    pub per_second: u32,
    /// At once.
    pub burst: u32,
}
