//! ICE candidates that could not be sent, held over an outage of the portal.

/// The most links with held candidates; the one that has waited longest goes first.
const MAX_PEERS: usize = 1024;
/// The most held candidates of one link, added and removed each; the oldest goes first.
const MAX_CANDIDATES: usize = 32;

/// Candidates to announce and to withdraw once the portal is there again, by the peer that they are for.
///
/// What cancels out is not held: a candidate that comes and goes during the outage leaves no trace. Say everything
/// that [`crate::client::PortalClient::send`] refuses here, and send what [`HeldCandidates::take`] returns after the
/// next [`crate::client::Event::Connected`].
#[derive(Debug, Clone)]
pub struct HeldCandidates<Peer> {
    /// In the order of their first candidate.
    peers: Vec<(Peer, Held)>,
}

/// The held candidates of one link. Never are both lists empty.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Held {
    /// To announce, oldest first.
    pub added: Vec<String>,
    /// To withdraw, oldest first.
    pub removed: Vec<String>,
}

impl<Peer> Default for HeldCandidates<Peer> {
    fn default() -> Self {
        Self { peers: Vec::new() }
    }
}

impl<Peer: Copy + Eq> HeldCandidates<Peer> {
    /// A candidate is there; cancels a held removal of it.
    pub fn add(&mut self, peer: Peer, candidate: String) {
        self.hold(peer, candidate, |held| (&mut held.added, &mut held.removed));
    }

    /// A candidate is gone; cancels a held announcement of it.
    pub fn remove(&mut self, peer: Peer, candidate: String) {
        self.hold(peer, candidate, |held| (&mut held.removed, &mut held.added));
    }

    /// The link is gone.
    pub fn forget(&mut self, peer: Peer) {
        self.peers.retain(|(other, _)| *other != peer);
    }

    /// Everything that is held, the link that has waited longest first. Nothing is held after that.
    pub fn take(&mut self) -> Vec<(Peer, Held)> {
        std::mem::take(&mut self.peers)
    }

    /// Whether nothing is held.
    pub fn is_empty(&self) -> bool {
        self.peers.is_empty()
    }

    fn hold(
        &mut self,
        peer: Peer,
        candidate: String,
        lists: impl FnOnce(&mut Held) -> (&mut Vec<String>, &mut Vec<String>),
    ) {
        let index = match self.peers.iter().position(|(other, _)| *other == peer) {
            Some(index) => index,
            None => {
                if self.peers.len() == MAX_PEERS {
                    self.peers.remove(0);
                }
                self.peers.push((peer, Held::default()));
                self.peers.len() - 1
            }
        };
        let held = &mut self.peers[index].1;
        let (to, opposite) = lists(held);
        if let Some(index) = opposite.iter().position(|other| *other == candidate) {
            opposite.remove(index);
        } else if !to.contains(&candidate) {
            if to.len() == MAX_CANDIDATES {
                to.remove(0);
            }
            to.push(candidate);
        }
        if *held == Held::default() {
            self.peers.remove(index);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(list: &[&str]) -> Vec<String> {
        list.iter().map(|text| (*text).to_owned()).collect()
    }

    #[test]
    fn what_cancels_out_is_not_held() {
        let mut held = HeldCandidates::default();
        held.add(1, "a".into());
        held.remove(1, "a".into());
        held.remove(2, "b".into());
        held.add(2, "b".into());
        assert!(held.is_empty());
        // Between outages the portal knows of "c": gone and back, it need not hear anything.
        held.add(3, "d".into());
        held.remove(3, "c".into());
        held.add(3, "c".into());
        assert_eq!(held.take(), [(3, Held { added: texts(&["d"]), removed: vec![] })]);
    }

    #[test]
    fn everything_is_taken_once_and_in_order() {
        let mut held = HeldCandidates::default();
        held.add(2, "a".into());
        held.add(1, "b".into());
        held.add(2, "c".into());
        held.add(2, "a".into());
        held.remove(2, "d".into());
        held.add(3, "e".into());
        held.forget(3);
        assert_eq!(
            held.take(),
            [
                (2, Held { added: texts(&["a", "c"]), removed: texts(&["d"]) }),
                (1, Held { added: texts(&["b"]), removed: vec![] }),
            ]
        );
        assert_eq!(held.take(), []);
    }

    #[test]
    fn the_oldest_go_first_at_the_bounds() {
        let mut held = HeldCandidates::default();
        for number in 0..40 {
            held.add(0, number.to_string());
        }
        let taken = held.take();
        assert_eq!((taken[0].1.added.len(), taken[0].1.added[0].as_str()), (32, "8"));
        for peer in 0..1030 {
            held.add(peer, "a".into());
        }
        let taken = held.take();
        assert_eq!((taken.len(), taken[0].0), (1024, 6));
    }
}
