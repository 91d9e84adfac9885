//! The candidates of this end: what each link tells its peer.

use std::net::SocketAddr;

use is::{Candidate, CandidateKind};

use crate::relays::Relayed;
use crate::stun_servers::Mapping;

/// Local addresses beyond this many are ignored: each costs a check per remote candidate.
const MAX_HOSTS: usize = 16;

/// What this end can be reached by at present.
#[derive(Debug, Clone, Default)]
pub(crate) struct LocalCandidates {
    candidates: Vec<Candidate>,
    /// Those of the candidates that are reached by streams.
    last_resorts: Vec<SocketAddr>,
    /// Addresses that are none any more, but may be sent from a little longer.
    withdrawn: Vec<SocketAddr>,
}

/// How one set of candidates differs from another.
#[derive(Debug, Default)]
pub(crate) struct Difference {
    pub(crate) added: Vec<Candidate>,
    pub(crate) removed: Vec<Candidate>,
    /// Addresses that may be sent from are others.
    is_elsewhere: bool,
}

impl Difference {
    pub(crate) fn is_empty(&self) -> bool {
        self.added.is_empty() && self.removed.is_empty() && !self.is_elsewhere
    }
}

impl LocalCandidates {
    /// Host candidates for `hosts`, a server-reflexive one for each mapping that NAT made, and relayed ones.
    pub(crate) fn new(
        hosts: &[SocketAddr],
        mappings: impl Iterator<Item = Mapping>,
        relayed: &Relayed,
    ) -> Self {
        let mut candidates = Vec::new();
        for host in hosts.iter().take(MAX_HOSTS) {
            match Candidate::host(*host, "udp") {
                Ok(candidate) => candidates.push(candidate),
                Err(e) => tracing::debug!(%host, error = %e, "address is no candidate"),
            }
        }
        for Mapping { local, mapped } in mappings {
            // Without NAT the mapping says what we knew.
            if hosts.contains(&mapped) {
                continue;
            }
            match Candidate::server_reflexive(mapped, local, "udp") {
                Ok(candidate) => candidates.push(candidate),
                Err(e) => tracing::debug!(%mapped, error = %e, "mapping is no candidate"),
            }
        }
        for Mapping { local, mapped } in relayed.offered.iter().chain(&relayed.last_resorts) {
            match Candidate::relayed(*mapped, *local, "udp") {
                Ok(candidate) => candidates.push(candidate),
                Err(e) => tracing::debug!(%mapped, error = %e, "relayed address is no candidate"),
            }
        }
        let last_resorts = relayed.last_resorts.iter().map(|mapping| mapping.mapped).collect();
        Self { candidates, last_resorts, withdrawn: relayed.withdrawn.clone() }
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Candidate> {
        self.candidates.iter()
    }

    /// Whether an interface of ours has this address, or a relay gave it to us.
    pub(crate) fn can_send_from(&self, address: SocketAddr) -> bool {
        let is_withdrawn = self.withdrawn.contains(&address);
        is_withdrawn
            || self.candidates.iter().any(|candidate| match candidate.kind() {
                CandidateKind::Host => candidate.addr().ip() == address.ip(),
                CandidateKind::Relayed => candidate.addr() == address,
                CandidateKind::ServerReflexive | CandidateKind::PeerReflexive => false,
            })
    }

    /// Those of our own interfaces.
    pub(crate) fn hosts(&self) -> impl Iterator<Item = &Candidate> {
        self.candidates.iter().filter(|candidate| candidate.kind() == CandidateKind::Host)
    }

    /// Those of relays.
    pub(crate) fn relayed(&self) -> impl Iterator<Item = &Candidate> {
        self.candidates.iter().filter(|candidate| candidate.kind() == CandidateKind::Relayed)
    }

    /// Whether a relay gave us an IPv4 address.
    pub(crate) fn has_relayed_ipv4(&self) -> bool {
        self.relayed().any(|candidate| candidate.addr().is_ipv4())
    }

    /// Whether a relay gave us this address.
    pub(crate) fn has_relayed(&self, address: SocketAddr) -> bool {
        self.relayed().any(|candidate| candidate.addr() == address)
    }

    /// How the agent is to rank this one of our candidates among those of its kind, of which it counts all that there
    /// were.
    pub(crate) fn preference_of(&self, candidate: &Candidate) -> fn(&Candidate, usize) -> u32 {
        match self.last_resorts.contains(&candidate.addr()) {
            true => last_resort_preference,
            false => local_preference,
        }
    }

    pub(crate) fn difference(&self, old: &Self) -> Difference {
        let missing_in = |set: &Self, c: &Candidate| !set.candidates.iter().any(|o| is_same(o, c));
        Difference {
            added: self.candidates.iter().filter(|c| missing_in(old, c)).cloned().collect(),
            removed: old.candidates.iter().filter(|c| missing_in(self, c)).cloned().collect(),
            is_elsewhere: self.withdrawn != old.withdrawn,
        }
    }
}

fn is_same(a: &Candidate, b: &Candidate) -> bool {
    a.kind() == b.kind() && a.addr() == b.addr() && a.local() == b.local()
}

/// The earlier one is preferred.
pub(crate) fn local_preference(candidate: &Candidate, same_kind: usize) -> u32 {
    is::default_local_preference(candidate, same_kind.min(MAX_RANK))
}

/// All others are preferred, those of the other family included.
fn last_resort_preference(candidate: &Candidate, same_kind: usize) -> u32 {
    is::default_local_preference(candidate, LAST_RESORTS + same_kind.min(MAX_RANK))
}

/// Relayed candidates have the narrowest range of preferences, of some 16000, and each takes two; but a relay's address
/// of the other family, a thousand.
const MAX_RANK: usize = 3000;
const LAST_RESORTS: usize = 4000;

/// Candidates as they are signalled: SDP attributes, best first.
pub(crate) fn to_sdp(mut candidates: Vec<Candidate>) -> Vec<String> {
    candidates.sort_by_key(|c| std::cmp::Reverse(c.prio()));
    candidates.iter().map(Candidate::to_sdp_string).collect()
}
