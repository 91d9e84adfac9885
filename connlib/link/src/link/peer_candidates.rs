//! What the peer says that it can be reached by, and what its checks came from.

use std::net::{IpAddr, SocketAddr};

use is::{Candidate, CandidateKind, IceAgent};

/// Candidates that we believe either end to have at a time, signalled or seen. A peer that claims more is a broken one.
pub(super) const MAX_CANDIDATES: usize = 64;

/// Candidates that either end may have had in the life of a link: the agent keeps those that are gone, too.
const MAX_CANDIDATES_EVER: usize = 1024;

/// Counts the peer's candidates; the agent has them.
#[derive(Debug, Default)]
pub(super) struct PeerCandidates {
    ever: usize,
}

impl PeerCandidates {
    /// Whether the peer never had any.
    pub(super) fn is_empty(&self) -> bool {
        self.ever == 0
    }

    /// Takes one that was signalled: an SDP attribute. Whether it is a new one of a relay's.
    pub(super) fn add(&mut self, candidate: &str, agent: &mut IceAgent) -> bool {
        let candidate = match Candidate::from_sdp_string(candidate) {
            Ok(candidate) => candidate,
            Err(e) => {
                tracing::debug!(error = %e, "skipped malformed candidate");
                return false;
            }
        };
        // Peers signal all that they have again and again. What is being checked stays as it is; what has failed gets
        // another try, in place of the one that it had.
        if agent.find_pair_for_equivalent_remote_candidate(&candidate).is_some() {
            return false;
        }
        forget(&candidate, agent);
        let is_relayed = candidate.kind() == CandidateKind::Relayed;
        if is_relayed {
            forget_reflexive(candidate.addr(), agent);
        }
        let is_admitted = self.admit_unknown(agent);
        if is_admitted {
            agent.add_remote_candidate(candidate);
        }
        is_admitted && is_relayed
    }

    /// The peer has one less.
    pub(super) fn remove(&mut self, candidate: &str, agent: &mut IceAgent) {
        if let Ok(candidate) = Candidate::from_sdp_string(candidate) {
            forget(&candidate, agent);
        }
    }

    /// Counts one more candidate; false if that is too many.
    pub(super) fn admit_unknown(&mut self, agent: &IceAgent) -> bool {
        let has_room =
            self.ever < MAX_CANDIDATES_EVER && agent.remote_candidates().count() < MAX_CANDIDATES;
        if !has_room {
            tracing::debug!("peer has too many candidates");
        }
        self.ever += usize::from(has_room);
        has_room
    }

    /// Whether a relay gave the peer this address.
    pub(super) fn has_relayed(address: SocketAddr, agent: &IceAgent) -> bool {
        agent.remote_candidates().any(|c| c.kind() == CandidateKind::Relayed && c.addr() == address)
    }

    /// Whether a relay gave the peer an IPv4 address.
    pub(super) fn has_relayed_ipv4(agent: &IceAgent) -> bool {
        agent.remote_candidates().any(|c| c.kind() == CandidateKind::Relayed && c.addr().is_ipv4())
    }

    /// Whether this is an address of the peer's that only its own network knows.
    pub(super) fn is_behind_nat(address: SocketAddr, agent: &IceAgent) -> bool {
        let is_host = |c: &Candidate| c.kind() == CandidateKind::Host && c.addr() == address;
        let is_mapped = |c: &Candidate| {
            c.kind() == CandidateKind::ServerReflexive && c.addr().is_ipv4() == address.is_ipv4()
        };
        is_private(address.ip())
            && agent.remote_candidates().any(|c| is_host(&c))
            && agent.remote_candidates().any(|c| is_mapped(&c))
    }
}

fn forget(candidate: &Candidate, agent: &mut IceAgent) {
    // The agent searches both ends' candidates: one of ours must not go because the peer said so.
    if !agent.local_candidates().any(|c| c.addr() == candidate.addr()) {
        agent.invalidate_candidate(candidate);
    }
}

/// A check that came before the candidate was signalled made its sender look like a direct address: pairs with it would
/// go on to outrank those that are direct.
fn forget_reflexive(address: SocketAddr, agent: &mut IceAgent) {
    let reflexive = agent
        .remote_candidates()
        .find(|c| c.kind() == CandidateKind::PeerReflexive && c.addr() == address);
    if let Some(reflexive) = reflexive {
        forget(&reflexive, agent);
    }
}

/// Addresses that are not unique in the world (RFC 1918, RFC 6598, RFC 4193).
fn is_private(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => ip.is_private() || (ip.octets()[0] == 100 && ip.octets()[1] & 0xc0 == 64),
        IpAddr::V6(ip) => ip.is_unique_local(),
    }
}
