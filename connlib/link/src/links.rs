//! The table of all links, and which of them is to be woken when.

use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use connlib_stun::{Class, Header};

use crate::deadlines::Deadlines;
use crate::demux::Demux;
use crate::index::{IndexSequence, LinkIndex};
use crate::link::Link;
use crate::output::{Output, PeerId};

/// A link that is due is due again no sooner than this, whatever it says: others get their turn.
const TURN: Duration = Duration::from_millis(1);

/// Links by slot, peer and whatever a datagram says. A slot is a link's for as long as the link is there.
pub(crate) struct Links {
    slots: Vec<Option<Link>>,
    by_peer: HashMap<PeerId, usize>,
    pub(crate) demux: Demux,
    timers: Deadlines,
    indices: IndexSequence,
}

impl Links {
    pub(crate) fn new(seed: u32) -> Self {
        Self {
            slots: Vec::new(),
            by_peer: HashMap::new(),
            demux: Demux::default(),
            timers: Deadlines::default(),
            indices: IndexSequence::new(seed),
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.by_peer.len()
    }

    pub(crate) fn slot_of(&self, peer: PeerId) -> Option<usize> {
        self.by_peer.get(&peer).copied()
    }

    pub(crate) fn of(&self, peer: PeerId) -> Option<&Link> {
        self.slots.get(self.slot_of(peer)?)?.as_ref()
    }

    pub(crate) fn at(&mut self, slot: usize) -> Option<&mut Link> {
        self.slots.get_mut(slot)?.as_mut()
    }

    /// Whether packets of a link leave from this address.
    pub(crate) fn leave_from(&self, address: SocketAddr) -> bool {
        let mut paths = self.slots.iter().flatten().filter_map(Link::connected_path);
        paths.any(|path| path.local == Some(address))
    }

    /// All slots that there are, with a link or without.
    pub(crate) fn slots(&self) -> std::ops::Range<usize> {
        0..self.slots.len()
    }

    /// Puts a new link, which is given its index, into a slot of its own.
    pub(crate) fn insert(&mut self, make: impl FnOnce(LinkIndex) -> Link) -> usize {
        let slot = self.free_slot();
        let index = self.free_index();
        let link = make(index);
        let config = link.config();
        self.demux.insert(slot, index, config.remote_public_key, config.local.username.clone());
        self.by_peer.insert(config.peer, slot);
        self.slots[slot] = Some(link);
        slot
    }

    pub(crate) fn discard(&mut self, slot: usize) {
        if let Some(link) = self.slots.get_mut(slot).and_then(Option::take) {
            self.by_peer.remove(&link.config().peer);
            self.demux.remove(slot);
            self.timers.set(slot, None);
        }
    }

    /// After each change of a link: its deadline is known, and its requests, which are at the end of the outputs, are
    /// expected to be answered.
    pub(crate) fn settle(&mut self, slot: usize, outputs: &VecDeque<Output>, now: Instant) {
        let Some(link) = self.slots.get_mut(slot).and_then(Option::as_mut) else { return };
        self.timers.set(slot, link.next_timeout());
        for output in outputs.iter().rev() {
            let Output::Transmit(transmit) = output else { continue };
            if let Some(Header { class: Class::Request, transaction, .. }) =
                Header::parse(&transmit.payload)
            {
                if self.demux.has_transaction(&transaction) {
                    break;
                }
                self.demux.note_transaction(transaction, slot, now);
            }
        }
    }

    pub(crate) fn next_timeout(&self) -> Option<Instant> {
        self.timers.next()
    }

    /// A slot whose link is due.
    pub(crate) fn pop_due(&mut self, now: Instant) -> Option<usize> {
        self.timers.pop_due(now)
    }

    /// A link that was due has had its turn.
    pub(crate) fn postpone(&mut self, slot: usize, now: Instant) {
        self.timers.postpone(slot, now + TURN);
    }

    fn free_slot(&mut self) -> usize {
        self.slots.iter().position(Option::is_none).unwrap_or_else(|| {
            self.slots.push(None);
            self.slots.len() - 1
        })
    }

    fn free_index(&mut self) -> LinkIndex {
        // INVARIANT: there are fewer links than indices by orders of magnitude.
        loop {
            let index = self.indices.next();
            if !self.demux.has_index(index) {
                return index;
            }
        }
    }
}
