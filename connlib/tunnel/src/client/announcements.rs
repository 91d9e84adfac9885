//! Telling gateways which addresses stand for which name: the client's half of the DNS resource NAT.
//!
//! A gateway can only translate packets to proxy addresses once it has confirmed an `AssignedIps`; until then packets
//! wait here. Messages are repeated by a timer of their own, and given up in the end.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use connlib_dns::Name;
use connlib_packet::control::{AssignedIps, Event};

use crate::ids::{GatewayId, ResourceId};

/// Packets that wait for one confirmation; the oldest goes first.
const MAX_PACKETS: usize = 32;

/// Names at gateways beyond this many push out those that were used least lately.
const MAX_ANNOUNCEMENTS: usize = 4096;

const FIRST_RETRY: Duration = Duration::from_millis(250);
const MAX_RETRY: Duration = Duration::from_secs(2);

/// The gateway may take 10 s to resolve a name.
const GIVE_UP: Duration = Duration::from_secs(15);

/// After a refusal, packets ask again at most this often.
const HOLD_OFF: Duration = Duration::from_secs(2);

/// A query by an application has a confirmed name resolved anew at most this often.
const REFRESH: Duration = Duration::from_secs(30);

/// One name of one resource at one gateway.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Key {
    pub(super) gateway: GatewayId,
    pub(super) resource: ResourceId,
    pub(super) name: Name,
}

/// What gateways have been told.
#[derive(Debug, Default)]
pub(super) struct Announcements {
    by_key: BTreeMap<Key, Announcement>,
    /// INVARIANT: one entry for each phase that has a deadline.
    due: BTreeSet<(Instant, Key)>,
}

#[derive(Debug)]
struct Announcement {
    frame: Vec<u8>,
    phase: Phase,
    used_at: Instant,
}

#[derive(Debug)]
enum Phase {
    Pending {
        since: Instant,
        retry_at: Instant,
        backoff: Duration,
        packets: VecDeque<Vec<u8>>,
        /// It was confirmed before: packets go on meanwhile.
        is_refresh: bool,
    },
    Active {
        since: Instant,
    },
    Failed {
        at: Instant,
    },
}

/// What is to be done with a packet to a proxy address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Announced {
    /// The gateway knows: send it.
    Yes,
    /// It has to wait. The frame, if any, is to be sent first.
    Wait(Option<Vec<u8>>),
    /// The gateway refused the name.
    Refused,
}

/// A timer ran out.
#[derive(Debug)]
pub(super) enum Due {
    /// Send this frame to the gateway once more.
    Send(GatewayId, Vec<u8>),
    /// The gateway does not confirm. These packets waited.
    GaveUp(Vec<Vec<u8>>),
}

impl Announcements {
    /// Whether packets for a name can go to a gateway. `addresses`: what stands for the name.
    pub(super) fn announce(
        &mut self,
        key: &Key,
        addresses: impl FnOnce() -> Vec<IpAddr>,
        now: Instant,
    ) -> Announced {
        if let Some(known) = self.by_key.get_mut(key) {
            known.used_at = now;
            match &known.phase {
                Phase::Active { .. } | Phase::Pending { is_refresh: true, .. } => {
                    return Announced::Yes;
                }
                Phase::Pending { .. } => return Announced::Wait(None),
                Phase::Failed { at } if now < *at + HOLD_OFF => return Announced::Refused,
                Phase::Failed { .. } => {
                    let frame = known.frame.clone();
                    self.enter(key, Phase::pending(now, false));
                    return Announced::Wait(Some(frame));
                }
            }
        }
        let Some(frame) = encode(key, addresses()) else { return Announced::Refused };
        self.make_room();
        let phase = Phase::Failed { at: now };
        self.by_key.insert(key.clone(), Announcement { frame: frame.clone(), phase, used_at: now });
        self.enter(key, Phase::pending(now, false));
        Announced::Wait(Some(frame))
    }

    /// An application asked for the name again: the gateway is to resolve it anew, while packets go on. Returns what
    /// is to be sent.
    pub(super) fn refresh(&mut self, key: &Key, now: Instant) -> Option<Vec<u8>> {
        let known = self.by_key.get_mut(key)?;
        let (is_refresh, since) = match known.phase {
            Phase::Active { since } => (true, since),
            Phase::Failed { at } => (false, at),
            Phase::Pending { .. } => return None,
        };
        let pause = if is_refresh { REFRESH } else { HOLD_OFF };
        if now < since + pause {
            return None;
        }
        let frame = known.frame.clone();
        self.enter(key, Phase::pending(now, is_refresh));
        Some(frame)
    }

    /// Keeps a packet until the gateway has confirmed.
    pub(super) fn keep_packet(&mut self, key: &Key, packet: &[u8]) {
        if let Some(Announcement { phase: Phase::Pending { packets, .. }, .. }) =
            self.by_key.get_mut(key)
        {
            if packets.len() == MAX_PACKETS {
                packets.pop_front();
            }
            packets.push_back(packet.to_vec());
        }
    }

    /// The gateway has confirmed, or refused. Returns the packets that waited.
    pub(super) fn confirm(&mut self, key: &Key, is_active: bool, now: Instant) -> Vec<Vec<u8>> {
        let phase =
            if is_active { Phase::Active { since: now } } else { Phase::Failed { at: now } };
        match self.enter(key, phase) {
            Some(Phase::Pending { packets, .. }) => packets.into(),
            Some(Phase::Active { .. } | Phase::Failed { .. }) | None => Vec::new(),
        }
    }

    /// The gateway has refused, and the portal is asked whether it may: packets wait for what comes of that.
    pub(super) fn put_off(&mut self, key: &Key, now: Instant) {
        let (since, packets) = match self.phase_mut(key) {
            Some(Phase::Pending { since, packets, .. }) => (*since, std::mem::take(packets)),
            Some(Phase::Active { .. }) => (now, VecDeque::new()),
            Some(Phase::Failed { .. }) | None => return,
        };
        let (retry_at, backoff) = (now + MAX_RETRY, MAX_RETRY);
        self.enter(key, Phase::Pending { since, retry_at, backoff, packets, is_refresh: false });
    }

    /// The gateway has access to the resource to give (again).
    ///
    /// `is_new`: it has lost what it knew, or it is another one, and packets wait until it has confirmed. Otherwise it
    /// may have, and they go on meanwhile.
    pub(super) fn announce_again(
        &mut self,
        gateway: GatewayId,
        resource: ResourceId,
        is_new: bool,
        now: Instant,
    ) {
        for key in
            self.of(gateway).filter(|key| key.resource == resource).cloned().collect::<Vec<_>>()
        {
            let Some(phase) = self.phase_mut(&key) else { continue };
            let (packets, is_refresh) = match phase {
                Phase::Pending { packets, is_refresh, .. } => {
                    (std::mem::take(packets), *is_refresh && !is_new)
                }
                Phase::Active { .. } => (VecDeque::new(), !is_new),
                Phase::Failed { .. } => (VecDeque::new(), false),
            };
            self.enter(&key, Phase::at_once(now, packets, is_refresh));
        }
    }

    /// There is a path now: what is not confirmed is sent at once.
    pub(super) fn hurry(&mut self, gateway: GatewayId, now: Instant) {
        for key in self.of(gateway).cloned().collect::<Vec<_>>() {
            if let Some(Phase::Pending { packets, is_refresh, .. }) = self.phase_mut(&key) {
                let hurried = Phase::at_once(now, std::mem::take(packets), *is_refresh);
                self.enter(&key, hurried);
            }
        }
    }

    /// Forgets what is void. Returns the packets that waited for it.
    pub(super) fn forget(&mut self, mut is_void: impl FnMut(&Key) -> bool) -> Vec<Vec<u8>> {
        let mut waiting = Vec::new();
        self.by_key.retain(|key, known| {
            let stays = !is_void(key);
            if let (false, Phase::Pending { packets, .. }) = (stays, &mut known.phase) {
                waiting.extend(packets.drain(..));
            }
            stays
        });
        self.due.retain(|(_, key)| self.by_key.contains_key(key));
        waiting
    }

    pub(super) fn next_timeout(&self) -> Option<Instant> {
        self.due.first().map(|(at, _)| *at)
    }

    /// What is due; to be called until there is nothing. `is_connected`: whether messages reach a gateway now.
    pub(super) fn pop_due(
        &mut self,
        now: Instant,
        is_connected: impl Fn(GatewayId) -> bool,
    ) -> Option<Due> {
        loop {
            let (_, key) = self.due.first().filter(|(at, _)| *at <= now).cloned()?;
            let Some(Phase::Pending { since, backoff, packets, is_refresh, .. }) =
                self.phase_mut(&key)
            else {
                return None;
            };
            let (since, is_refresh) = (*since, *is_refresh);
            let backoff = (*backoff * 2).min(MAX_RETRY);
            let packets = std::mem::take(packets);
            if now >= since + GIVE_UP {
                // What was confirmed once still holds.
                let holds = Phase::Active { since: now };
                self.enter(&key, if is_refresh { holds } else { Phase::Failed { at: now } });
                return Some(Due::GaveUp(packets.into()));
            }
            let retry_at = now + backoff;
            self.enter(&key, Phase::Pending { since, retry_at, backoff, packets, is_refresh });
            // Before there is a path, the first message waits in the link already.
            if is_connected(key.gateway) {
                let frame = self.by_key.get(&key)?.frame.clone();
                return Some(Due::Send(key.gateway, frame));
            }
        }
    }

    /// Replaces a phase, and notes its deadline. Returns the one before.
    fn enter(&mut self, key: &Key, phase: Phase) -> Option<Phase> {
        let known = self.by_key.get_mut(key)?;
        if let Some(at) = known.phase.deadline() {
            self.due.remove(&(at, key.clone()));
        }
        if let Some(at) = phase.deadline() {
            self.due.insert((at, key.clone()));
        }
        Some(std::mem::replace(&mut known.phase, phase))
    }

    /// Not to be used to change a deadline.
    fn phase_mut(&mut self, key: &Key) -> Option<&mut Phase> {
        self.by_key.get_mut(key).map(|known| &mut known.phase)
    }

    fn of(&self, gateway: GatewayId) -> impl Iterator<Item = &Key> {
        self.by_key.keys().filter(move |key| key.gateway == gateway)
    }

    fn make_room(&mut self) {
        if self.by_key.len() < MAX_ANNOUNCEMENTS {
            return;
        }
        let oldest = self.by_key.iter().min_by_key(|(_, known)| known.used_at);
        if let Some(key) = oldest.map(|(key, _)| key.clone()) {
            self.forget(|other| *other == key);
        }
    }
}

impl Phase {
    fn pending(now: Instant, is_refresh: bool) -> Self {
        Self::Pending {
            since: now,
            retry_at: now + FIRST_RETRY,
            backoff: FIRST_RETRY,
            packets: VecDeque::new(),
            is_refresh,
        }
    }

    /// As [`pending`](Self::pending), due now.
    fn at_once(now: Instant, packets: VecDeque<Vec<u8>>, is_refresh: bool) -> Self {
        let (since, retry_at, backoff) = (now, now, FIRST_RETRY);
        Self::Pending { since, retry_at, backoff, packets, is_refresh }
    }

    fn deadline(&self) -> Option<Instant> {
        match self {
            Self::Pending { retry_at, since, .. } => Some((*retry_at).min(*since + GIVE_UP)),
            Self::Active { .. } | Self::Failed { .. } => None,
        }
    }
}

fn encode(key: &Key, proxy_ips: Vec<IpAddr>) -> Option<Vec<u8>> {
    let domain = key.name.as_str().to_owned();
    let event = Event::AssignedIps(AssignedIps { resource: key.resource.0, domain, proxy_ips });
    event.encode().inspect_err(|e| tracing::debug!(error = %e, "could not announce a name")).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key() -> Key {
        Key {
            gateway: GatewayId::from_u128(1),
            resource: ResourceId::from_u128(2),
            name: "web.example".parse().unwrap(),
        }
    }

    fn addresses() -> Vec<IpAddr> {
        (1..=4).map(|i| IpAddr::from([100, 96, 0, i])).collect()
    }

    #[test]
    fn packets_wait_until_the_gateway_confirms() {
        let now = Instant::now();
        let mut announcements = Announcements::default();
        let first = announcements.announce(&key(), addresses, now);
        assert!(matches!(first, Announced::Wait(Some(_))));
        assert_eq!(announcements.announce(&key(), addresses, now), Announced::Wait(None));
        announcements.keep_packet(&key(), b"1");
        assert_eq!(announcements.confirm(&key(), true, now), [b"1"]);
        assert_eq!(announcements.announce(&key(), addresses, now), Announced::Yes);
        assert_eq!(announcements.next_timeout(), None);
    }

    #[test]
    fn an_announcement_is_repeated_by_a_timer_and_given_up() {
        let start = Instant::now();
        let mut announcements = Announcements::default();
        announcements.announce(&key(), addresses, start);
        announcements.keep_packet(&key(), b"1");
        let mut sent = 0;
        loop {
            let now = announcements.next_timeout().unwrap();
            match announcements.pop_due(now, |_| true) {
                Some(Due::Send(..)) => sent += 1,
                Some(Due::GaveUp(packets)) => {
                    assert_eq!(packets, [b"1"]);
                    assert_eq!(now, start + GIVE_UP);
                    assert_eq!(announcements.announce(&key(), addresses, now), Announced::Refused);
                    let later = now + HOLD_OFF;
                    let again = announcements.announce(&key(), addresses, later);
                    assert!(matches!(again, Announced::Wait(Some(_))));
                    break;
                }
                None => {}
            }
        }
        assert!((6..12).contains(&sent), "{sent}");
    }

    #[test]
    fn a_refresh_stalls_nobody_and_is_rare() {
        let now = Instant::now();
        let mut announcements = Announcements::default();
        announcements.announce(&key(), addresses, now);
        announcements.confirm(&key(), true, now);
        assert_eq!(announcements.refresh(&key(), now), None);
        let later = now + REFRESH;
        assert!(announcements.refresh(&key(), later).is_some());
        assert_eq!(announcements.refresh(&key(), later), None);
        assert_eq!(announcements.announce(&key(), addresses, later), Announced::Yes);
    }

    #[test]
    fn a_gateway_that_gives_access_again_is_told_again() {
        let now = Instant::now();
        let (gateway, resource) = (key().gateway, key().resource);
        for (is_new, expected) in [(true, Announced::Wait(None)), (false, Announced::Yes)] {
            let mut announcements = Announcements::default();
            announcements.announce(&key(), addresses, now);
            announcements.confirm(&key(), true, now);
            announcements.announce_again(gateway, resource, is_new, now);
            assert_eq!(announcements.announce(&key(), addresses, now), expected);
            assert!(matches!(announcements.pop_due(now, |_| true), Some(Due::Send(..))));
            // What was refused is no longer held against the name.
            announcements.confirm(&key(), false, now);
            assert_eq!(announcements.announce(&key(), addresses, now), Announced::Refused);
            announcements.announce_again(gateway, resource, is_new, now);
            assert_eq!(announcements.announce(&key(), addresses, now), Announced::Wait(None));
        }
    }

    #[test]
    fn what_is_refused_wrongly_perhaps_goes_on_waiting() {
        let now = Instant::now();
        let mut announcements = Announcements::default();
        announcements.announce(&key(), addresses, now);
        announcements.keep_packet(&key(), b"1");
        announcements.put_off(&key(), now);
        assert_eq!(announcements.announce(&key(), addresses, now), Announced::Wait(None));
        assert_eq!(announcements.next_timeout(), Some(now + MAX_RETRY));
        assert_eq!(announcements.confirm(&key(), true, now), [b"1"]);
        // What was confirmed before is not relied upon any more.
        announcements.put_off(&key(), now);
        assert_eq!(announcements.announce(&key(), addresses, now), Announced::Wait(None));
        // And what is refused for good is not begun anew.
        announcements.confirm(&key(), false, now);
        announcements.put_off(&key(), now);
        assert_eq!(announcements.announce(&key(), addresses, now), Announced::Refused);
    }

    #[test]
    fn what_waited_for_a_void_name_is_handed_back() {
        let now = Instant::now();
        let mut announcements = Announcements::default();
        announcements.announce(&key(), addresses, now);
        announcements.keep_packet(&key(), b"1");
        assert!(announcements.forget(|_| false).is_empty());
        assert_eq!(announcements.forget(|other| *other == key()), [b"1"]);
        assert_eq!(announcements.next_timeout(), None);
    }
}
