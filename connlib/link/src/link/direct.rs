//! When a link that needs a relay tries once more to do without.

use std::time::{Duration, Instant};

use crate::output::Path;

/// After this for the first time, while the link is in use, and then less and less often: networks change without a word.
const FIRST: Duration = Duration::from_secs(30);
const MAX: Duration = Duration::from_secs(600);

/// For so long after a try it is left to the path in use, unless a direct one is found: relayed ones take turns at being
/// the best meanwhile.
const SETTLE: Duration = Duration::from_secs(2);

/// The same where the path in use is in doubt.
const SETTLE_SOON: Duration = Duration::from_millis(500);

/// Checks that begin anew need some time to come to an end.
const DOUBT_PAUSE: Duration = Duration::from_secs(5);

/// Tries to find a path without a relay.
#[derive(Debug, Default)]
pub(super) struct DirectTries {
    /// When to try next, and how long to wait after that.
    next: Option<(Instant, Duration)>,
    settled_at: Option<Instant>,
    doubted_at: Option<Instant>,
    /// What is the best path once that is settled.
    deferred: Option<Path>,
}

impl DirectTries {
    /// The link has moved to another path.
    pub(super) fn moved(&mut self, is_relayed: bool, now: Instant) {
        self.next = is_relayed.then(|| (now + FIRST, 2 * FIRST));
    }

    /// Whether to try now.
    pub(super) fn is_due(&mut self, now: Instant) -> bool {
        let Some((_, pause)) = self.next.filter(|(at, _)| now >= *at) else { return false };
        self.next = Some((now + pause, (pause * 2).min(MAX)));
        self.settled_at = Some(now + SETTLE);
        true
    }

    /// Whether the path in use may be doubted, as it was not a moment ago.
    pub(super) fn may_doubt(&self, now: Instant) -> bool {
        self.doubted_at.is_none_or(|at| now >= at + DOUBT_PAUSE)
    }

    /// The path in use may not work any more: paths without a relay are tried now.
    pub(super) fn doubt(&mut self, now: Instant) {
        self.settled_at = Some(now + SETTLE_SOON);
        self.doubted_at = Some(now);
    }

    /// Whether a path is not to be taken before all has settled. Whatever was before it is forgotten.
    pub(super) fn defers(&mut self, path: Path, is_relayed: bool) -> bool {
        self.deferred = Some(path).filter(|_| is_relayed && self.settled_at.is_some());
        self.deferred.is_some()
    }

    /// The path that was to wait until now.
    pub(super) fn take_settled(&mut self, now: Instant) -> Option<Path> {
        self.settled_at.filter(|at| now >= *at)?;
        self.settled_at = None;
        self.deferred.take()
    }

    /// `is_idle`: nobody uses the link.
    pub(super) fn next_timeout(&self, is_idle: bool) -> Option<Instant> {
        let next = self.next.filter(|_| !is_idle).map(|(at, _)| at);
        [next, self.settled_at].into_iter().flatten().min()
    }
}
