//! Who sent a request (RFC 8489 §9.2, long-term credentials).

use std::collections::HashMap;
use std::time::Instant;

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};
use connlib_stun::{Attribute, Key, Message};
use hmac::{Hmac, Mac};
use sha1::Sha1;
use sha2::{Digest, Sha256};

use super::config::{Config, Credentials, MAX_USERNAME, PerUser, User};
use super::key::{Hashing, hashing};
use super::nonce::Nonces;
use super::output::{FiveTuple, Now};
use super::response::Signature;

/// Checks credentials.
pub(crate) struct Authenticator {
    realm: String,
    stamp_secrets: Vec<String>,
    rest_secrets: Vec<String>,
    users: HashMap<String, Key, Hashing>,
    per_stamped_user: PerUser,
    nonces: Nonces,
}

/// The sender of a request: it knows the password and receives at the address it sends from.
pub(crate) struct Identity<'a> {
    pub(crate) username: &'a str,
    /// Whom the limits per user count it as.
    pub(crate) owner: &'a str,
    pub(crate) signature: Signature,
    pub(crate) per_user: PerUser,
}

/// Why a request isn't served.
pub(crate) struct Rejection {
    pub(crate) code: u16,
    /// Whether a nonce comes with it.
    pub(crate) is_challenge: bool,
    /// For somebody who knows the password: a client can tell it from a forged one. RFC 8489 §9.2.4 leaves it out, the
    /// clients of the portal want it. Nobody else gets one: it would let anybody guess a password, or the secret that it is
    /// made of, at leisure.
    pub(crate) signature: Option<Signature>,
}

/// The key of a username, and until when it is good.
struct Credential {
    key: Key,
    expires_at: Option<u64>,
    per_user: PerUser,
}

impl Authenticator {
    pub(crate) fn new(config: &Config, nonce_key: [u8; 32], hash_seed: u64, now: Instant) -> Self {
        let Credentials { stamp_secrets, rest_secrets, users, per_stamped_user } =
            &config.credentials;
        let key =
            |user: &User| (user.name.clone(), Key::new(&user.name, &config.realm, &user.password));
        let mut keys = HashMap::with_hasher(hashing(hash_seed));
        keys.extend(users.iter().map(key));
        Self {
            realm: config.realm.clone(),
            stamp_secrets: stamp_secrets.clone(),
            rest_secrets: rest_secrets.clone(),
            users: keys,
            per_stamped_user: *per_stamped_user,
            nonces: Nonces::new(nonce_key, now),
        }
    }

    pub(crate) fn realm(&self) -> &str {
        &self.realm
    }

    pub(crate) fn nonce(&self, client: &FiveTuple, now: Instant) -> [u8; super::nonce::LEN] {
        self.nonces.issue(client, now)
    }

    /// RFC 8489 §9.2.4, but for a request that is signed without a nonce: it is challenged (401) instead of refused
    /// (400), as the clients of the portal know the realm beforehand and sign at once.
    pub(crate) fn authenticate<'a>(
        &self,
        request: &Message<'a>,
        client: &FiveTuple,
        now: Now,
    ) -> Result<Identity<'a>, Rejection> {
        let Some(algorithm) = request.integrity() else {
            return Err(Rejection { code: 401, is_challenge: true, signature: None });
        };
        let username = request.first(Attribute::USERNAME);
        let username = username.map(|name| str::from_utf8(name).unwrap_or_default());
        let (Some(username), Some(_)) = (username, request.first(Attribute::REALM)) else {
            return Err(Rejection { code: 400, is_challenge: false, signature: None });
        };
        let unauthorized = || Rejection { code: 401, is_challenge: true, signature: None };
        let credential =
            self.credentials(username).find(|credential| request.is_signed_with(&credential.key));
        let Credential { key, expires_at, per_user } = credential.ok_or_else(unauthorized)?;
        let signature = Signature { key, algorithm };
        let challenge = |code| Rejection { code, is_challenge: true, signature: Some(signature) };
        if expires_at.is_some_and(|expires_at| expires_at < now.unix_seconds) {
            return Err(challenge(401));
        }
        let nonce = request.first(Attribute::NONCE).ok_or_else(|| challenge(401))?;
        if !self.nonces.is_valid(nonce, client, now.instant) {
            return Err(challenge(438));
        }
        // Where each name is one process's, the portal makes a new salt with each stamp.
        let is_renewed = expires_at.is_some() && per_user == PerUser::Limited;
        let owner = if is_renewed { without_stamp(username) } else { username };
        Ok(Identity { username, owner, signature, per_user })
    }

    fn credentials(&self, username: &str) -> impl Iterator<Item = Credential> {
        let user = self.users.get(username);
        let known =
            user.map(|key| Credential { key: *key, expires_at: None, per_user: PerUser::Limited });
        known.into_iter().chain(self.stamped(username))
    }

    /// What a username `expiry:salt` can be, once for each secret.
    fn stamped(&self, username: &str) -> impl Iterator<Item = Credential> {
        let stamp = username.split_once(':').filter(|_| username.len() <= MAX_USERNAME);
        let stamp = stamp.and_then(|(expiry, salt)| Some((expiry, salt, expiry.parse().ok()?)));
        stamp.into_iter().flat_map(move |(expiry, salt, expires_at)| {
            let credential = move |password: &str, per_user| {
                let key = Key::new(username, &self.realm, password);
                Credential { key, expires_at: Some(expires_at), per_user }
            };
            let stamped = self.stamp_secrets.iter().map(move |secret| {
                let digest = Sha256::digest(format!("{expiry}:{secret}:{salt}"));
                credential(&STANDARD_NO_PAD.encode(digest), self.per_stamped_user)
            });
            let rest = self.rest_secrets.iter().filter_map(move |secret| {
                let mut mac = Hmac::<Sha1>::new_from_slice(secret.as_bytes()).ok()?;
                mac.update(username.as_bytes());
                let password = STANDARD.encode(mac.finalize().into_bytes());
                Some(credential(&password, PerUser::Limited))
            });
            stamped.chain(rest)
        })
    }
}

/// What stays of `expiry:name` when a service renews it. With the colon, which no user's name in a file begins with.
fn without_stamp(username: &str) -> &str {
    let name = username.find(':').map(|colon| &username[colon..]);
    // Without a name, nobody knows who is who.
    name.filter(|name| *name != ":").unwrap_or(username)
}
