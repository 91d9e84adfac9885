//! STUN messages as they go out.

use std::net::SocketAddr;
use std::time::Duration;

use super::attribute::{self, MAGIC_COOKIE, Transaction};
use super::counters::Method;
use super::integrity::{Algorithm, Key, fingerprint};
use super::message::{HEADER, Message};

/// Unknown attributes that a response lists at most.
const MAX_UNKNOWN: usize = 16;

/// A response that is being written.
pub(crate) struct Response {
    bytes: Vec<u8>,
    transaction: Transaction,
    pub(crate) code: Option<u16>,
}

impl Response {
    pub(crate) fn success(to: &Header) -> Self {
        Self::new(to, None)
    }

    /// An error. Its reason is empty: the code says it all, and a response has to be short.
    pub(crate) fn error(to: &Header, code: u16) -> Self {
        let mut response = Self::new(to, Some(code));
        response.attribute(attribute::ERROR_CODE, &[0, 0, (code / 100) as u8, (code % 100) as u8]);
        response
    }

    /// RFC 8489 §6.3.1.
    pub(crate) fn unknown_attributes(request: &Message<'_>, to: &Header) -> Self {
        let mut response = Self::error(to, 420);
        let unknown = request.unknown().take(MAX_UNKNOWN).flat_map(u16::to_be_bytes);
        response.attribute(attribute::UNKNOWN_ATTRIBUTES, &unknown.collect::<Vec<_>>());
        response
    }

    fn new(to: &Header, code: Option<u16>) -> Self {
        let class = if code.is_some() { 0x0110 } else { 0x0100 };
        let mut bytes = Vec::with_capacity(192);
        bytes.extend((to.method as u16 | class).to_be_bytes());
        bytes.extend([0, 0]);
        bytes.extend(MAGIC_COOKIE);
        bytes.extend(to.transaction);
        Self { bytes, transaction: to.transaction, code }
    }

    pub(crate) fn len(&self) -> usize {
        self.bytes.len()
    }

    pub(crate) fn attribute(&mut self, kind: u16, value: &[u8]) {
        self.bytes.extend(kind.to_be_bytes());
        self.bytes.extend((value.len() as u16).to_be_bytes());
        self.bytes.extend(value);
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
        self.set_len(0);
    }

    pub(crate) fn xor_address(&mut self, kind: u16, address: SocketAddr) {
        let (bytes, len) = attribute::xor_address(kind, address, &self.transaction);
        self.bytes.extend(&bytes[..len]);
        self.set_len(0);
    }

    pub(crate) fn lifetime(&mut self, lifetime: Duration) {
        self.attribute(attribute::LIFETIME, &(lifetime.as_secs() as u32).to_be_bytes());
    }

    /// What credentials have to be made with.
    pub(crate) fn challenge(&mut self, realm: &str, nonce: &[u8]) {
        self.attribute(attribute::REALM, realm.as_bytes());
        self.attribute(attribute::NONCE, nonce);
    }

    pub(crate) fn sign(&mut self, signature: &Signature) {
        let Signature { key, algorithm } = signature;
        self.set_len(4 + algorithm.len());
        let signature = key.sign(*algorithm, [&self.bytes, &[], &[]]);
        let kind = match algorithm {
            Algorithm::Sha1 => attribute::MESSAGE_INTEGRITY,
            Algorithm::Sha256 => attribute::MESSAGE_INTEGRITY_SHA256,
        };
        self.attribute(kind, &signature[..algorithm.len()]);
    }

    pub(crate) fn fingerprint(&mut self) {
        self.set_len(8);
        self.attribute(attribute::FINGERPRINT, &fingerprint(&self.bytes));
    }

    pub(crate) fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }

    /// Writes the length that the message has with so many bytes more.
    fn set_len(&mut self, more: usize) {
        let len = (self.bytes.len() - HEADER + more) as u16;
        self.bytes[2..4].copy_from_slice(&len.to_be_bytes());
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
            transaction: *request.transaction,
            has_fingerprint: request.has_fingerprint,
            len: request.len(),
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
        4 + self.algorithm.len()
    }
}
