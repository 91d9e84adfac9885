//! What is going to happen, in the order of time.

use std::cmp::{Ordering, Reverse};
use std::collections::BinaryHeap;
use std::time::{Duration, Instant};

use connlib_tunnel::ResolutionId;
use connlib_tunnel::client::DnsQuery;

use super::World;
use crate::app::FlowId;
use crate::internet::streams::StreamId;
use crate::internet::{Datagram, Node};
use crate::model::ProbeId;

pub(super) enum Happening {
    /// A datagram is at the backbone.
    Backbone(Datagram),
    /// A datagram is at its receiver.
    Arrival(Datagram),
    /// Something may have arrived at an end of a stream.
    Stream(StreamId),
    /// A peer tries to connect to the portal.
    Join(Node, u32),
    /// A message of the portal may have arrived somewhere.
    Wire(Node, u32),
    /// A resolver has answered a gateway.
    Resolved(usize, u32, ResolutionId, String),
    /// A resolver has answered a client.
    Answered(usize, u32, Box<DnsQuery>),
    /// A host behind a gateway sends a packet.
    Reply(usize, u32, Vec<u8>, Option<ProbeId>),
    /// An application does something.
    Tick(FlowId),
    /// A host sends something to an application, unasked.
    Push(FlowId, Duration, Instant),
    /// Somebody meddles.
    Meddle(Box<dyn FnOnce(&mut World)>),
}

/// Of two things at one time, the one that was scheduled first happens first.
#[derive(Default)]
pub(super) struct Agenda {
    queue: BinaryHeap<Reverse<Scheduled>>,
    serial: u64,
}

struct Scheduled {
    at: Instant,
    serial: u64,
    happening: Happening,
}

impl Agenda {
    pub(super) fn add(&mut self, at: Instant, happening: Happening) {
        self.serial += 1;
        self.queue.push(Reverse(Scheduled { at, serial: self.serial, happening }));
    }

    /// When something happens next.
    pub(super) fn next_at(&self) -> Option<Instant> {
        self.queue.peek().map(|Reverse(scheduled)| scheduled.at)
    }

    /// What happens now, if anything does.
    pub(super) fn pop_due(&mut self, now: Instant) -> Option<Happening> {
        self.next_at().filter(|at| *at <= now)?;
        self.queue.pop().map(|Reverse(scheduled)| scheduled.happening)
    }
}

impl PartialEq for Scheduled {
    fn eq(&self, other: &Self) -> bool {
        (self.at, self.serial) == (other.at, other.serial)
    }
}

impl Eq for Scheduled {}

impl PartialOrd for Scheduled {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Scheduled {
    fn cmp(&self, other: &Self) -> Ordering {
        (self.at, self.serial).cmp(&(other.at, other.serial))
    }
}
