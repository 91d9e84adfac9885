//! Tokens for flow logs. We collect none, but existing peers refuse an authorization without one and
//! read ids and times from it.

use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use connlib_portal_api::credentials::GATEWAY_TURN_EXPIRY;
use connlib_portal_api::{ClientId, GatewayId, ResourceId, Secret};
use hmac::{Hmac, Mac};
use serde_json::json;
use sha2::Sha256;
use uuid::Uuid;

/// Signs tokens; the key lasts as long as the process, since nobody verifies them.
#[derive(Clone)]
pub(super) struct IngestSigner(Hmac<Sha256>);

impl std::fmt::Debug for IngestSigner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("IngestSigner(..)")
    }
}

/// Which end of a link a token is for.
#[derive(Debug, Clone, Copy)]
pub(super) enum Role {
    /// The client.
    Initiator,
    /// The gateway.
    Responder,
}

/// What a token says. Times in unix seconds.
#[derive(Debug)]
pub(super) struct Claims<'a> {
    pub(super) account: Uuid,
    pub(super) client: ClientId,
    pub(super) gateway: GatewayId,
    pub(super) authorization: Uuid,
    pub(super) policy: Uuid,
    pub(super) resource: ResourceId,
    pub(super) resource_name: &'a str,
    pub(super) actor: Uuid,
    pub(super) actor_name: &'a str,
    pub(super) authorized_at: u64,
    pub(super) expires_at: Option<u64>,
}

impl IngestSigner {
    pub(super) fn new(key: [u8; 32]) -> Self {
        // INVARIANT: HMAC takes keys of every length.
        Self(Hmac::new_from_slice(&key).expect("a key of 32 bytes"))
    }

    /// A JSON Web Token (RFC 7519) with HS256 that says "upload nothing".
    pub(super) fn token(&self, role: Role, claims: &Claims<'_>) -> Secret {
        let expires_at = claims.expires_at.unwrap_or(GATEWAY_TURN_EXPIRY.0);
        let payload = json!({
            "account_id": claims.account,
            "iat": claims.authorized_at,
            "exp": expires_at.saturating_add(30 * 24 * 3600),
            "uploads_enabled": false,
            "role": match role {
                Role::Initiator => "initiator",
                Role::Responder => "responder",
            },
            "initiator_device_id": claims.client,
            "responder_device_id": claims.gateway,
            "policy_authorization_id": claims.authorization,
            "policy_id": claims.policy,
            "resource_id": claims.resource,
            "resource_name": claims.resource_name,
            "initiator_actor_id": claims.actor,
            "initiator_actor_name": claims.actor_name,
            "authorized_at": rfc3339(claims.authorized_at),
            "authorization_expires_at": rfc3339(expires_at),
        });
        let mut token = URL_SAFE_NO_PAD.encode(r#"{"alg":"HS256","typ":"JWT"}"#);
        token.push('.');
        token.push_str(&URL_SAFE_NO_PAD.encode(payload.to_string()));
        let signature = self.0.clone().chain_update(&token).finalize().into_bytes();
        token.push('.');
        token.push_str(&URL_SAFE_NO_PAD.encode(signature));
        Secret::new(token)
    }
}

fn rfc3339(unix: u64) -> String {
    // Beyond year 9999 there is no such text.
    let unix = unix.min(253_402_300_799);
    let time = SystemTime::UNIX_EPOCH + Duration::from_secs(unix);
    humantime::format_rfc3339_micros(time).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn existing_peers_find_every_claim_that_they_require() {
        let claims = Claims {
            account: Uuid::from_u128(1),
            client: ClientId::from_u128(2),
            gateway: GatewayId::from_u128(3),
            authorization: Uuid::from_u128(4),
            policy: Uuid::from_u128(5),
            resource: ResourceId::from_u128(6),
            resource_name: "net",
            actor: Uuid::from_u128(7),
            actor_name: "alice",
            authorized_at: 1_767_225_600,
            expires_at: None,
        };
        let token = IngestSigner::new([1; 32]).token(Role::Initiator, &claims);
        let parts: Vec<_> = token.expose().split('.').collect();
        let [header, payload, signature] = parts[..] else { panic!("three parts") };
        let json = |part| -> serde_json::Value {
            serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part).unwrap()).unwrap()
        };
        assert_eq!(json(header)["alg"], "HS256");
        assert_eq!(URL_SAFE_NO_PAD.decode(signature).unwrap().len(), 32);
        let payload = json(payload);
        assert_eq!(payload["uploads_enabled"], false);
        assert_eq!(payload["role"], "initiator");
        assert_eq!(payload["authorized_at"], "2026-01-01T00:00:00.000000Z");
        assert!(payload["iat"].is_u64() && payload["exp"].is_u64());
        for claim in "account_id initiator_device_id responder_device_id policy_authorization_id \
                      policy_id resource_id resource_name initiator_actor_id \
                      initiator_actor_name authorization_expires_at"
            .split_whitespace()
        {
            assert!(payload[claim].is_string(), "{claim}");
        }
    }
}
