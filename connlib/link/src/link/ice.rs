//! The ICE agent of a link with what it is told: both ends' candidates, and how eagerly pairs of them are checked.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use is::stun::{StunMessage, StunPacket};
use is::{IceAgent, IceAgentEvent, IceConnectionState, Protocol};

use super::config::{LinkConfig, Role};
use super::peer_candidates::{MAX_CANDIDATES, PeerCandidates};
use crate::candidates::{LocalCandidates, local_preference, to_sdp};
use crate::output::{Output, Path, Transmit};

/// Without packets, checks of several paths wait so long for each other: one wake-up does for all.
const LEISURE: Duration = Duration::from_secs(2);

/// Finds paths, and says which one is the best.
pub(super) struct Ice {
    agent: IceAgent,
    role: Role,
    locals: LocalCandidates,
    peer_candidates: PeerCandidates,
    is_idle: bool,
    /// The last answer to a check of a path.
    last_answered: Instant,
}

/// What came of the checks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum IceEvent {
    /// This path works, and is the best of those that do.
    Nominated(Path),
    /// Whether there may be a path.
    Hope(bool),
}

/// What the peer is to be told: SDP strings.
#[derive(Debug, Default)]
pub(super) struct Signals {
    pub(super) added: Vec<String>,
    pub(super) removed: Vec<String>,
}

impl Ice {
    pub(super) fn new(config: &LinkConfig, tie_breaker: u64, now: Instant) -> Self {
        let mut agent = IceAgent::new(config.local.clone().into());
        agent.set_remote_credentials(config.remote.clone().into());
        agent.set_controlling(config.role == Role::Controlling);
        agent.set_control_tie_breaker(tie_breaker);
        agent.set_timing_advance(Duration::ZERO);
        agent.set_max_candidate_pairs(100);
        agent.set_local_preference(local_preference);
        let mut ice = Self {
            agent,
            role: config.role,
            locals: LocalCandidates::default(),
            peer_candidates: PeerCandidates::default(),
            is_idle: false,
            last_answered: now,
        };
        ice.set_idle(false);
        ice
    }

    /// Time that a check of the best path took there and back, if known.
    pub(super) fn round_trip(&self) -> Option<Duration> {
        self.agent.nominated_pair_rtt()
    }

    /// When the peer last answered a check.
    pub(super) fn last_answered(&self) -> Instant {
        self.last_answered
    }

    pub(super) fn is_idle(&self) -> bool {
        self.is_idle
    }

    /// Checks paths at leisure, or not.
    pub(super) fn set_idle(&mut self, is_idle: bool) {
        self.is_idle = is_idle;
        apply_timing(&mut self.agent, self.role, is_idle);
    }

    /// Takes over what this end can be reached by. `None`: that is what it was before.
    pub(super) fn set_local_candidates(&mut self, locals: &LocalCandidates) -> Option<Signals> {
        let difference = locals.difference(&self.locals);
        if difference.is_empty() {
            return None;
        }
        self.locals = locals.clone();
        let mut removed = Vec::new();
        for candidate in difference.removed {
            let sdp = self
                .agent
                .local_candidates()
                .find(|c| c.kind() == candidate.kind() && c.addr() == candidate.addr());
            if self.agent.invalidate_candidate(&candidate) {
                removed.extend(sdp);
            }
        }
        let mut added = Vec::new();
        for candidate in difference.added {
            self.agent.set_local_preference(locals.preference_of(&candidate));
            added.extend(self.agent.add_local_candidate(candidate).cloned());
        }
        // Those that the agent finds by itself are no last resort.
        self.agent.set_local_preference(local_preference);
        Some(Signals { added: to_sdp(added), removed: to_sdp(removed) })
    }

    /// All that this end can be reached by: SDP strings.
    pub(super) fn local_candidates(&self) -> Vec<String> {
        to_sdp(self.agent.local_candidates().collect())
    }

    /// Whether this machine has no address.
    pub(super) fn is_offline(&self) -> bool {
        self.locals.iter().next().is_none()
    }

    pub(super) fn can_send_from(&self, address: SocketAddr) -> bool {
        self.locals.can_send_from(address)
    }

    /// Takes a candidate of the peer's, an SDP attribute. Whether it is a new one of a relay's.
    pub(super) fn add_remote_candidate(&mut self, candidate: &str) -> bool {
        self.peer_candidates.add(candidate, &mut self.agent)
    }

    /// Forgets a candidate of the peer's, an SDP attribute.
    pub(super) fn remove_remote_candidate(&mut self, candidate: &str) {
        self.peer_candidates.remove(candidate, &mut self.agent);
    }

    /// Whether the peer ever had a candidate.
    pub(super) fn knows_peer(&self) -> bool {
        !self.peer_candidates.is_empty()
    }

    /// Whether a relay gave us this address.
    pub(super) fn is_from_relay(&self, local: SocketAddr) -> bool {
        self.locals.has_relayed(local)
    }

    /// Whether a path leads through a relay.
    pub(super) fn is_relayed(&self, path: Path) -> bool {
        path.local.is_some_and(|local| self.is_from_relay(local))
            || PeerCandidates::has_relayed(path.remote, &self.agent)
    }

    /// Has all paths checked anew that begin at an interface of ours, those included that have failed before. For a
    /// moment none of them is known to work.
    pub(super) fn check_direct_again(&mut self) {
        // Only candidates of ours can be taken back and given again any number of times.
        for host in self.locals.hosts() {
            self.agent.invalidate_candidate(host);
            self.agent.add_local_candidate(host.clone());
        }
    }

    /// The same for all paths.
    pub(super) fn check_all_again(&mut self) {
        self.check_direct_again();
        for relayed in self.locals.relayed() {
            self.agent.invalidate_candidate(relayed);
            self.agent.add_local_candidate(relayed.clone());
        }
    }

    /// Takes a STUN message that names this link.
    pub(super) fn handle_stun(
        &mut self,
        local: SocketAddr,
        remote: SocketAddr,
        message: StunMessage<'_>,
        now: Instant,
    ) {
        if message.is_binding_request() {
            let known = self.agent.remote_candidates().any(|c| c.addr() == remote);
            let is_new = !known && self.agent.accepts_message(&message);
            if is_new && !self.peer_candidates.admit_unknown(&self.agent) {
                return;
            }
        } else if self.agent.local_candidates().count() >= MAX_CANDIDATES {
            // Each mapped address that a peer reports becomes a candidate of ours.
            return;
        } else {
            // It has the id of a request of ours, which nobody else knows.
            self.last_answered = now;
        }
        let packet =
            StunPacket { proto: Protocol::Udp, source: remote, destination: local, message };
        self.agent.handle_packet(now, packet);
    }

    pub(super) fn next_timeout(&mut self) -> Option<Instant> {
        let leisure = if self.is_idle { LEISURE } else { Duration::ZERO };
        self.agent.poll_timeout().map(|at| at + leisure)
    }

    /// Does what is due; [`Self::poll_event`] says what came of it.
    pub(super) fn drive(&mut self, now: Instant, out: &mut VecDeque<Output>) {
        // One call handles one pair; there are at most 100 of them.
        for _ in 0..128 {
            self.agent.handle_timeout(now);
            let mut did_something = false;
            while let Some(transmit) = self.agent.poll_transmit() {
                did_something = true;
                if self.is_futile(transmit.source, transmit.destination) {
                    continue;
                }
                let path = Path { local: Some(transmit.source), remote: transmit.destination };
                let payload = transmit.contents.to_vec();
                out.push_back(Output::Transmit(Transmit { path, payload }));
            }
            if !did_something {
                break;
            }
        }
    }

    pub(super) fn poll_event(&mut self) -> Option<IceEvent> {
        loop {
            match self.agent.poll_event()? {
                IceAgentEvent::NominatedSend { source, destination, .. } => {
                    let path = Path { local: Some(source), remote: destination };
                    return Some(IceEvent::Nominated(path));
                }
                IceAgentEvent::IceConnectionStateChange(state) => {
                    tracing::debug!(?state, "ICE");
                    return Some(IceEvent::Hope(state != IceConnectionState::Disconnected));
                }
                IceAgentEvent::IceRestart(_) | IceAgentEvent::DiscoveredRecv { .. } => {}
            }
        }
    }

    /// Whether a check from a relay brings nothing: an address of the peer's behind NAT can't be reached from there, and
    /// what goes from relay to relay by IPv6 goes by IPv4 as well.
    fn is_futile(&self, source: SocketAddr, destination: SocketAddr) -> bool {
        let agent = &self.agent;
        self.locals.has_relayed(source)
            && (PeerCandidates::is_behind_nat(destination, agent)
                || destination.is_ipv6()
                    && PeerCandidates::has_relayed(destination, agent)
                    && PeerCandidates::has_relayed_ipv4(agent)
                    && self.locals.has_relayed_ipv4())
    }
}

/// How often pairs are checked and how soon they are given up. A client decides quickly, as it is the one that can do
/// something about it; a gateway waits for its clients.
fn apply_timing(agent: &mut IceAgent, role: Role, idle: bool) {
    let (retransmits, initial, max) = match (role, idle) {
        (Role::Controlling, false) => (12, 250, 1_500),
        (Role::Controlling, true) => (4, 25_000, 25_000),
        (Role::Controlled, false) => (45, 250, 15_000),
        (Role::Controlled, true) => (40, 25_000, 25_000),
    };
    agent.set_max_stun_retransmits(retransmits);
    agent.set_initial_stun_rto(Duration::from_millis(initial));
    agent.set_max_stun_rto(Duration::from_millis(max));
}
