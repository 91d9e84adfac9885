//! Our candidates on their way to peers, through a portal that may be away or slow.

use std::time::Duration;

use connlib_portal_api::HeldCandidates;

/// When the portal takes no more for now, it is asked again after this.
const PAUSE: Duration = Duration::from_millis(100);

/// So many peers are told at a time: fewer than can be held.
const BATCH: usize = 512;

/// What is to be said to peers that are to hear the same.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Signal<P> {
    pub(crate) peers: Vec<P>,
    pub(crate) candidates: Vec<String>,
    /// Whether they are there, or gone.
    pub(crate) is_new: bool,
}

/// Collects candidates, and holds them while the portal does not take them.
#[derive(Debug)]
pub(crate) struct Signals<P> {
    held: HeldCandidates<P>,
    collected: usize,
    is_joined: bool,
}

impl<P> Default for Signals<P> {
    fn default() -> Self {
        Self { held: HeldCandidates::default(), collected: 0, is_joined: false }
    }
}

impl<P: Copy + Eq> Signals<P> {
    /// Whether the portal takes messages.
    pub(crate) fn set_joined(&mut self, is_joined: bool) {
        self.is_joined = is_joined;
    }

    pub(crate) fn add(&mut self, peer: P, candidates: Vec<String>) {
        candidates.into_iter().for_each(|candidate| self.held.add(peer, candidate));
        self.collected += 1;
    }

    pub(crate) fn remove(&mut self, peer: P, candidates: Vec<String>) {
        candidates.into_iter().for_each(|candidate| self.held.remove(peer, candidate));
        self.collected += 1;
    }

    /// The link to this peer is gone.
    pub(crate) fn forget(&mut self, peer: P) {
        self.held.forget(peer);
    }

    /// Whether what was collected should be sent before more is.
    pub(crate) fn is_full(&self) -> bool {
        self.collected >= BATCH
    }

    /// Sends what there is until `send` fails; the rest is held.
    pub(crate) fn flush(&mut self, mut send: impl FnMut(&Signal<P>) -> bool) {
        self.collected = 0;
        if !self.is_joined || self.held.is_empty() {
            return;
        }
        let mut is_open = true;
        for signal in group(self.held.take()) {
            is_open = is_open && send(&signal);
            if is_open {
                continue;
            }
            for peer in &signal.peers {
                for candidate in &signal.candidates {
                    match signal.is_new {
                        true => self.held.add(*peer, candidate.clone()),
                        false => self.held.remove(*peer, candidate.clone()),
                    }
                }
            }
        }
    }

    /// Waits until what the portal did not take may be flushed again; for ever if there is nothing. Cancel safe.
    pub(crate) async fn due(&self) {
        if self.is_joined && !self.held.is_empty() {
            tokio::time::sleep(PAUSE).await;
        } else {
            std::future::pending().await
        }
    }
}

/// What is new comes before what is gone. Most peers are told the same.
fn group<P: Copy>(held: Vec<(P, connlib_portal_api::Held)>) -> Vec<Signal<P>> {
    let mut signals: Vec<Signal<P>> = Vec::new();
    let mut note = |peer: P, candidates: &Vec<String>, is_new: bool| {
        let same = signals.iter_mut().find(|signal| {
            signal.is_new == is_new
                && signal.peers.len() < BATCH
                && signal.candidates == *candidates
        });
        match same {
            Some(signal) => signal.peers.push(peer),
            None => {
                signals.push(Signal { peers: vec![peer], candidates: candidates.clone(), is_new });
            }
        }
    };
    for is_new in [true, false] {
        for (peer, held) in &held {
            let candidates = if is_new { &held.added } else { &held.removed };
            if !candidates.is_empty() {
                note(*peer, candidates, is_new);
            }
        }
    }
    signals
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flushed(signals: &mut Signals<u32>, room: usize) -> Vec<Signal<u32>> {
        let mut sent = Vec::new();
        signals.flush(|signal| {
            let takes = sent.len() < room;
            if takes {
                sent.push(signal.clone());
            }
            takes
        });
        sent
    }

    #[test]
    fn peers_that_are_to_hear_the_same_are_told_together() {
        let mut signals = Signals::default();
        signals.set_joined(true);
        for peer in 0..300 {
            signals.remove(peer, vec!["old".into()]);
            signals.add(peer, vec!["new".into()]);
        }
        assert!(signals.is_full());
        let sent = flushed(&mut signals, 9);
        assert_eq!(
            sent.iter().map(|s| (s.is_new, s.peers.len())).collect::<Vec<_>>(),
            [(true, 300), (false, 300)]
        );
        assert!(!signals.is_full());
        assert_eq!(flushed(&mut signals, 9), []);
    }

    #[test]
    fn what_the_portal_does_not_take_is_said_later() {
        let mut signals = Signals::default();
        for peer in 0..50 {
            signals.add(peer, vec![format!("of {peer}")]);
        }
        assert_eq!(flushed(&mut signals, 99), []);
        signals.set_joined(true);
        let first = flushed(&mut signals, 32);
        let second = flushed(&mut signals, 32);
        assert_eq!((first.len(), second.len()), (32, 18));
        let peers = first.iter().chain(&second).flat_map(|signal| &signal.peers);
        assert!(peers.copied().eq(0..50));
    }
}
