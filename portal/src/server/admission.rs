//! Who may connect: from a request to a connection of the hub, or to a refusal.

use std::net::IpAddr;
use std::time::Duration;

use connlib_portal_api::login::{Params, Problem};
use connlib_portal_api::messages::Role as _;
use connlib_portal_api::messages::client::ClientRole;
use connlib_portal_api::messages::gateway::GatewayRole;
use connlib_portal_api::messages::relay::RelayRole;
use connlib_portal_api::{ClientId, PublicKey, Secret};
use uuid::Uuid;

use super::http::{Head, Refusal};
use super::portal::State;
use crate::hub::{
    AlreadyConnected, ClientPeer, ConnectionId, Credential, GatewayPeer, Now, Peer, RelayPeer,
};
use crate::policy;
use crate::store::{Owner, SignIn, StoreError, Token, TokenState};

/// Connections at the same time.
const MAX_CONNECTIONS: usize = 4096;
/// Characters of what a device says of itself.
const MAX_NAME: usize = 255;
const DEFAULT_RELAY_PORT: u16 = 3478;

/// Where peers connect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Endpoint {
    Client,
    Gateway,
    Relay,
}

impl Endpoint {
    /// The endpoint of a path. The unversioned paths of older peers speak the same here.
    pub(super) fn of(path: &str) -> Option<Self> {
        match path {
            ClientRole::PATH | "/client/websocket" => Some(Self::Client),
            GatewayRole::PATH | "/gateway/websocket" => Some(Self::Gateway),
            RelayRole::PATH => Some(Self::Relay),
            _ => None,
        }
    }
}

/// Lets a peer in, or says why not.
pub(super) fn admit(
    state: &mut State,
    endpoint: Endpoint,
    head: &Head,
    source: IpAddr,
    now: Now,
) -> Result<ConnectionId, Refusal> {
    let Some(text) = &head.token else {
        let detail = "the header X-Authorization with a bearer token is missing";
        return Err(Refusal::new(401, Problem::MISSING_TOKEN, detail));
    };
    if !state.limiter.allows(source, text, now.instant) {
        let detail = "too many connections of this source";
        return Err(Refusal::new(503, "rate_limit", detail).retry_after(Duration::from_secs(1)));
    }
    if state.hub.connections() >= MAX_CONNECTIONS {
        let detail = "too many connections";
        return Err(Refusal::new(503, "rate_limit", detail).retry_after(Duration::from_secs(5)));
    }
    let token = authenticate(state, &Secret::token(text), now)?;
    let params = Params::from_query(&head.query)
        .map_err(|invalid| Refusal::new(400, "invalid_connect_params", &invalid.to_string()))?;
    let peer = match (endpoint, &token.owner) {
        (Endpoint::Client, Owner::Client(name)) => client(state, name, &params, now)?,
        (Endpoint::Gateway, Owner::Gateway(name)) => gateway(state, name, &params, now)?,
        (Endpoint::Relay, Owner::Relay) => relay(&params)?,
        (_, owner) => {
            return Err(invalid_token(&format!("the token is for a {}", owner.kind())));
        }
    };
    if let Err(error) = state.store.use_token(&token.id, now.unix) {
        return Err(internal(&error));
    }
    let credential = Credential { token: token.id.clone(), expires_at: token.expires_at };
    let connection = state.hub.connect(peer, credential, now).map_err(|AlreadyConnected| {
        let detail = "this gateway is connected already";
        let delay = Duration::from_secs(2);
        Refusal::new(409, "gateway_already_connected", detail).retry_after(delay)
    })?;
    tracing::info!(%connection, token = %token.id, kind = token.owner.kind(), "connected");
    Ok(connection)
}

fn authenticate(state: &State, text: &Secret, now: Now) -> Result<Token, Refusal> {
    let token = state.store.find_token(text.expose()).map_err(|error| internal(&error))?;
    let token = token.ok_or_else(|| invalid_token("the token is unknown"))?;
    match token.state(now.unix) {
        TokenState::Active => Ok(token),
        TokenState::Expired => Err(invalid_token("the token has expired")),
        TokenState::Revoked => Err(invalid_token("the token was revoked")),
    }
}

fn client(state: &mut State, name: &str, params: &Params, now: Now) -> Result<Peer, Refusal> {
    let (external_id, key) = identity(params)?;
    let policy = state.hub.policy();
    let client = policy.client_by_name(name).ok_or_else(|| stranger("client"))?;
    let owner = client.id;
    let sign_in = SignIn {
        id: policy::device_id(owner, external_id),
        owner,
        external_id,
        name: &device_name(params),
        max_devices: client.max_devices,
        online: &state.hub.online_devices(owner),
    };
    let signed_in = sign_in_device(state, &sign_in, now)?;
    Ok(Peer::Client(ClientPeer {
        id: ClientId(signed_in.id),
        owner,
        key,
        addresses: signed_in.addresses,
        psk_base: signed_in.psk_base,
    }))
}

fn gateway(state: &mut State, name: &str, params: &Params, now: Now) -> Result<Peer, Refusal> {
    let (external_id, key) = identity(params)?;
    let id = state.hub.policy().gateway_by_name(name).ok_or_else(|| stranger("gateway"))?.id;
    let sign_in = SignIn {
        id: id.0,
        owner: id.0,
        external_id,
        name: &device_name(params),
        max_devices: 1,
        online: &[],
    };
    let signed_in = sign_in_device(state, &sign_in, now)?;
    let (addresses, psk_base) = (signed_in.addresses, signed_in.psk_base);
    Ok(Peer::Gateway(GatewayPeer { id, key, addresses, psk_base }))
}

fn relay(params: &Params) -> Result<Peer, Refusal> {
    let (ipv4, ipv6) = (params.ipv4, params.ipv6);
    if ipv4.is_none() && ipv6.is_none() {
        return Err(Refusal::new(400, "missing_ip", "a relay needs the parameter ipv4 or ipv6"));
    }
    Ok(Peer::Relay(RelayPeer { ipv4, ipv6, port: params.port.unwrap_or(DEFAULT_RELAY_PORT) }))
}

fn sign_in_device(
    state: &mut State,
    sign_in: &SignIn<'_>,
    now: Now,
) -> Result<crate::store::Device, Refusal> {
    match state.store.sign_in(sign_in, now.unix) {
        Ok(signed_in) => {
            let evicted: &[Uuid] = &signed_in.evicted;
            state.hub.forget_devices(evicted, now);
            Ok(signed_in.device)
        }
        Err(error @ StoreError::TooManyDevices) => {
            Err(Refusal::new(402, "limits_exceeded", &error.to_string()))
        }
        Err(error) => Err(internal(&error)),
    }
}

fn identity(params: &Params) -> Result<(&str, PublicKey), Refusal> {
    let invalid = |detail| Refusal::new(400, "invalid_connect_params", detail);
    let external_id = params
        .external_id
        .as_deref()
        .filter(|id| !id.is_empty() && id.chars().count() <= MAX_NAME && !id.contains('\0'))
        .ok_or_else(|| invalid("the parameter external_id is missing or too long"))?;
    let key = params.public_key.ok_or_else(|| invalid("the parameter public_key is missing"))?;
    Ok((external_id, key))
}

fn device_name(params: &Params) -> String {
    params.name.as_deref().unwrap_or_default().chars().take(MAX_NAME).collect()
}

fn invalid_token(detail: &str) -> Refusal {
    Refusal::new(401, Problem::INVALID_TOKEN, detail)
}

fn stranger(kind: &str) -> Refusal {
    invalid_token(&format!("the policy has no {kind} of the token's name"))
}

fn internal(error: &StoreError) -> Refusal {
    tracing::error!(%error, "a peer cannot be let in");
    Refusal::new(500, "unhandled_connect_error", "the portal has a problem; see its log")
}
