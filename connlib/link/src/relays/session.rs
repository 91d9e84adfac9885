//! How we prove to a relay who we are (RFC 8489 §9.2).

use std::fmt;

use crate::stun::message::{Attribute, Builder, Key, Message};

/// User name and password for a relay.
#[derive(Clone, PartialEq, Eq)]
pub struct RelayCredentials {
    /// The user name.
    pub username: String,
    /// The password.
    pub password: String,
}

impl fmt::Debug for RelayCredentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RelayCredentials").field("username", &self.username).finish_non_exhaustive()
    }
}

/// Credentials with what the relay says about how to use them.
#[derive(Clone)]
pub(super) struct Session {
    credentials: RelayCredentials,
    challenge: Option<Challenge>,
}

#[derive(Clone)]
struct Challenge {
    realm: String,
    nonce: String,
    key: Key,
}

impl Session {
    /// Credentials that have not been used yet. The first request goes without them, as the relay has to say realm and
    /// nonce first.
    pub(super) fn new(credentials: RelayCredentials) -> Self {
        Self { credentials, challenge: None }
    }

    /// Other credentials for the same relay.
    pub(super) fn with(&self, credentials: RelayCredentials) -> Self {
        let challenge = self.challenge.as_ref().map(|Challenge { realm, nonce, .. }| {
            let key = Key::new(&credentials.username, realm, &credentials.password);
            Challenge { realm: realm.clone(), nonce: nonce.clone(), key }
        });
        Self { credentials, challenge }
    }

    pub(super) fn credentials(&self) -> &RelayCredentials {
        &self.credentials
    }

    pub(super) fn sign(&self, request: Builder) -> Vec<u8> {
        let Some(Challenge { realm, nonce, key }) = &self.challenge else {
            return request.finish();
        };
        request
            .attribute(Attribute::Username, self.credentials.username.as_bytes())
            .attribute(Attribute::Realm, realm.as_bytes())
            .attribute(Attribute::Nonce, nonce.as_bytes())
            .integrity(key)
            .finish()
    }

    /// Takes over what an error response says about how to prove who we are. False: nothing new.
    pub(super) fn adopt(&mut self, error: &Message<'_>) -> bool {
        let (known_realm, known_nonce) = match &self.challenge {
            Some(challenge) => (Some(challenge.realm.as_str()), Some(challenge.nonce.as_str())),
            None => (None, None),
        };
        let Some(realm) = error.text(Attribute::Realm).or(known_realm) else { return false };
        let Some(nonce) = error.text(Attribute::Nonce) else { return false };
        if known_realm == Some(realm) && known_nonce == Some(nonce) {
            return false;
        }
        let key = Key::new(&self.credentials.username, realm, &self.credentials.password);
        self.challenge = Some(Challenge { realm: realm.to_owned(), nonce: nonce.to_owned(), key });
        true
    }

    /// Whether a success response is the relay's.
    pub(super) fn is_authentic(&self, response: &Message<'_>) -> bool {
        self.challenge.as_ref().is_some_and(|c| response.is_authentic(&c.key) == Some(true))
    }
}
