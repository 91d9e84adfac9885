//! A peer of which nothing is heard although packets go to it: it may not know us any more.

use std::time::{Duration, Instant};

/// Packets are unanswered for so long: somebody should ask about the peer.
const SILENT_AFTER: Duration = Duration::from_secs(2);

/// And again after so long, if there are further packets.
const AGAIN: Duration = Duration::from_secs(5);

/// Looks at what is sent and when the peer was last `heard`. Costs no timer for each packet.
#[derive(Debug, Default)]
pub(super) struct Silence {
    /// The first packet that nothing was heard after, and when to ask about that.
    unanswered: Option<(Instant, Instant)>,
    /// There were packets since it was asked last.
    is_missed: bool,
}

impl Silence {
    /// A packet goes to the peer, or waits for the path.
    #[inline]
    pub(super) fn note_packet(&mut self, heard: Instant, now: Instant) {
        self.is_missed = true;
        if self.unanswered.is_none_or(|(since, _)| heard > since) {
            self.unanswered = Some((now, now + SILENT_AFTER));
        }
    }

    /// A handshake begins. It is nothing new while something else is unanswered.
    pub(super) fn note_handshake(&mut self, heard: Instant, now: Instant) {
        if !self.lasts(heard, Duration::ZERO, now) {
            self.note_packet(heard, now);
        }
    }

    /// Whether nothing has been heard for so long after a packet.
    pub(super) fn lasts(&self, heard: Instant, so_long: Duration, now: Instant) -> bool {
        self.unanswered.is_some_and(|(since, _)| heard <= since && now >= since + so_long)
    }

    pub(super) fn next_timeout(&self, heard: Instant) -> Option<Instant> {
        let (_, ask_at) = self.unanswered.filter(|(since, _)| self.is_missed && heard <= *since)?;
        Some(ask_at)
    }

    /// Whether to ask about the peer now.
    pub(super) fn is_due(&mut self, heard: Instant, now: Instant) -> bool {
        let is_due = self.next_timeout(heard).is_some_and(|at| now >= at);
        if let Some((_, ask_at)) = self.unanswered.as_mut().filter(|_| is_due) {
            (*ask_at, self.is_missed) = (now + AGAIN, false);
        }
        is_due
    }
}
