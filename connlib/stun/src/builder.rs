//! Messages as they go out.

use std::net::SocketAddr;

use crate::address::XorAddress;
use crate::attribute::{Attribute, MAX_VALUE};
use crate::header::{Class, Header, MAGIC_COOKIE, Method, Transaction};
use crate::integrity::{Algorithm, Key, fingerprint};

/// A message that is being written. Its attributes stand in the order in which they are added.
#[derive(Debug)]
pub struct Builder {
    bytes: Vec<u8>,
    transaction: Transaction,
}

impl Builder {
    /// A message without attributes.
    pub fn new(method: Method, class: Class, transaction: Transaction) -> Self {
        let mut bytes = Vec::with_capacity(192);
        bytes.extend(method.with(class).to_be_bytes());
        bytes.extend([0, 0]);
        bytes.extend(MAGIC_COOKIE);
        bytes.extend(transaction);
        Self { bytes, transaction }
    }

    /// Adds an attribute. Of a value that is longer than [`MAX_VALUE`], the rest is left out.
    pub fn attribute(mut self, attribute: Attribute, value: &[u8]) -> Self {
        let value = &value[..value.len().min(MAX_VALUE)];
        self.bytes.extend(attribute.0.to_be_bytes());
        self.bytes.extend((value.len() as u16).to_be_bytes());
        self.bytes.extend(value);
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
        self.set_len(0);
        self
    }

    /// Adds a number of four bytes.
    pub fn number(self, attribute: Attribute, number: u32) -> Self {
        self.attribute(attribute, &number.to_be_bytes())
    }

    /// Adds an address (RFC 8489 §14.2).
    pub fn xor_address(mut self, attribute: Attribute, address: SocketAddr) -> Self {
        let address = XorAddress::new(attribute, address, &self.transaction);
        self.bytes.extend(address.as_bytes());
        self.set_len(0);
        self
    }

    /// Adds ERROR-CODE with an empty reason (RFC 8489 §14.8).
    pub fn error_code(self, code: u16) -> Self {
        let [class, number] = [code / 100, code % 100].map(|part| part as u8);
        self.attribute(Attribute::ERROR_CODE, &[0, 0, class, number])
    }

    /// Adds the proof that whoever wrote the message has the key (RFC 8489 §14.5, §14.6). Only FINGERPRINT may follow.
    pub fn sign(mut self, key: &Key, algorithm: Algorithm) -> Self {
        let len = algorithm.signature_len();
        self.set_len(4 + len);
        let signature = key.sign(algorithm, [&self.bytes, &[]]);
        self.attribute(algorithm.attribute(), &signature[..len])
    }

    /// Adds FINGERPRINT (RFC 8489 §14.7). Nothing may follow.
    pub fn fingerprint(mut self) -> Self {
        self.set_len(8);
        let fingerprint = fingerprint(&self.bytes);
        self.attribute(Attribute::FINGERPRINT, &fingerprint)
    }

    /// The message as far as it is written.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The message.
    pub fn finish(self) -> Vec<u8> {
        self.bytes
    }

    /// Writes the length that the message has with so many bytes more.
    fn set_len(&mut self, more: usize) {
        let len = (self.bytes.len() - Header::LEN + more) as u16;
        self.bytes[2..4].copy_from_slice(&len.to_be_bytes());
    }
}
