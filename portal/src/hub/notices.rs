//! What is said about one authorization: to the gateway that shall grant it, to the client that may use it.

use connlib_portal_api::credentials::{self, LinkIceCredentials};
use connlib_portal_api::messages::client::{
    self, AuthorizationCreated, AuthorizationCreationFailed,
};
use connlib_portal_api::messages::common::{Reason, RejectAccess, UnixTime};
use connlib_portal_api::messages::gateway::{self, CreateAuthorization};
use connlib_portal_api::{GatewayId, PresharedKey, Secret};

use super::access::{self, Grant};
use super::authorizations::Key;
use super::ingest::{Claims, Role};
use super::peers::{ClientPeer, GatewayPeer};
use super::world::World;
use crate::policy::Resource;
use crate::store::Authorization;

/// Asks a gateway to let a client in.
pub(super) fn create(
    world: &World,
    record: &Authorization,
    grant: Grant,
    client: &ClientPeer,
    gateway: &GatewayPeer,
    resource: &Resource,
    reference: String,
) -> CreateAuthorization {
    let link = Link::new(client, gateway);
    CreateAuthorization {
        reference,
        resource: access::for_gateway(resource),
        client: gateway::Client {
            id: client.id,
            public_key: client.key,
            preshared_key: link.preshared_key,
            ipv4: client.addresses.ipv4,
            ipv6: client.addresses.ipv6,
            version: None,
        },
        client_ice_credentials: link.ice.initiator,
        gateway_ice_credentials: link.ice.responder,
        expires_at: grant.expires_at.map(UnixTime),
        use_iceless: false,
        subject: None,
        flow_logs_ingest_token: ingest_token(world, Role::Responder, record, grant),
    }
}

/// Tells a client that a gateway awaits it. Unasked as well: existing clients ignore that.
pub(super) fn created(world: &mut World, record: &Authorization, grant: Grant) {
    let Some((connection, client)) = world.peers.client(record.client) else { return };
    let Some((_, gateway)) = world.peers.gateway(record.gateway) else { return };
    let Some(site) = world.policy.gateways.get(&record.gateway).map(|gateway| gateway.site) else {
        return;
    };
    if client.key != record.client_key {
        return;
    }
    let link = Link::new(client, gateway);
    let message = Box::new(AuthorizationCreated {
        resource_id: record.resource,
        gateway_id: gateway.id,
        gateway_public_key: gateway.key,
        gateway_ipv4: gateway.addresses.ipv4,
        gateway_ipv6: gateway.addresses.ipv6,
        site_id: site,
        preshared_key: link.preshared_key,
        client_ice_credentials: link.ice.initiator,
        gateway_ice_credentials: link.ice.responder,
        use_iceless: false,
        flow_logs_ingest_token: ingest_token(world, Role::Initiator, record, grant),
    });
    world.outbox.client(connection, &client::FromPortal::AuthorizationCreated(message));
}

/// Tells a client that it gets no authorization.
pub(super) fn fail(world: &mut World, (client, resource_id): Key, reason: Reason) {
    if let Some((connection, _)) = world.peers.client(client) {
        let failed = AuthorizationCreationFailed {
            resource_id,
            reason,
            violated_properties: Vec::new().into(),
        };
        world.outbox.client(connection, &client::FromPortal::AuthorizationCreationFailed(failed));
    }
}

/// Takes an authorization back.
pub(super) fn reject(world: &mut World, gateway: GatewayId, (client_id, resource_id): Key) {
    if let Some((connection, _)) = world.peers.gateway(gateway) {
        let reject = RejectAccess { client_id, resource_id };
        world.outbox.gateway(connection, &gateway::FromPortal::RejectAccess(reject));
    }
}

fn ingest_token(world: &World, role: Role, record: &Authorization, grant: Grant) -> Option<Secret> {
    let resource = world.policy.resources.get(&record.resource)?;
    let actor = world.policy.clients.get(&record.owner)?;
    let claims = Claims {
        account: world.policy.account_id,
        client: record.client,
        gateway: record.gateway,
        authorization: record.id,
        policy: grant.policy,
        resource: resource.id,
        resource_name: &resource.name,
        actor: actor.id,
        actor_name: &actor.name,
        authorized_at: record.created_at,
        expires_at: grant.expires_at,
    };
    Some(world.signer.token(role, &claims))
}

/// What a client and a gateway share. The same as long as both keep their keys.
struct Link {
    preshared_key: PresharedKey,
    ice: LinkIceCredentials,
}

impl Link {
    fn new(client: &ClientPeer, gateway: &GatewayPeer) -> Self {
        let initiator = credentials::Peer {
            id: client.id,
            public_key: client.key,
            psk_base: &client.psk_base.0,
        };
        let responder = credentials::Peer {
            id: gateway.id,
            public_key: gateway.key,
            psk_base: &gateway.psk_base.0,
        };
        Self {
            preshared_key: credentials::preshared_key(&initiator, &responder),
            ice: LinkIceCredentials::new((client.id, client.key), (gateway.id, gateway.key)),
        }
    }
}
