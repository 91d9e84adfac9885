//! Responses as they go out.

use std::net::SocketAddr;
use std::time::Duration;

use connlib_stun::{Algorithm, Attribute, Builder, Class, Key, Message, Transaction};

use super::counters::Method;

/// Unknown attributes that a response lists at most.
const MAX_UNKNOWN: usize = 16;

/// A response that is being written.
pub(crate) struct Response {
    message: Builder,
    pub(crate) code: Option<u16>,
}

impl Response {
    pub(crate) fn success(to: &Header) -> Self {
        let message = Builder::new(to.method.into(), Class::Success, to.transaction);
        Self { message, code: None }
    }

    /// An error. Its reason is empty: the code says it all, and a response has to be short.
    pub(crate) fn error(to: &Header, code: u16) -> Self {
        let message = Builder::new(to.method.into(), Class::Error, to.transaction);
        Self { message: message.error_code(code), code: Some(code) }
    }

    /// RFC 8489 §6.3.1.
    pub(crate) fn unknown_attributes(request: &Message<'_>, to: &Header) -> Self {
        let unknown = request.unknown().take(MAX_UNKNOWN);
        let unknown: Vec<_> = unknown.flat_map(|kind| kind.0.to_be_bytes()).collect();
        Self::error(to, 420).attribute(Attribute::UNKNOWN_ATTRIBUTES, &unknown)
    }

    pub(crate) fn len(&self) -> usize {
        self.message.as_bytes().len()
    }

    pub(crate) fn attribute(self, attribute: Attribute, value: &[u8]) -> Self {
        Self { message: self.message.attribute(attribute, value), ..self }
    }

    pub(crate) fn xor_address(self, attribute: Attribute, address: SocketAddr) -> Self {
        Self { message: self.message.xor_address(attribute, address), ..self }
    }

    pub(crate) fn lifetime(self, lifetime: Duration) -> Self {
        Self {
            message: self.message.number(Attribute::LIFETIME, lifetime.as_secs() as u32),
            ..self
        }
    }

    /// What credentials have to be made with.
    pub(crate) fn challenge(self, realm: &str, nonce: &[u8]) -> Self {
        self.attribute(Attribute::REALM, realm.as_bytes()).attribute(Attribute::NONCE, nonce)
    }

    /// The message, signed and with a FINGERPRINT where wanted.
    pub(crate) fn finish(self, signature: Option<&Signature>, has_fingerprint: bool) -> Vec<u8> {
        let mut message = self.message;
        if let Some(Signature { key, algorithm }) = signature {
            message = message.sign(key, *algorithm);
        }
        if has_fingerprint {
            message = message.fingerprint();
        }
        message.finish()
    }
}

/// What a response takes over from its request.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Header {
    pub(crate) method: Method,
    pub(crate) transaction: Transaction,
    /// Whether the request has a FINGERPRINT, so that the response gets one.
    pub(crate) has_fingerprint: bool,
    /// The length of the request in bytes.
    pub(crate) len: usize,
}

impl Header {
    pub(crate) fn of(request: &Message<'_>, method: Method) -> Self {
        Self {
            method,
            transaction: request.transaction(),
            has_fingerprint: request.has_fingerprint(),
            len: request.as_bytes().len(),
        }
    }
}

/// What a response is signed with.
#[derive(Clone, Copy)]
pub(crate) struct Signature {
    pub(crate) key: Key,
    pub(crate) algorithm: Algorithm,
}

impl Signature {
    /// The length of the attribute in bytes.
    pub(crate) fn len(&self) -> usize {
        4 + self.algorithm.signature_len()
    }
}
