//! STUN messages as they come in.
//!
//! `stun-types` reads the same, but it warns in the log about every malformed datagram, which strangers can send; it
//! builds keys behind mutexes, and none for SHA-256 as RFC 8489 §9.2 wants it without password algorithms. It checks
//! ours in tests.

use std::net::SocketAddr;

use super::attribute::{self, MAGIC_COOKIE, Transaction, is_unknown};
use super::integrity::{Algorithm, Key, fingerprint};

/// The length of STUN's header in bytes.
pub(crate) const HEADER: usize = 20;

/// A well-formed STUN message: its attributes are whole, and FINGERPRINT is right if there is one.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Message<'a> {
    bytes: &'a [u8],
    pub(crate) class: Class,
    pub(crate) method: u16,
    pub(crate) transaction: &'a Transaction,
    /// Where the attributes end that integrity covers, or all.
    end: usize,
    sha1: Option<&'a [u8]>,
    sha256: Option<(usize, &'a [u8])>,
    pub(crate) has_fingerprint: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Class {
    Request,
    Indication,
    Response,
}

/// An attribute: its type and its value.
type Attribute<'a> = (u16, &'a [u8]);

impl<'a> Message<'a> {
    pub(crate) fn parse(bytes: &'a [u8]) -> Option<Self> {
        let (header, attributes) = bytes.split_first_chunk::<HEADER>()?;
        let len = u16::from_be_bytes([header[2], header[3]]);
        if header[0] > 3
            || header[4..8] != MAGIC_COOKIE
            || usize::from(len) != attributes.len()
            || len % 4 != 0
        {
            return None;
        }
        let kind = u16::from_be_bytes([header[0], header[1]]);
        let mut message = Self {
            bytes,
            class: match kind & 0x0110 {
                0x0000 => Class::Request,
                0x0010 => Class::Indication,
                _ => Class::Response,
            },
            method: (kind & 0x000f) | (kind & 0x00e0) >> 1 | (kind & 0x3e00) >> 2, // RFC 8489 §5
            transaction: bytes[8..HEADER].try_into().ok()?,
            end: bytes.len(),
            sha1: None,
            sha256: None,
            has_fingerprint: false,
        };
        message.find_end()?;
        Some(message)
    }

    /// Walks over all attributes. What follows MESSAGE-INTEGRITY is ignored, but for MESSAGE-INTEGRITY-SHA256 and
    /// FINGERPRINT, which is the last one (RFC 8489 §14.5 to §14.7).
    fn find_end(&mut self) -> Option<()> {
        let mut at = HEADER;
        while at < self.bytes.len() {
            let (kind, value) = attribute_at(self.bytes, at)?;
            let is_signed = self.sha1.is_some() || self.sha256.is_some();
            match kind {
                attribute::MESSAGE_INTEGRITY if !is_signed => {
                    self.sha1 = Some(value).filter(|value| value.len() == Algorithm::Sha1.len());
                    self.sha1?;
                    self.end = at;
                }
                attribute::MESSAGE_INTEGRITY_SHA256 if self.sha256.is_none() => {
                    (16..=32).contains(&value.len()).then_some(())?;
                    self.sha256 = Some((at, value));
                    self.end = self.end.min(at);
                }
                attribute::FINGERPRINT => {
                    (at + 8 == self.bytes.len() && value == fingerprint(&self.bytes[..at]))
                        .then_some(())?;
                    self.has_fingerprint = true;
                    self.end = self.end.min(at);
                }
                _ => {}
            }
            at += 4 + value.len().next_multiple_of(4);
        }
        Some(())
    }

    pub(crate) fn len(&self) -> usize {
        self.bytes.len()
    }

    /// The attributes before the integrity.
    pub(crate) fn attributes(&self) -> impl Iterator<Item = Attribute<'a>> + use<'a> {
        let (bytes, mut at) = (&self.bytes[..self.end], HEADER);
        std::iter::from_fn(move || {
            let (kind, value) = attribute_at(bytes, at)?;
            at += 4 + value.len().next_multiple_of(4);
            Some((kind, value))
        })
    }

    /// The value of an attribute. Of several, the first counts (RFC 8489 §14).
    pub(crate) fn first(&self, kind: u16) -> Option<&'a [u8]> {
        self.attributes().find(|attribute| attribute.0 == kind).map(|attribute| attribute.1)
    }

    /// The peers that it names, `None` for one that can't be read.
    pub(crate) fn peers(&self) -> impl Iterator<Item = Option<SocketAddr>> + use<'a> {
        let transaction = self.transaction;
        let peers =
            self.attributes().filter(|attribute| attribute.0 == attribute::XOR_PEER_ADDRESS);
        peers.map(|(_, value)| attribute::read_xor_address(value, transaction))
    }

    /// Attributes that have to be understood, but aren't.
    pub(crate) fn unknown(&self) -> impl Iterator<Item = u16> + use<'a> {
        self.attributes().map(|attribute| attribute.0).filter(|kind| is_unknown(*kind))
    }

    /// What its signature is made with; the stronger if there are both (RFC 8489 §9.2.4).
    pub(crate) fn integrity(&self) -> Option<Algorithm> {
        match (self.sha1, self.sha256) {
            (_, Some(_)) => Some(Algorithm::Sha256),
            (Some(_), None) => Some(Algorithm::Sha1),
            (None, None) => None,
        }
    }

    /// Whether it is signed with this key.
    pub(crate) fn is_signed_with(&self, key: &Key) -> bool {
        let (algorithm, at, signature) = match (self.sha1, self.sha256) {
            (_, Some((at, signature))) => (Algorithm::Sha256, at, signature),
            (Some(signature), None) => (Algorithm::Sha1, self.end, signature),
            (None, None) => return false,
        };
        let len = (at - HEADER + 4 + signature.len()) as u16;
        key.verifies(
            algorithm,
            [&self.bytes[..2], &len.to_be_bytes(), &self.bytes[4..at]],
            signature,
        )
    }
}

fn attribute_at(bytes: &[u8], at: usize) -> Option<Attribute<'_>> {
    let (&[a, b, c, d], rest) = bytes.get(at..)?.split_first_chunk()?;
    let len = usize::from(u16::from_be_bytes([c, d]));
    // The padding has to be there as well.
    rest.get(..len.next_multiple_of(4))?;
    Some((u16::from_be_bytes([a, b]), &rest[..len]))
}
