//! What the load has seen, counted by all of its threads.

use std::{
    collections::BTreeMap,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use anyhow::Error;

/// Of so many different failures, one example each is kept.
const EXAMPLES: usize = 20;

#[derive(Debug, Default)]
pub(super) struct Tally {
    /// Clients that came, and allocated.
    pub(super) sessions: Counter,
    /// Clients that came again under the name of one that had not given back.
    pub(super) returns: Counter,
    /// Clients that left without a word.
    pub(super) vanished: Counter,
    /// Datagrams that clients sent to peers, which send them back.
    pub(super) sent: Counter,
    /// Of these, those that came back intact.
    pub(super) received: Counter,
    /// What came to a client and was not what it had sent.
    pub(super) damaged: Counter,
    /// What strangers sent, and connections that they opened.
    pub(super) strange: Counter,
    /// Certificates that were renewed.
    pub(super) renewals: Counter,
    failures: Counter,
    examples: Mutex<BTreeMap<String, u64>>,
}

impl Tally {
    /// A client could not do what it is entitled to.
    pub(super) fn fail(&self, what: &str, error: &Error) {
        self.failures.add(1);
        let text = format!("{what}: {error:#}");
        let mut examples = self.examples.lock().unwrap_or_else(PoisonError::into_inner);
        if examples.len() < EXAMPLES || examples.contains_key(&text) {
            *examples.entry(text).or_default() += 1;
        }
    }

    pub(super) fn failures(&self) -> u64 {
        self.failures.value()
    }

    /// What failed, and how often.
    pub(super) fn examples(&self) -> Vec<(String, u64)> {
        let examples = self.examples.lock().unwrap_or_else(PoisonError::into_inner);
        examples.iter().map(|(text, count)| (text.clone(), *count)).collect()
    }
}

#[derive(Debug, Default)]
pub(super) struct Counter(AtomicU64);

impl Counter {
    pub(super) fn add(&self, count: u64) {
        self.0.fetch_add(count, Ordering::Relaxed);
    }

    pub(super) fn value(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}
