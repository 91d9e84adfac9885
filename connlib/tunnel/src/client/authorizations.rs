//! Access to resources: asked for when there is traffic, repeated by a timer, given up in the end.

mod granted;

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use connlib_dns::{Client, Query};
use connlib_packet::{Headers, TcpFlags, Transport};

use granted::Granted;

use super::event::FailureReason;
use crate::ids::{GatewayId, ResourceId};

/// Packets that wait for one authorization; the oldest goes first.
const MAX_PACKETS: usize = 128;

/// DNS queries that wait for one authorization; further ones are refused.
const MAX_QUERIES: usize = 128;

/// The portal answers within 15 s; what was lost on the way to it is repeated sooner.
const FIRST_RETRY: Duration = Duration::from_secs(2);
const MAX_RETRY: Duration = Duration::from_secs(16);

/// After that many requests without an answer there won't be one.
const MAX_ATTEMPTS: u32 = 5;

/// How long a refusal stands before traffic asks again; doubles as long as the answer is the same.
const FIRST_HOLD_OFF: Duration = Duration::from_millis(500);
const MAX_HOLD_OFF: Duration = Duration::from_secs(30);
/// What is away may be back at any time, and nobody tells us.
const MAX_HOLD_OFF_AWAY: Duration = Duration::from_secs(2);

/// A gateway that is away may have lost the portal for a moment only: it is asked for once more after so long.
const AWAY_FOR_A_MOMENT: Duration = Duration::from_millis(500);

/// A refusal that nobody asked about for so long is forgotten.
const REFUSAL_LIFETIME: Duration = Duration::from_secs(300);

/// The access to each resource, as far as somebody wanted it.
#[derive(Debug, Default)]
pub(super) struct Authorizations {
    by_resource: BTreeMap<ResourceId, State>,
    /// The first of all deadlines: it is asked for after each burst of packets, and changes when the portal speaks.
    next: Option<Instant>,
}

#[derive(Debug)]
enum State {
    Pending(Pending),
    Granted(Granted),
    Refused { reason: FailureReason, at: Instant, hold_off: Duration },
}

#[derive(Debug)]
struct Pending {
    waiting: Waiting,
    attempts: u32,
    retry_at: Instant,
    backoff: Duration,
    /// The hold-off that preceded, so that the next one is longer.
    hold_off: Duration,
    /// The portal has said already that no gateway is there.
    is_put_off: bool,
}

/// What waits for an authorization.
#[derive(Debug, Default)]
pub(super) struct Waiting {
    pub(super) packets: VecDeque<Vec<u8>>,
    pub(super) queries: Vec<(Client, Query)>,
}

/// What may be done for a resource now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Access {
    /// Packets go to this gateway.
    Granted(GatewayId),
    /// They have to wait. `ask`: the portal is to be asked now.
    Pending { ask: bool },
    /// There is none.
    Refused(FailureReason),
}

/// A timer ran out.
#[derive(Debug)]
pub(super) enum Due {
    /// Ask the portal (once more).
    Ask(ResourceId),
    /// Ask the portal once more about access that we have, unless its gateway is there after all.
    Confirm(ResourceId, GatewayId),
    /// It does not answer.
    GaveUp(ResourceId, Waiting),
    /// Nothing is known of this resource any more.
    Forgotten,
}

impl Authorizations {
    /// What may be done for a resource, for which there is traffic.
    pub(super) fn access(&mut self, resource: ResourceId, now: Instant) -> Access {
        match self.by_resource.get(&resource) {
            Some(State::Granted(granted)) => return Access::Granted(granted.gateway),
            Some(State::Pending(_)) => return Access::Pending { ask: false },
            Some(State::Refused { reason, at, hold_off }) if now < *at + *hold_off => {
                return Access::Refused(*reason);
            }
            Some(State::Refused { .. }) | None => {}
        }
        let hold_off = match self.by_resource.get(&resource) {
            Some(State::Refused { at, hold_off, reason })
                if now < *at + *hold_off * 2 + MAX_HOLD_OFF =>
            {
                (*hold_off * 2).clamp(FIRST_HOLD_OFF, max_hold_off(*reason))
            }
            _ => FIRST_HOLD_OFF,
        };
        let pending = Pending {
            waiting: Waiting::default(),
            attempts: 1,
            retry_at: now + FIRST_RETRY,
            backoff: FIRST_RETRY,
            hold_off,
            is_put_off: false,
        };
        self.by_resource.insert(resource, State::Pending(pending));
        self.settle();
        Access::Pending { ask: true }
    }

    /// The gateway that gives access to a resource at present.
    pub(super) fn gateway(&self, resource: ResourceId) -> Option<GatewayId> {
        match self.by_resource.get(&resource)? {
            State::Granted(granted) => Some(granted.gateway),
            State::Pending(_) | State::Refused { .. } => None,
        }
    }

    /// Since when there is access.
    pub(super) fn granted_since(&self, resource: ResourceId) -> Option<Instant> {
        match self.by_resource.get(&resource)? {
            State::Granted(granted) => Some(granted.since),
            State::Pending(_) | State::Refused { .. } => None,
        }
    }

    pub(super) fn is_offline(&self, resource: ResourceId) -> bool {
        matches!(
            self.by_resource.get(&resource),
            Some(State::Refused { reason: FailureReason::Offline, .. })
        )
    }

    /// Keeps a packet until the answer is there. A repeated SYN takes the place of the first: its timestamps are newer.
    pub(super) fn keep_packet(&mut self, resource: ResourceId, packet: &[u8]) {
        let Some(State::Pending(pending)) = self.by_resource.get_mut(&resource) else { return };
        let packets = &mut pending.waiting.packets;
        if let Some(same) = packets.iter_mut().find(|kept| is_same_syn(kept, packet)) {
            same.clear();
            same.extend_from_slice(packet);
            return;
        }
        if packets.len() == MAX_PACKETS {
            packets.pop_front();
        }
        packets.push_back(packet.to_vec());
    }

    /// Keeps a query until the answer is there; false: there are too many.
    pub(super) fn keep_query(
        &mut self,
        resource: ResourceId,
        client: Client,
        query: &Query,
    ) -> bool {
        match self.by_resource.get_mut(&resource) {
            Some(State::Pending(pending)) if pending.waiting.queries.len() < MAX_QUERIES => {
                pending.waiting.queries.push((client, query.clone()));
                true
            }
            _ => false,
        }
    }

    /// There is access. Returns what waited for it.
    pub(super) fn grant(
        &mut self,
        resource: ResourceId,
        gateway: GatewayId,
        now: Instant,
    ) -> Waiting {
        let before = match self.by_resource.get(&resource) {
            Some(State::Granted(granted)) => Some(granted),
            _ => None,
        };
        let granted = State::Granted(Granted::new(gateway, before, now));
        let previous = self.by_resource.insert(resource, granted);
        self.settle();
        match previous {
            Some(State::Pending(pending)) => pending.waiting,
            _ => Waiting::default(),
        }
    }

    /// Whether the portal is to be asked if this gateway still gives access, as it says no to something. Not more often
    /// than every few seconds; other packets go on meanwhile.
    pub(super) fn doubt(&mut self, resource: ResourceId, gateway: GatewayId, now: Instant) -> bool {
        match self.by_resource.get_mut(&resource) {
            Some(State::Granted(granted)) if granted.gateway == gateway => granted.doubt(now),
            _ => false,
        }
    }

    /// Whether what the portal says is to be taken for an answer only if it says so again soon: what waits goes on
    /// waiting. Not once it has been taken for one, lately.
    pub(super) fn put_off(
        &mut self,
        resource: ResourceId,
        reason: FailureReason,
        now: Instant,
    ) -> bool {
        let Some(State::Pending(pending)) = self.by_resource.get_mut(&resource) else {
            return false;
        };
        let is_new = pending.hold_off == FIRST_HOLD_OFF && !pending.is_put_off;
        if reason != FailureReason::Offline || !is_new {
            return false;
        }
        pending.is_put_off = true;
        pending.retry_at = now + AWAY_FOR_A_MOMENT;
        self.settle();
        true
    }

    /// There is none. Returns what waited for it. Access that was there stays if the portal only doesn't know how to
    /// give it at present; as the gateway may be back with another key, it is asked about again soon.
    pub(super) fn refuse(
        &mut self,
        resource: ResourceId,
        reason: FailureReason,
        now: Instant,
    ) -> Waiting {
        let Some(state) = self.by_resource.get_mut(&resource) else { return Waiting::default() };
        let (waiting, hold_off) = match state {
            State::Pending(pending) => (std::mem::take(&mut pending.waiting), pending.hold_off),
            State::Granted(_) if is_final(reason) => (Waiting::default(), FIRST_HOLD_OFF),
            State::Granted(granted) if reason == FailureReason::Offline => {
                granted.note_away(now);
                self.settle();
                return Waiting::default();
            }
            State::Granted(_) | State::Refused { .. } => return Waiting::default(),
        };
        *state = State::Refused { reason, at: now, hold_off };
        self.settle();
        waiting
    }

    /// Forgets the access to a resource; traffic asks anew. Returns what waited for it.
    pub(super) fn forget(&mut self, resource: ResourceId) -> Waiting {
        let previous = self.by_resource.remove(&resource);
        self.settle();
        match previous {
            Some(State::Pending(pending)) => pending.waiting,
            _ => Waiting::default(),
        }
    }

    /// Forgets all access through a gateway.
    pub(super) fn forget_gateway(&mut self, gateway: GatewayId) {
        self.by_resource.retain(
            |_, state| !matches!(state, State::Granted(granted) if granted.gateway == gateway),
        );
        self.settle();
    }

    /// The resources that a gateway gives access to.
    pub(super) fn through(&self, gateway: GatewayId) -> impl Iterator<Item = ResourceId> {
        self.by_resource.iter().filter_map(move |(resource, state)| match state {
            State::Granted(granted) if granted.gateway == gateway => Some(*resource),
            _ => None,
        })
    }

    /// The portal is there again: what is pending is asked at once. Returns the access that is in doubt.
    pub(super) fn ask_all(&mut self, now: Instant) -> Vec<ResourceId> {
        for state in self.by_resource.values_mut() {
            match state {
                State::Pending(pending) => {
                    (pending.retry_at, pending.backoff, pending.attempts) = (now, FIRST_RETRY, 0);
                    // When the portal was away, gateways come back to it as we do: one by one.
                    pending.hold_off = FIRST_HOLD_OFF;
                }
                State::Refused { hold_off, .. } => *hold_off = Duration::ZERO,
                State::Granted(granted) => granted.forget_away(),
            }
        }
        self.settle();
        let is_in_doubt =
            |state: &State| matches!(state, State::Granted(granted) if granted.is_in_doubt);
        let doubted = self.by_resource.iter().filter(|(_, state)| is_in_doubt(state));
        doubted.map(|(resource, _)| *resource).collect()
    }

    pub(super) fn next_timeout(&self) -> Option<Instant> {
        self.next
    }

    /// After each change of a deadline.
    fn settle(&mut self) {
        self.next = self.by_resource.values().filter_map(State::deadline).min();
    }

    /// What is due; to be called until there is nothing.
    pub(super) fn pop_due(&mut self, now: Instant) -> Option<Due> {
        self.next.filter(|at| *at <= now)?;
        let (resource, state) = self
            .by_resource
            .iter_mut()
            .find(|(_, state)| state.deadline().is_some_and(|at| at <= now))?;
        let resource = *resource;
        if let State::Granted(granted) = state {
            let gateway = granted.gateway;
            granted.ask_at = None;
            self.settle();
            return Some(Due::Confirm(resource, gateway));
        }
        if let State::Pending(pending) = state
            && pending.attempts < MAX_ATTEMPTS
        {
            pending.attempts += 1;
            pending.backoff = (pending.backoff * 2).min(MAX_RETRY);
            pending.retry_at = now + pending.backoff;
            self.settle();
            return Some(Due::Ask(resource));
        }
        if matches!(state, State::Pending(_)) {
            return Some(Due::GaveUp(resource, self.refuse(resource, FailureReason::Timeout, now)));
        }
        self.forget(resource);
        Some(Due::Forgotten)
    }
}

impl State {
    fn deadline(&self) -> Option<Instant> {
        match self {
            Self::Pending(pending) => Some(pending.retry_at),
            Self::Refused { at, .. } => Some(*at + REFUSAL_LIFETIME),
            Self::Granted(granted) => granted.ask_at,
        }
    }
}

fn max_hold_off(reason: FailureReason) -> Duration {
    match reason {
        FailureReason::Offline | FailureReason::Timeout => MAX_HOLD_OFF_AWAY,
        _ => MAX_HOLD_OFF,
    }
}

/// Whether the portal says that there is to be no access, rather than that nobody is there to give it.
fn is_final(reason: FailureReason) -> bool {
    matches!(reason, FailureReason::Forbidden | FailureReason::NotFound)
}

fn is_same_syn(one: &[u8], other: &[u8]) -> bool {
    let (Ok(one), Ok(other)) = (Headers::parse(one), Headers::parse(other)) else { return false };
    let is_syn = |headers: &Headers| {
        matches!(headers.transport(), Transport::Tcp { .. })
            && headers.tcp_flags().is_some_and(|flags| flags.contains(TcpFlags::SYN))
    };
    is_syn(&one)
        && is_syn(&other)
        && one.source_socket() == other.source_socket()
        && one.destination_socket() == other.destination_socket()
}

#[cfg(test)]
mod tests {
    use super::granted::DOUBT_PAUSE;
    use super::*;

    const RESOURCE: ResourceId = ResourceId::from_u128(1);
    const GATEWAY: GatewayId = GatewayId::from_u128(2);

    #[test]
    fn the_portal_is_asked_once_and_then_by_a_timer_until_it_is_hopeless() {
        let mut now = Instant::now();
        let mut authorizations = Authorizations::default();
        assert_eq!(authorizations.access(RESOURCE, now), Access::Pending { ask: true });
        assert_eq!(authorizations.access(RESOURCE, now), Access::Pending { ask: false });
        authorizations.keep_packet(RESOURCE, b"packet");
        let mut asked = 1;
        loop {
            now = authorizations.next_timeout().unwrap();
            match authorizations.pop_due(now).unwrap() {
                Due::Ask(RESOURCE) => asked += 1,
                Due::GaveUp(RESOURCE, waiting) => {
                    assert_eq!(waiting.packets, [b"packet"]);
                    break;
                }
                due => panic!("{due:?}"),
            }
        }
        assert_eq!(asked, MAX_ATTEMPTS);
        assert_eq!(authorizations.access(RESOURCE, now), Access::Refused(FailureReason::Timeout));
    }

    #[test]
    fn the_next_deadline_is_the_first_of_all_at_any_time() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let [first, second] = [1, 2].map(ResourceId::from_u128);
        let mut authorizations = Authorizations::default();
        assert_eq!(authorizations.next_timeout(), None);
        authorizations.access(first, at(0));
        authorizations.access(second, at(100));
        assert_eq!(authorizations.next_timeout(), Some(at(0) + FIRST_RETRY));
        authorizations.grant(first, GATEWAY, at(200));
        assert_eq!(authorizations.next_timeout(), Some(at(100) + FIRST_RETRY));
        authorizations.refuse(second, FailureReason::Offline, at(300));
        assert_eq!(authorizations.next_timeout(), Some(at(300) + REFUSAL_LIFETIME));
        authorizations.forget(first);
        authorizations.access(first, at(400));
        assert_eq!(authorizations.next_timeout(), Some(at(400) + FIRST_RETRY));
        authorizations.ask_all(at(500));
        assert_eq!(authorizations.next_timeout(), Some(at(500)));
        assert!(matches!(authorizations.pop_due(at(500)), Some(Due::Ask(_))));
        assert!(authorizations.pop_due(at(500)).is_none());
        authorizations.forget(first);
        authorizations.forget(second);
        assert_eq!(authorizations.next_timeout(), None);
    }

    #[test]
    fn a_refusal_stands_for_a_while_and_longer_each_time() {
        let mut now = Instant::now();
        let mut authorizations = Authorizations::default();
        let mut previous = Duration::ZERO;
        for _ in 0..4 {
            assert_eq!(authorizations.access(RESOURCE, now), Access::Pending { ask: true });
            authorizations.refuse(RESOURCE, FailureReason::Forbidden, now);
            let refused_at = now;
            while authorizations.access(RESOURCE, now) == Access::Refused(FailureReason::Forbidden)
            {
                now += Duration::from_millis(100);
            }
            assert!(now - refused_at > previous);
            previous = now - refused_at;
            authorizations.refuse(RESOURCE, FailureReason::Forbidden, now);
            now += previous * 3;
        }
    }

    #[test]
    fn access_in_doubt_goes_on_until_the_portal_says_no() {
        let start = Instant::now();
        let mut authorizations = Authorizations::default();
        authorizations.access(RESOURCE, start);
        authorizations.grant(RESOURCE, GATEWAY, start);
        assert!(!authorizations.doubt(RESOURCE, GATEWAY, start));
        let later = start + DOUBT_PAUSE;
        assert!(!authorizations.doubt(RESOURCE, GatewayId::from_u128(3), later));
        assert!(authorizations.doubt(RESOURCE, GATEWAY, later));
        assert!(!authorizations.doubt(RESOURCE, GATEWAY, later));
        assert_eq!(authorizations.ask_all(later), [RESOURCE]);
        authorizations.refuse(RESOURCE, FailureReason::Offline, later);
        assert_eq!(authorizations.access(RESOURCE, later), Access::Granted(GATEWAY));
        authorizations.refuse(RESOURCE, FailureReason::Forbidden, later);
        let refused = Access::Refused(FailureReason::Forbidden);
        assert_eq!(authorizations.access(RESOURCE, later), refused);
    }

    #[test]
    fn a_gateway_that_we_have_access_by_and_that_is_away_is_asked_for_until_it_is_hopeless() {
        let start = Instant::now();
        let mut authorizations = Authorizations::default();
        authorizations.access(RESOURCE, start);
        authorizations.grant(RESOURCE, GATEWAY, start);
        authorizations.refuse(RESOURCE, FailureReason::Offline, start);
        let mut asked_at = Vec::new();
        while let Some(now) = authorizations.next_timeout() {
            let due = authorizations.pop_due(now);
            assert!(matches!(due, Some(Due::Confirm(RESOURCE, GATEWAY))), "{due:?}");
            assert!(authorizations.pop_due(now).is_none());
            asked_at.push((now - start).as_millis());
            authorizations.refuse(RESOURCE, FailureReason::Offline, now);
            assert_eq!(authorizations.access(RESOURCE, now), Access::Granted(GATEWAY));
        }
        assert_eq!(asked_at, [500, 1500, 3500, 5500, 7500, 9500, 11_500, 13_500]);

        let later = start + Duration::from_secs(60);
        authorizations.grant(RESOURCE, GATEWAY, later);
        authorizations.refuse(RESOURCE, FailureReason::Offline, later);
        assert_eq!(authorizations.next_timeout(), Some(later + AWAY_FOR_A_MOMENT));
        authorizations.grant(RESOURCE, GATEWAY, later);
        assert_eq!(authorizations.next_timeout(), None);
    }

    #[test]
    fn what_a_gateway_denies_again_and_again_is_asked_about_less_and_less() {
        let mut now = Instant::now();
        let end = now + Duration::from_secs(300);
        let mut authorizations = Authorizations::default();
        authorizations.access(RESOURCE, now);
        authorizations.grant(RESOURCE, GATEWAY, now);
        let mut asked = 0;
        while now < end {
            now += Duration::from_millis(100);
            if authorizations.doubt(RESOURCE, GATEWAY, now) {
                asked += 1;
                authorizations.grant(RESOURCE, GATEWAY, now);
            }
        }
        assert!((8..15).contains(&asked), "{asked}");
        // Another grant that was not in doubt has nothing to do with that.
        authorizations.grant(RESOURCE, GATEWAY, now);
        assert!(authorizations.doubt(RESOURCE, GATEWAY, now + DOUBT_PAUSE));
    }

    #[test]
    fn a_gateway_that_is_away_for_a_moment_is_waited_for() {
        let now = Instant::now();
        let mut authorizations = Authorizations::default();
        authorizations.access(RESOURCE, now);
        authorizations.keep_packet(RESOURCE, b"1");
        assert!(authorizations.put_off(RESOURCE, FailureReason::Offline, now));
        assert_eq!(authorizations.access(RESOURCE, now), Access::Pending { ask: false });
        assert!(authorizations.pop_due(now).is_none());
        let soon = now + AWAY_FOR_A_MOMENT;
        assert!(matches!(authorizations.pop_due(soon), Some(Due::Ask(RESOURCE))));

        // It is away for longer: those who come now need not wait.
        assert!(!authorizations.put_off(RESOURCE, FailureReason::Offline, soon));
        authorizations.refuse(RESOURCE, FailureReason::Offline, soon);
        let later = soon + FIRST_HOLD_OFF;
        assert_eq!(authorizations.access(RESOURCE, later), Access::Pending { ask: true });
        assert!(!authorizations.put_off(RESOURCE, FailureReason::Offline, later));

        authorizations.forget(RESOURCE);
        authorizations.access(RESOURCE, later);
        assert!(!authorizations.put_off(RESOURCE, FailureReason::Forbidden, later));
    }

    #[test]
    fn a_gateway_that_is_back_is_found_within_seconds() {
        let mut now = Instant::now();
        let mut authorizations = Authorizations::default();
        for _ in 0..10 {
            assert_eq!(authorizations.access(RESOURCE, now), Access::Pending { ask: true });
            authorizations.refuse(RESOURCE, FailureReason::Offline, now);
            now += MAX_HOLD_OFF_AWAY;
        }
    }

    #[test]
    fn what_is_granted_stays_until_its_gateway_goes() {
        let now = Instant::now();
        let mut authorizations = Authorizations::default();
        authorizations.access(RESOURCE, now);
        authorizations.keep_packet(RESOURCE, b"1");
        assert_eq!(authorizations.grant(RESOURCE, GATEWAY, now).packets, [b"1"]);
        assert_eq!(authorizations.access(RESOURCE, now), Access::Granted(GATEWAY));
        assert_eq!(authorizations.next_timeout(), None);
        assert_eq!(authorizations.through(GATEWAY).count(), 1);
        authorizations.forget_gateway(GATEWAY);
        assert_eq!(authorizations.access(RESOURCE, now), Access::Pending { ask: true });
    }

    #[test]
    fn the_buffer_is_bounded_and_the_oldest_goes_first() {
        let now = Instant::now();
        let mut authorizations = Authorizations::default();
        authorizations.access(RESOURCE, now);
        for i in 0..MAX_PACKETS + 10 {
            authorizations.keep_packet(RESOURCE, &i.to_be_bytes());
        }
        let waiting = authorizations.grant(RESOURCE, GATEWAY, now);
        assert_eq!(waiting.packets.len(), MAX_PACKETS);
        assert_eq!(waiting.packets[0], 10usize.to_be_bytes());
    }
}
