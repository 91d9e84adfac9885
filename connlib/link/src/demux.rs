//! Which link a datagram belongs to.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use connlib_stun::Transaction;

use crate::index::LinkIndex;

/// A response that comes later than this answers nobody any more.
const TRANSACTION_LIFETIME: Duration = Duration::from_secs(10);

/// Requests in flight beyond this many forget the oldest.
const MAX_TRANSACTIONS: usize = 8192;

/// Look-up tables from what a datagram carries to the slot of its link. The address a datagram comes from is no key:
/// NATs give the same one to different peers.
#[derive(Debug, Default)]
pub(crate) struct Demux {
    by_index: HashMap<LinkIndex, usize>,
    by_public_key: HashMap<[u8; 32], usize>,
    by_ufrag: HashMap<String, usize>,
    by_transaction: HashMap<Transaction, usize>,
    transactions: VecDeque<(Transaction, Instant)>,
    /// Most datagrams come for the link that the one before came for.
    last: Option<(LinkIndex, usize)>,
}

impl Demux {
    pub(crate) fn insert(&mut self, slot: usize, index: LinkIndex, key: [u8; 32], ufrag: String) {
        self.by_index.insert(index, slot);
        self.by_public_key.insert(key, slot);
        self.by_ufrag.insert(ufrag, slot);
    }

    pub(crate) fn remove(&mut self, slot: usize) {
        self.by_index.retain(|_, s| *s != slot);
        self.by_public_key.retain(|_, s| *s != slot);
        self.by_ufrag.retain(|_, s| *s != slot);
        self.by_transaction.retain(|_, s| *s != slot);
        self.last = None;
    }

    pub(crate) fn has_index(&self, index: LinkIndex) -> bool {
        self.by_index.contains_key(&index)
    }

    pub(crate) fn by_index(&mut self, index: LinkIndex) -> Option<usize> {
        if let Some((last, slot)) = self.last
            && last == index
        {
            return Some(slot);
        }
        let slot = *self.by_index.get(&index)?;
        self.last = Some((index, slot));
        Some(slot)
    }

    pub(crate) fn by_public_key(&self, key: &[u8; 32]) -> Option<usize> {
        self.by_public_key.get(key).copied()
    }

    pub(crate) fn by_ufrag(&self, ufrag: &str) -> Option<usize> {
        self.by_ufrag.get(ufrag).copied()
    }

    pub(crate) fn has_transaction(&self, id: &Transaction) -> bool {
        self.by_transaction.contains_key(id)
    }

    /// The link that sent the request with this id.
    pub(crate) fn take_transaction(&mut self, id: &Transaction) -> Option<usize> {
        self.by_transaction.remove(id)
    }

    /// Remembers that a link sent a request.
    pub(crate) fn note_transaction(&mut self, id: Transaction, slot: usize, now: Instant) {
        while let Some((oldest, sent)) = self.transactions.front() {
            if self.transactions.len() < MAX_TRANSACTIONS && now < *sent + TRANSACTION_LIFETIME {
                break;
            }
            self.by_transaction.remove(oldest);
            self.transactions.pop_front();
        }
        self.by_transaction.insert(id, slot);
        self.transactions.push_back((id, now));
    }
}
