//! How we prove to a relay who we are (RFC 8489 §9.2).

use std::fmt;

use connlib_stun::{Algorithm, Attribute, Builder, Key, Message};

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
            .attribute(Attribute::USERNAME, self.credentials.username.as_bytes())
            .attribute(Attribute::REALM, realm.as_bytes())
            .attribute(Attribute::NONCE, nonce.as_bytes())
            .sign(key, Algorithm::Sha1)
            .finish()
    }

    /// Takes over what an error response says about how to prove who we are. False: nothing new.
    pub(super) fn adopt(&mut self, error: &Message<'_>) -> bool {
        let (known_realm, known_nonce) = match &self.challenge {
            Some(challenge) => (Some(challenge.realm.as_str()), Some(challenge.nonce.as_str())),
            None => (None, None),
        };
        let Some(realm) = error.text(Attribute::REALM).or(known_realm) else { return false };
        let Some(nonce) = error.text(Attribute::NONCE) else { return false };
        if known_realm == Some(realm) && known_nonce == Some(nonce) {
            return false;
        }
        let key = Key::new(&self.credentials.username, realm, &self.credentials.password);
        self.challenge = Some(Challenge { realm: realm.to_owned(), nonce: nonce.to_owned(), key });
        true
    }

    /// Whether a success response is the relay's.
    pub(super) fn is_authentic(&self, response: &Message<'_>) -> bool {
        self.challenge.as_ref().is_some_and(|challenge| response.is_signed_with(&challenge.key))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // From a session with the relay of the existing system, whose secrets are of that lab.
    const CHALLENGE: &str = "0113007c2112a4421429596de371262919af949d80220018666972657a6f6e652d72656c61793b20726576\
        3d787878780009001000000401556e617574686f72697a656400140008666972657a6f6e6500150024646663363532\
        33622d316535342d653135332d666465642d636537363731303435623834000800144ca116e713fb38145b7b7d70ae\
        fe5aea0da7e7ab";
    const ALLOCATED: &str = "010300542112a442e273d1f8ba4975bfabba177380220018666972657a6f6e652d72656c61793b20726576\
        3d787878780016000\
        80001f40b2b5ca440002000080001ec832b5fa446000d00040000025800080014231d044ca3b0b2b38bf706864eda37\
        0d76b98b53";

    fn bytes(hex: &str) -> Vec<u8> {
        let digits = |at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap();
        (0..hex.len()).step_by(2).map(digits).collect()
    }

    #[test]
    fn what_existing_relays_answer_is_understood_and_authentic() {
        let mut session = Session::new(RelayCredentials {
            username: "1795316531:1e0hUvvHzRz70gAk/t2F9gMRUjwksyPWSqyeaPghPyY".into(),
            password: "/w76akdw64EhLrSIkmJl8fwnDIaaXCA4GTkq9GoItfQ".into(),
        });
        let (challenge, allocated) = (bytes(CHALLENGE), bytes(ALLOCATED));
        let challenge = Message::parse(&challenge).unwrap();
        let allocated = Message::parse(&allocated).unwrap();
        assert!(!session.is_authentic(&allocated), "without a realm there is no key");
        assert_eq!(challenge.error_code(), Some(401));
        assert!(session.adopt(&challenge));
        assert!(!session.adopt(&challenge), "nothing new");
        assert!(session.is_authentic(&allocated));
        let relayed: Vec<_> = allocated.xor_addresses(Attribute::XOR_RELAYED_ADDRESS).collect();
        assert_eq!(relayed, ["10.78.0.2:54553".parse().ok()]);
        assert_eq!(allocated.number(Attribute::LIFETIME), Some(600));

        let credentials = RelayCredentials { username: "other".into(), password: "other".into() };
        assert!(!session.with(credentials).is_authentic(&allocated));
    }
}
