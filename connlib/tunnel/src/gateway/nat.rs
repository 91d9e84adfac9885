//! The translation table of one client: proxy addresses to real ones and back.
//!
//! A flow is told from others by its ports at both ends, so that connections from one port of the client's to several
//! ports of one server don't share a fate. Towards the resource the client's port is kept where possible; where two proxy
//! addresses stand for one real address, another one may be needed to tell the answers apart.

mod ports;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use connlib_packet::TcpFlags;

use super::session::{Direction, Session, Tuple};

/// How long a session that has ended is remembered, so that what comes late is not taken for something else.
const LINGER: Duration = Duration::from_secs(120);

/// Forgetting is only about memory and may wait: this long at least.
const SWEEP_INTERVAL: Duration = Duration::from_secs(10);

/// Sessions that are looked at to find one that may go.
const EVICTION_SAMPLE: usize = 16;

/// The sessions of one client.
#[derive(Debug)]
pub(super) struct Nat {
    slots: Vec<Option<Session>>,
    free: Vec<u32>,
    by_inside: HashMap<Tuple, u32>,
    by_outside: HashMap<Tuple, u32>,
    serial: u32,
    /// Where the search for a session that may go starts.
    hand: usize,
    sweep_at: Option<Instant>,
}

/// A session that a decision refers to; it may be gone by the time that the decision is used again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct SessionId {
    slot: u32,
    serial: u32,
}

/// What is put into a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Rewrite {
    /// The address of the other end.
    pub(super) remote: IpAddr,
    /// The client's port or echo identifier.
    pub(super) port: u16,
}

/// What a packet to the client belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Owner {
    /// A session, and how the client knows it.
    Session(SessionId, Tuple),
    /// A session that has ended not long ago.
    Ended,
    /// No session.
    Nobody,
}

/// All ports towards this destination seem to be in use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct NoFreePort;

impl Nat {
    pub(super) fn new() -> Self {
        Self {
            slots: Vec::new(),
            free: Vec::new(),
            by_inside: HashMap::new(),
            by_outside: HashMap::new(),
            serial: 0,
            hand: 0,
            sweep_at: None,
        }
    }

    /// The session of a packet of the client's; a new one to the address `real` if there is none. At most `capacity`
    /// sessions are kept: the ones that would end first make room.
    pub(super) fn open(
        &mut self,
        inside: Tuple,
        real: IpAddr,
        flags: Option<TcpFlags>,
        capacity: usize,
        now: Instant,
    ) -> Result<SessionId, NoFreePort> {
        if let Some(&slot) = self.by_inside.get(&inside)
            && let Some(session) = &self.slots[slot as usize]
        {
            let is_over = session.has_ended(now) || session.is_succeeded_by(flags);
            if !is_over {
                return Ok(SessionId { slot, serial: session.serial });
            }
            self.remove(slot);
        }
        while self.len() >= capacity.max(1) {
            self.evict();
        }
        let outside = self.free_tuple(Tuple { remote: real, ..inside }, now)?;
        Ok(self.insert(inside, outside, now))
    }

    /// The session of a packet to the client, or of one that an ICMP error quotes. Errors neither prolong nor end a
    /// session (RFC 5382 REQ-10, RFC 5508 REQ-6).
    pub(super) fn owner(&self, outside: Tuple, now: Instant) -> Owner {
        let Some(slot) = self.by_outside.get(&outside) else { return Owner::Nobody };
        match &self.slots[*slot as usize] {
            Some(session) if !session.has_ended(now) => {
                Owner::Session(SessionId { slot: *slot, serial: session.serial }, session.inside)
            }
            Some(_) => Owner::Ended,
            None => Owner::Nobody,
        }
    }

    /// The client has a flow of its own that looks like this from outside: a session that has ended is no longer
    /// remembered.
    pub(super) fn make_way(&mut self, outside: Tuple, now: Instant) {
        if self.owner(outside, now) == Owner::Ended
            && let Some(&slot) = self.by_outside.get(&outside)
        {
            self.remove(slot);
        }
    }

    /// A packet of this session passes: what to put into it. `None`: the session is no more, or the packet begins a new
    /// one in its place.
    #[inline]
    pub(super) fn pass(
        &mut self,
        id: SessionId,
        direction: Direction,
        flags: Option<TcpFlags>,
        now: Instant,
    ) -> Option<Rewrite> {
        let session = self.slots.get_mut(id.slot as usize)?.as_mut()?;
        if session.serial != id.serial || session.has_ended(now) {
            return None;
        }
        if direction == Direction::Outgoing && session.is_succeeded_by(flags) {
            return None;
        }
        session.pass(direction, flags, now);
        Some(match direction {
            Direction::Outgoing => {
                Rewrite { remote: session.outside.remote, port: session.outside.port }
            }
            Direction::Incoming => {
                Rewrite { remote: session.inside.remote, port: session.inside.port }
            }
        })
    }

    /// How many sessions there are, those that have ended but are remembered included.
    pub(super) fn len(&self) -> usize {
        self.by_inside.len()
    }

    /// Ends and forgets all sessions.
    pub(super) fn clear(&mut self) {
        // The serial goes on, so that nothing decided before is taken for a new session.
        *self = Self { serial: self.serial, ..Self::new() };
    }

    /// When [`handle_timeout`](Self::handle_timeout) has something to forget.
    pub(super) fn next_timeout(&self) -> Option<Instant> {
        self.sweep_at
    }

    /// Forgets what ended long ago.
    pub(super) fn handle_timeout(&mut self, now: Instant) {
        if self.sweep_at.is_none_or(|at| now < at) {
            return;
        }
        let mut next: Option<Instant> = None;
        for slot in 0..self.slots.len() {
            let Some(session) = &self.slots[slot] else { continue };
            let forget_at = session.ends_at() + LINGER;
            if forget_at <= now {
                self.remove(slot as u32);
            } else {
                next = Some(next.map_or(forget_at, |next| next.min(forget_at)));
            }
        }
        if next.is_none() {
            self.clear();
        }
        self.sweep_at = next.map(|next| next.max(now + SWEEP_INTERVAL));
    }

    fn insert(&mut self, inside: Tuple, outside: Tuple, now: Instant) -> SessionId {
        self.serial = self.serial.wrapping_add(1);
        let session = Session::new(inside, outside, self.serial, now);
        let forget_at = session.ends_at() + LINGER;
        self.sweep_at = Some(self.sweep_at.map_or(forget_at, |at| at.min(forget_at)));
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slots.push(None);
            self.slots.len() as u32 - 1
        });
        self.slots[slot as usize] = Some(session);
        self.by_inside.insert(inside, slot);
        self.by_outside.insert(outside, slot);
        SessionId { slot, serial: self.serial }
    }

    fn remove(&mut self, slot: u32) {
        if let Some(session) = self.slots[slot as usize].take() {
            self.by_inside.remove(&session.inside);
            self.by_outside.remove(&session.outside);
            self.free.push(slot);
        }
    }

    /// Removes, of a sample, the session that would end first: one that has ended, was never answered, or has been idle
    /// for long. INVARIANT: there is at least one.
    fn evict(&mut self) {
        let len = self.slots.len();
        let sample = (0..len)
            .map(|offset| (self.hand + offset) % len)
            .filter_map(|slot| Some((self.slots[slot].as_ref()?.ends_at(), slot)))
            .take(EVICTION_SAMPLE);
        let (mut victim, mut last) = (None, self.hand);
        for (ends_at, slot) in sample {
            last = slot;
            if victim.is_none_or(|(earliest, _)| ends_at < earliest) {
                victim = Some((ends_at, slot));
            }
        }
        self.hand = last + 1;
        if let Some((_, slot)) = victim {
            self.remove(slot as u32);
        }
    }

    /// The wanted tuple, or one with another port that no session uses.
    fn free_tuple(&mut self, wanted: Tuple, now: Instant) -> Result<Tuple, NoFreePort> {
        for port in ports::candidates(wanted.port) {
            let tuple = Tuple { port, ..wanted };
            match self.by_outside.get(&tuple).copied() {
                None => return Ok(tuple),
                Some(slot) => {
                    let has_ended =
                        self.slots[slot as usize].as_ref().is_none_or(|s| s.has_ended(now));
                    if has_ended {
                        self.remove(slot);
                        return Ok(tuple);
                    }
                }
            }
        }
        Err(NoFreePort)
    }
}
