//! When the peer may have lost what it had of a link.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::config::Role;
use super::{DOUBTFUL, Link};
use crate::output::{Event, Output};
use crate::wireguard::MAX_HANDSHAKE;

/// A peer that was heard within this time still has its session, most likely.
const LIVELY: Duration = Duration::from_secs(2);

/// How long such a peer may take to show that it does.
const PROOF: Duration = Duration::from_millis(500);

impl Link {
    /// Tells the peer all our candidates once more, as it may have lost them. It may have lost the session as well:
    /// unless it was heard a moment ago and goes on to be, there is a new handshake.
    pub(crate) fn renew(&mut self, now: Instant, out: &mut VecDeque<Output>) {
        let candidates = self.ice.local_candidates();
        if !candidates.is_empty() {
            let peer = self.config.peer;
            out.push_back(Output::Event(Event::NewCandidates { peer, candidates }));
        }
        if self.config.role == Role::Controlling && self.connected {
            match now >= self.last_heard + LIVELY {
                true => self.initiate(now, out),
                false => self.unproven_since = Some(now),
            }
        }
        // The peer may just have begun to listen, and checks that were not answered are repeated more and more rarely.
        // Once, so that a link without a path comes to its end.
        let is_unanswered = self.silence.lasts(self.last_heard(), DOUBTFUL, now);
        if !self.connected && is_unanswered && !std::mem::replace(&mut self.is_rechecked, true) {
            self.ice.check_all_again();
        }
        self.wake(now);
        self.drive(now, out);
    }

    pub(super) fn initiate(&mut self, now: Instant, out: &mut VecDeque<Output>) {
        self.silence.note_handshake(self.last_heard(), now);
        let mut slot = [0; MAX_HANDSHAKE];
        let initiated = self.wireguard.initiate(&mut slot, now);
        self.transmit(initiated, &slot, out);
    }

    /// When the peer must have shown that it has the session.
    pub(super) fn proof_due(&self) -> Option<Instant> {
        self.unproven_since.map(|since| since + PROOF)
    }

    /// Makes a new session if the peer was to show that it has the old one, and has not.
    pub(super) fn handle_proof(&mut self, now: Instant, out: &mut VecDeque<Output>) {
        if let Some(since) = self.unproven_since.take_if(|since| now >= *since + PROOF)
            && self.last_heard <= since
        {
            self.initiate(now, out);
        }
    }
}
