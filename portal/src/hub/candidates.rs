//! ICE candidates, passed on between a client and a gateway that have an authorization in common.

use connlib_portal_api::messages::common::ClientIceCandidates;
use connlib_portal_api::messages::{client, gateway};
use connlib_portal_api::{ClientId, GatewayId, Tolerant};

use super::authorizations::Authorizations;
use super::world::World;

/// Candidates of one message that are passed on; a peer has a handful.
const MAX_CANDIDATES: usize = 64;
/// Bytes of one candidate.
const MAX_CANDIDATE_LENGTH: usize = 512;
/// Clients to which one message of a gateway goes.
const MAX_RECIPIENTS: usize = 1024;

/// From a client, wrapped as new or withdrawn ones.
pub(super) fn to_gateway(
    world: &mut World,
    authorizations: &Authorizations,
    client_id: ClientId,
    message: client::GatewayIceCandidates,
    wrap: impl FnOnce(ClientIceCandidates) -> gateway::FromPortal,
) {
    let gateway = message.gateway_id;
    let Some((connection, _)) = world.peers.gateway(gateway) else { return };
    if authorizations.linked(client_id, gateway) {
        let candidates = bounded(message.candidates);
        world.outbox.gateway(connection, &wrap(ClientIceCandidates { client_id, candidates }));
    }
}

/// From a gateway, wrapped as new or withdrawn ones.
pub(super) fn to_clients(
    world: &mut World,
    authorizations: &Authorizations,
    gateway_id: GatewayId,
    message: gateway::BroadcastIceCandidates,
    wrap: impl FnOnce(client::GatewayIceCandidates) -> client::FromPortal,
) {
    let candidates = bounded(message.candidates);
    let wrapped = wrap(client::GatewayIceCandidates { gateway_id, candidates });
    for client in message.client_ids.into_iter().take(MAX_RECIPIENTS) {
        let Some((connection, _)) = world.peers.client(client) else { continue };
        if authorizations.linked(client, gateway_id) {
            world.outbox.client(connection, &wrapped);
        }
    }
}

fn bounded(candidates: Tolerant<String>) -> Tolerant<String> {
    candidates
        .into_iter()
        .filter(|candidate| candidate.len() <= MAX_CANDIDATE_LENGTH)
        .take(MAX_CANDIDATES)
        .collect()
}
