//! What all parts of the hub share: the policy, who is connected, the time, the way out.

use std::time::Instant;

use sha2::{Digest as _, Sha256};
use uuid::Uuid;

use super::ingest::IngestSigner;
use super::output::Outbox;
use super::peers::Peers;
use crate::policy::Policy;

/// A moment on both clocks: deadlines run on the first, what policies say is on the second.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Now {
    /// The monotonic clock.
    pub instant: Instant,
    /// The wall clock, in unix seconds.
    pub unix: u64,
}

#[derive(Debug)]
pub(super) struct World {
    pub(super) policy: Policy,
    pub(super) peers: Peers,
    pub(super) outbox: Outbox,
    pub(super) signer: IngestSigner,
    pub(super) ids: Ids,
    pub(super) now: Now,
    /// When something ends by the wall clock, in unix seconds. It may be early, never late.
    pub(super) next_expiry: Option<u64>,
}

impl World {
    /// Something ends at this moment.
    pub(super) fn expires_at(&mut self, unix: Option<u64>) {
        self.next_expiry = [self.next_expiry, unix].into_iter().flatten().min();
    }
}

/// Fresh ids: hashes of a random seed and a number, so that a test can repeat them.
#[derive(Debug)]
pub(super) struct Ids {
    seed: [u8; 32],
    last: u64,
}

impl Ids {
    pub(super) fn new(seed: [u8; 32]) -> Self {
        Self { seed, last: 0 }
    }

    pub(super) fn next(&mut self) -> Uuid {
        self.last += 1;
        let hash = Sha256::new().chain_update(self.seed).chain_update(self.last.to_be_bytes());
        uuid::Builder::from_custom_bytes(first_half(hash)).into_uuid()
    }
}

/// Rendezvous hashing: each pair has its place in an order of its own, which spreads users over
/// servers and moves no more of them than it must when one comes or goes.
pub(super) fn rendezvous(user: Uuid, server: Uuid) -> u128 {
    u128::from_be_bytes(first_half(Sha256::new().chain_update(user).chain_update(server)))
}

fn first_half(hash: Sha256) -> [u8; 16] {
    let digest: [u8; 32] = hash.finalize().into();
    let mut half = [0; 16];
    half.copy_from_slice(&digest[..16]);
    half
}
