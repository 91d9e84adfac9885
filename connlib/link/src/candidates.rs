//! The candidates of this end: what each link tells its peer.

use std::net::{IpAddr, SocketAddr};

use is::Candidate;

use crate::stun::Mapping;

/// Local addresses beyond this many are ignored: each costs a check per remote candidate.
const MAX_HOSTS: usize = 16;

/// What this end can be reached by at present.
#[derive(Debug, Clone, Default)]
pub(crate) struct LocalCandidates {
    candidates: Vec<Candidate>,
}

/// How one set of candidates differs from another.
#[derive(Debug, Default)]
pub(crate) struct Difference {
    pub(crate) added: Vec<Candidate>,
    pub(crate) removed: Vec<Candidate>,
}

impl LocalCandidates {
    /// Host candidates for `hosts` and a server-reflexive one for each mapping that NAT made.
    pub(crate) fn new(hosts: &[SocketAddr], mappings: impl Iterator<Item = Mapping>) -> Self {
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
        Self { candidates }
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Candidate> {
        self.candidates.iter()
    }

    /// Whether an interface of ours has this address.
    pub(crate) fn has_host(&self, ip: IpAddr) -> bool {
        self.candidates.iter().any(|c| c.kind() == is::CandidateKind::Host && c.addr().ip() == ip)
    }

    pub(crate) fn difference(&self, old: &Self) -> Difference {
        let missing_in = |set: &Self, c: &Candidate| !set.candidates.iter().any(|o| is_same(o, c));
        Difference {
            added: self.candidates.iter().filter(|c| missing_in(old, c)).cloned().collect(),
            removed: old.candidates.iter().filter(|c| missing_in(self, c)).cloned().collect(),
        }
    }
}

fn is_same(a: &Candidate, b: &Candidate) -> bool {
    a.kind() == b.kind() && a.addr() == b.addr() && a.local() == b.local()
}

/// Candidates as they are signalled: SDP attributes, best first.
pub(crate) fn to_sdp(mut candidates: Vec<Candidate>) -> Vec<String> {
    candidates.sort_by_key(|c| std::cmp::Reverse(c.prio()));
    candidates.iter().map(Candidate::to_sdp_string).collect()
}
