//! A peer's connection to the portal: in order and without loss while it stands, and what is held while it doesn't.

use std::collections::VecDeque;
use std::time::Instant;

use crate::portal::{Candidates, FromPortal, ToPortal};

#[derive(Debug, Default)]
pub(crate) struct Wire {
    pub(crate) is_connected: bool,
    /// Changes whenever the connection breaks: what belongs to an older one is void.
    pub(crate) generation: u32,
    up: VecDeque<(Instant, ToPortal)>,
    down: VecDeque<(Instant, FromPortal)>,
    held: Vec<ToPortal>,
}

impl Wire {
    /// The connection stands. Returns what was held for it.
    pub(crate) fn connect(&mut self) -> Vec<ToPortal> {
        self.is_connected = true;
        std::mem::take(&mut self.held)
    }

    /// The connection is gone with all that was under way.
    pub(crate) fn disconnect(&mut self) {
        self.is_connected = false;
        self.generation += 1;
        self.up.clear();
        self.down.clear();
    }

    /// The peer is another one, which knows nothing of what was held.
    pub(crate) fn forget_held(&mut self) {
        self.held.clear();
    }

    /// The peer says something, which arrives at `at`. Without a connection, candidates are held; everything else is for
    /// the peer to repeat.
    pub(crate) fn say(&mut self, message: ToPortal, at: Instant) {
        if self.is_connected {
            self.up.push_back((at, message));
        } else {
            self.hold(message);
        }
    }

    /// The portal says something, which arrives at `at`.
    pub(crate) fn hear(&mut self, message: FromPortal, at: Instant) {
        self.down.push_back((at, message));
    }

    pub(crate) fn pop_up(&mut self, now: Instant) -> Option<ToPortal> {
        self.up.front().filter(|(at, _)| *at <= now)?;
        self.up.pop_front().map(|(_, message)| message)
    }

    pub(crate) fn pop_down(&mut self, now: Instant) -> Option<FromPortal> {
        self.down.front().filter(|(at, _)| *at <= now)?;
        self.down.pop_front().map(|(_, message)| message)
    }

    pub(crate) fn has_traffic(&self) -> bool {
        !self.up.is_empty() || !self.down.is_empty()
    }

    /// What comes and goes during an outage leaves no trace.
    fn hold(&mut self, message: ToPortal) {
        let (ToPortal::ToGateway { candidates, .. } | ToPortal::ToClient { candidates, .. }) =
            &message
        else {
            return;
        };
        let Candidates { is_added, list } = candidates.clone();
        let mut list = list;
        for held in &mut self.held {
            let (same, other) = match (held, &message) {
                (
                    ToPortal::ToGateway { gateway, candidates },
                    ToPortal::ToGateway { gateway: other, .. },
                ) => (gateway == other, candidates),
                (
                    ToPortal::ToClient { client, candidates },
                    ToPortal::ToClient { client: other, .. },
                ) => (client == other, candidates),
                _ => continue,
            };
            if same && other.is_added != is_added {
                let before = other.list.clone();
                other.list.retain(|candidate| !list.contains(candidate));
                list.retain(|candidate| !before.contains(candidate));
            }
        }
        let candidates = Candidates { is_added, list };
        self.held.push(match message {
            ToPortal::ToGateway { gateway, .. } => ToPortal::ToGateway { gateway, candidates },
            ToPortal::ToClient { client, .. } => ToPortal::ToClient { client, candidates },
            other => other,
        });
    }
}
