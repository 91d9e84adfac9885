//! The channels of an allocation: which peer has which number (RFC 8656 §12).

use std::collections::{HashMap, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use crate::deadlines::Deadlines;

/// Numbers that both RFC 8656 and the relays in use today allow: 0x4000 to 0x4fff.
const FIRST: u16 = 0x4000;
const MAX_CHANNELS: usize = 0x1000;

/// How long we count on a channel that is not bound again: the relay keeps it for 10 minutes (RFC 8656 §3.5), so that
/// there is time to bind it once more for what begins to be sent at the end of them.
const LIFETIME: Duration = Duration::from_secs(570);

/// After this a channel that was used meanwhile is bound again.
const REFRESH: Duration = Duration::from_secs(300);

/// How often it is looked at whether a channel that was not used has been used after all.
const REVIEW: Duration = Duration::from_secs(60);

/// Channels that are due within this time are so together: one wake-up does for all that a search for paths has bound.
const TURN: Duration = Duration::from_secs(10);

/// After that its number is for no other peer for so long: 5 minutes after it has expired at the relay (RFC 8656 §12), and
/// some more, as the clocks of both ends began at different times.
const COOL_DOWN: Duration = Duration::from_secs(340);

/// A peer that the relay refuses is not asked for again for so long.
const REFUSED: Duration = Duration::from_secs(60);

/// The channels of one allocation.
#[derive(Debug, Default)]
pub(super) struct Channels {
    /// By number, from the first one on.
    channels: Vec<Channel>,
    by_peer: HashMap<SocketAddr, usize>,
    free: VecDeque<usize>,
    deadlines: Deadlines,
    /// When the first channel was bound: turns are counted from then on.
    began: Option<Instant>,
    /// Most packets go where the one before went.
    last: Option<(SocketAddr, usize)>,
}

#[derive(Debug)]
struct Channel {
    peer: SocketAddr,
    state: State,
    /// Something went through it since it was looked at.
    used: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// The relay has been asked, or is about to be. What is sent meanwhile comes right after the request.
    Binding,
    Bound {
        until: Instant,
    },
    /// It has expired, or is about to; the number still belongs to the peer.
    Expired,
    Refused,
    Free,
}

/// What to do with a datagram for a peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outbound {
    /// Send it by this number.
    Ready(u16),
    /// Ask the relay for this number, and send it by it.
    Bind(u16),
    /// There is no way.
    Nowhere,
}

impl Channels {
    /// The channel to a peer.
    pub(super) fn outbound(&mut self, peer: SocketAddr) -> Outbound {
        let known = match self.last {
            Some((last, slot)) if last == peer => Some(slot),
            _ => self.by_peer.get(&peer).copied(),
        };
        let Some(slot) = known else { return self.open(peer) };
        self.last = Some((peer, slot));
        let channel = &mut self.channels[slot];
        channel.used = true;
        match channel.state {
            State::Binding | State::Bound { .. } => Outbound::Ready(number(slot)),
            State::Expired => {
                channel.state = State::Binding;
                self.deadlines.set(slot, None);
                Outbound::Bind(number(slot))
            }
            State::Refused | State::Free => Outbound::Nowhere,
        }
    }

    /// Who is at the other end of a channel.
    pub(super) fn inbound(&mut self, number: u16) -> Option<SocketAddr> {
        let slot = usize::from(number.checked_sub(FIRST)?);
        let channel = self.channels.get_mut(slot)?;
        channel.used = true;
        (!matches!(channel.state, State::Refused | State::Free)).then_some(channel.peer)
    }

    /// The peer that a number is to be bound to.
    pub(super) fn peer(&self, number: u16) -> Option<SocketAddr> {
        let channel = self.channels.get(usize::from(number.checked_sub(FIRST)?))?;
        Some(channel.peer)
    }

    /// The relay has bound the channel.
    pub(super) fn bound(&mut self, number: u16, now: Instant) {
        let slot = usize::from(number.saturating_sub(FIRST));
        let began = *self.began.get_or_insert(now);
        let turns = |at: Instant| (at - began).as_nanos().div_ceil(TURN.as_nanos());
        let turn = |at| began + TURN * turns(at) as u32;
        if let Some(channel) = self.channels.get_mut(slot) {
            channel.state = State::Bound { until: turn(now + LIFETIME) };
            channel.used = false;
            self.deadlines.set(slot, Some(turn(now + REFRESH)));
        }
    }

    /// The relay has refused to bind the channel, or said nothing.
    pub(super) fn refused(&mut self, number: u16, now: Instant) {
        let slot = usize::from(number.saturating_sub(FIRST));
        if let Some(channel) = self.channels.get_mut(slot)
            && channel.state == State::Binding
        {
            channel.state = State::Refused;
            self.deadlines.set(slot, Some(now + REFUSED));
        }
    }

    pub(super) fn next_timeout(&self) -> Option<Instant> {
        self.deadlines.next()
    }

    /// A channel that is to be bound again now. Call it until it returns `None`.
    pub(super) fn due(&mut self, now: Instant) -> Option<u16> {
        while let Some(slot) = self.deadlines.pop_due(now) {
            let channel = &mut self.channels[slot];
            let next = match channel.state {
                // It goes on being used meanwhile; if that fails, it expires at the relay.
                State::Bound { until } if channel.used => {
                    channel.used = false;
                    let next = (now < until).then(|| (now + REVIEW).min(until));
                    if next.is_none() {
                        channel.state = State::Binding;
                    }
                    self.deadlines.set(slot, next);
                    return Some(number(slot));
                }
                State::Bound { until } if now < until => Some((now + REVIEW).min(until)),
                State::Bound { .. } => {
                    channel.state = State::Expired;
                    Some(now + COOL_DOWN)
                }
                State::Expired | State::Refused => {
                    self.close(slot);
                    None
                }
                State::Binding | State::Free => None,
            };
            self.deadlines.set(slot, next);
        }
        None
    }

    fn open(&mut self, peer: SocketAddr) -> Outbound {
        if !is_reachable(peer) {
            return Outbound::Nowhere;
        }
        let slot = match self.channels.len() {
            len if len < MAX_CHANNELS => len,
            _ => match self.free.pop_front() {
                Some(slot) => slot,
                None => return Outbound::Nowhere,
            },
        };
        let channel = Channel { peer, state: State::Binding, used: true };
        if slot == self.channels.len() {
            self.channels.push(channel);
        } else {
            self.channels[slot] = channel;
        }
        self.by_peer.insert(peer, slot);
        Outbound::Bind(number(slot))
    }

    fn close(&mut self, slot: usize) {
        let channel = &mut self.channels[slot];
        channel.state = State::Free;
        self.by_peer.remove(&channel.peer);
        self.last = None;
        self.free.push_back(slot);
    }
}

/// Whether a relay can reach a peer at this address, and may.
fn is_reachable(peer: SocketAddr) -> bool {
    let is_local = match peer.ip() {
        IpAddr::V4(ip) => ip.is_link_local() || ip.is_broadcast(),
        IpAddr::V6(ip) => ip.is_unicast_link_local() || ip.to_ipv4_mapped().is_some(),
    };
    let ip = peer.ip();
    !is_local && !ip.is_loopback() && !ip.is_multicast() && !ip.is_unspecified() && peer.port() != 0
}

fn number(slot: usize) -> u16 {
    // INVARIANT: there are at most 4096 slots.
    FIRST + slot as u16
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(number: u16) -> SocketAddr {
        ([192, 0, 2, 1], number + 1).into()
    }

    #[test]
    fn a_channel_in_use_is_bound_again_and_one_that_is_not_expires() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut channels = Channels::default();
        assert_eq!(channels.outbound(peer(0)), Outbound::Bind(0x4000));
        assert_eq!(channels.outbound(peer(0)), Outbound::Ready(0x4000));
        assert_eq!(channels.outbound(peer(1)), Outbound::Bind(0x4001));
        channels.bound(0x4000, start);
        channels.bound(0x4001, start);
        assert_eq!(channels.inbound(0x4001), Some(peer(1)));
        assert_eq!(channels.due(at(299)), None);
        assert_eq!(channels.due(at(300)), Some(0x4001));
        channels.bound(0x4001, at(300));
        assert_eq!(channels.due(at(300)), None);
        for seconds in 301..=600 {
            assert_eq!(channels.due(at(seconds)), None);
        }
        assert_eq!(channels.inbound(0x4000), Some(peer(0)), "what is under way");
        assert_eq!(channels.inbound(0x4001), Some(peer(1)));
        // The number still is the peer's.
        assert_eq!(channels.outbound(peer(0)), Outbound::Bind(0x4000));
    }

    #[test]
    fn a_channel_that_is_used_again_just_before_it_expires_is_bound_in_time() {
        for used_at in [300, 359, 420, 500, 541, 569, 575, 599] {
            let start = Instant::now();
            let at = |seconds| start + Duration::from_secs(seconds);
            let mut channels = Channels::default();
            channels.outbound(peer(0));
            channels.bound(FIRST, start);
            let mut bound_at = None;
            for seconds in 1..600 {
                if seconds >= used_at && channels.outbound(peer(0)) == Outbound::Bind(FIRST) {
                    bound_at.get_or_insert(seconds);
                }
                if channels.due(at(seconds)).is_some() {
                    bound_at.get_or_insert(seconds);
                }
                if bound_at == Some(seconds) {
                    channels.bound(FIRST, at(seconds));
                }
            }
            assert!(bound_at.is_some_and(|at| at >= used_at), "{used_at}: {bound_at:?}");
        }
    }

    #[test]
    fn channels_that_were_bound_one_after_the_other_are_bound_again_together() {
        let start = Instant::now();
        let at = |milliseconds| start + Duration::from_millis(milliseconds);
        let mut channels = Channels::default();
        for number in 0..20 {
            channels.outbound(peer(number));
            channels.bound(FIRST + number, at(u64::from(number) * 100));
            channels.inbound(FIRST + number);
        }
        let mut wakes = Vec::new();
        while let Some(next) = channels.next_timeout().filter(|next| *next < at(600_000)) {
            let due: Vec<_> = std::iter::from_fn(|| channels.due(next)).collect();
            wakes.push((next - start, due.len()));
            for number in due {
                channels.bound(number, next);
                channels.inbound(number);
            }
        }
        let seconds = Duration::from_secs;
        assert_eq!(wakes, [(seconds(300), 1), (seconds(310), 19)]);
    }

    #[test]
    fn numbers_are_used_once_and_again_only_after_they_have_cooled_down() {
        let start = Instant::now();
        let mut channels = Channels::default();
        for number in 0..0x1000 {
            assert_eq!(channels.outbound(peer(number)), Outbound::Bind(FIRST + number));
            channels.bound(FIRST + number, start);
        }
        assert_eq!(channels.outbound(peer(0x1000)), Outbound::Nowhere);
        let mut now = start;
        let end = start + LIFETIME + Duration::from_secs(300);
        while let Some(next) = channels.next_timeout().filter(|next| *next < end) {
            now = next;
            assert_eq!(channels.due(now), None);
        }
        assert_eq!(channels.outbound(peer(0x1000)), Outbound::Nowhere, "cooling down");
        assert_eq!(channels.due(start + LIFETIME + COOL_DOWN), None);
        assert_eq!(channels.outbound(peer(0x1000)), Outbound::Bind(FIRST));
        assert_eq!(channels.inbound(FIRST + 1), None);
        assert!(now < end);
    }

    #[test]
    fn what_the_relay_refuses_is_not_asked_for_at_once() {
        let now = Instant::now();
        let mut channels = Channels::default();
        assert_eq!(channels.outbound(peer(0)), Outbound::Bind(FIRST));
        channels.refused(FIRST, now);
        assert_eq!(channels.outbound(peer(0)), Outbound::Nowhere);
        assert_eq!(channels.due(now + REFUSED), None);
        assert_eq!(channels.outbound(peer(0)), Outbound::Bind(FIRST + 1));
    }

    #[test]
    fn nobody_is_reached_at_addresses_that_mean_this_host_or_many() {
        for address in [
            "127.0.0.1:1",
            "[::1]:1",
            "224.0.0.1:1",
            "[ff02::1]:1",
            "0.0.0.0:1",
            "169.254.1.1:1",
            "[fe80::1]:1",
            "192.0.2.1:0",
            "[::ffff:192.0.2.1]:1",
            "255.255.255.255:1",
        ] {
            assert!(!is_reachable(address.parse().unwrap()), "{address}");
        }
        for address in ["192.0.2.1:1", "10.0.0.1:1", "[2001:db8::1]:1", "[fd00::1]:1"] {
            assert!(is_reachable(address.parse().unwrap()), "{address}");
        }
    }
}
