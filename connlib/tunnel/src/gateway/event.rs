//! What a gateway's tunnel tells and asks the host.

use connlib_dns::Name;
use connlib_link::{Event, Failure, Path};

use super::resolutions::ResolutionId;
use crate::ids::ClientId;

/// Something happened, or something is wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GatewayEvent {
    /// Signal these candidates of ours to the client.
    NewCandidates {
        /// The client.
        client: ClientId,
        /// SDP candidate attributes, best first.
        candidates: Vec<String>,
    },
    /// None of the relays works: ask the portal for others. Comes again, ever more rarely.
    NoRelays,
    /// Tell the client that these candidates of ours are gone.
    InvalidatedCandidates {
        /// The client.
        client: ClientId,
        /// SDP candidate attributes.
        candidates: Vec<String>,
    },
    /// Look up the A and AAAA records of a name and say what came out of it by
    /// [`handle_resolved`](super::GatewayTunnel::handle_resolved), within 10 seconds.
    ResolveName {
        /// Names this request.
        id: ResolutionId,
        /// The name.
        name: Name,
    },
    /// Packets can travel between a client and us.
    ClientConnected {
        /// The client.
        client: ClientId,
        /// The path they take.
        path: Path,
    },
    /// A connected client is reached by another path.
    PathChanged {
        /// The client.
        client: ClientId,
        /// The path from now on.
        path: Path,
    },
    /// There is no link to a client any more.
    ClientGone {
        /// The client.
        client: ClientId,
        /// Why.
        reason: Gone,
    },
}

/// Why there is no link to a client any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Gone {
    /// It said so.
    #[error("the client said goodbye")]
    Goodbye,
    /// Its last authorization has ended.
    #[error("the client's last authorization has ended")]
    Unauthorized,
    /// Its address in the tunnel now belongs to another client.
    #[error("the client's address belongs to another one now")]
    AddressReassigned,
    /// It had no link, and its place was needed for another client.
    #[error("the client had no link and its place was needed")]
    Displaced,
    /// No packets get through. What it may reach, and its sessions, are kept for when it comes back.
    #[error(transparent)]
    LinkFailed(#[from] Failure),
}

impl GatewayEvent {
    /// What a link says. `None`: it is nothing to a gateway, which has clients come back by themselves.
    pub(super) fn of_link(event: Event) -> Option<Self> {
        Some(match event {
            Event::NewCandidates { peer, candidates } => {
                Self::NewCandidates { client: peer.into(), candidates }
            }
            Event::InvalidatedCandidates { peer, candidates } => {
                Self::InvalidatedCandidates { client: peer.into(), candidates }
            }
            Event::Connected { peer, path } => Self::ClientConnected { client: peer.into(), path },
            Event::PathChanged { peer, path } => Self::PathChanged { client: peer.into(), path },
            Event::Silent { .. } => return None,
            Event::NoRelays => Self::NoRelays,
            Event::Failed { peer, failure } => {
                Self::ClientGone { client: peer.into(), reason: Gone::LinkFailed(failure) }
            }
        })
    }
}
