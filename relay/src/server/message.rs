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
        if header[0] > 0x3f
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

#[cfg(test)]
mod tests {
    use super::*;
    use data_encoding::HEXLOWER;

    /// Passwords of the recording's users; the salt tells them apart.
    const PASSWORDS: [&str; 2] = [
        "2Phn0wzTPdglcqcRgJUkds1XsIzYlT9e+x/xRQ/MPsw",
        "/w76akdw64EhLrSIkmJl8fwnDIaaXCA4GTkq9GoItfQ",
    ];

    fn recorded() -> impl Iterator<Item = Vec<u8>> {
        include_str!("../../tests/server/relay.jsonl").lines().map(|line| {
            let line: serde_json::Value = serde_json::from_str(line).unwrap();
            HEXLOWER.decode(line["payload"].as_str().unwrap().as_bytes()).unwrap()
        })
    }

    #[test]
    fn recorded_messages_are_understood() {
        let (mut signed, mut with_fingerprint) = (0, 0);
        for datagram in recorded() {
            let message = match datagram[0] {
                0x40 => &datagram[4..4 + usize::from(datagram[3])],
                _ => &datagram,
            };
            // The rest is WireGuard's.
            if message.get(4..8) != Some(&MAGIC_COOKIE) {
                continue;
            }
            let message = Message::parse(message).unwrap();
            with_fingerprint += usize::from(message.has_fingerprint);
            let Some(user) =
                message.first(attribute::REALM).and(message.first(attribute::USERNAME))
            else {
                continue;
            };
            let user = str::from_utf8(user).unwrap();
            let is_signed =
                |password: &&str| message.is_signed_with(&Key::new(user, "firezone", password));
            assert_eq!(PASSWORDS.into_iter().filter(is_signed).count(), 1);
            assert_eq!(message.integrity(), Some(Algorithm::Sha1));
            signed += 1;
        }
        assert!(signed >= 8 && with_fingerprint > 40, "{signed} {with_fingerprint}");
    }

    #[test]
    fn any_other_byte_breaks_integrity_or_form() {
        let is_allocate = |datagram: &Vec<u8>| datagram[..2] == [0, 3] && datagram.len() > 150;
        let datagram = recorded().find(is_allocate).unwrap();
        let is_fine = |datagram: &[u8]| {
            Message::parse(datagram).is_some_and(|message| {
                PASSWORDS.iter().any(|password| {
                    let user = message.first(attribute::USERNAME).unwrap_or_default();
                    let user = str::from_utf8(user).unwrap_or_default();
                    message.is_signed_with(&Key::new(user, "firezone", password))
                })
            })
        };
        assert!(is_fine(&datagram));
        for at in 0..datagram.len() {
            let mut other = datagram.clone();
            other[at] ^= 0x20;
            assert!(!is_fine(&other), "byte {at}");
        }
        for len in 0..datagram.len() {
            assert!(Message::parse(&datagram[..len]).is_none());
        }
        assert!(Message::parse(&[datagram, vec![0; 4]].concat()).is_none());
    }

    #[test]
    fn what_follows_integrity_is_ignored() {
        let datagram = recorded().find(|datagram| datagram[..2] == [0, 3]).unwrap();
        let mut longer = datagram;
        longer.extend([0, 6, 0, 1, b'x', 0, 0, 0, 0x7f, 0xff, 0, 0]);
        let len = longer.len() as u16 - 20;
        longer[2..4].copy_from_slice(&len.to_be_bytes());
        let message = Message::parse(&longer).unwrap();
        assert_ne!(message.first(attribute::USERNAME), Some(b"x".as_slice()));
        assert_eq!(message.unknown().count(), 0);
        let user = str::from_utf8(message.first(attribute::USERNAME).unwrap()).unwrap();
        let keys = PASSWORDS.map(|password| Key::new(user, "firezone", password));
        assert!(keys.iter().any(|key| message.is_signed_with(key)));
    }

    #[test]
    fn class_and_method_are_taken_apart() {
        for (kind, class, method) in [
            (0x0001, Class::Request, 1),
            (0x0011, Class::Indication, 1),
            (0x0101, Class::Response, 1),
            (0x0111, Class::Response, 1),
            (0x0016, Class::Indication, 6),
            (0x3eef, Class::Request, 0xfff),
            (0x3fff, Class::Response, 0xfff),
        ] {
            let mut bytes = [0; HEADER];
            bytes[..2].copy_from_slice(&u16::to_be_bytes(kind));
            bytes[4..8].copy_from_slice(&MAGIC_COOKIE);
            let message = Message::parse(&bytes).unwrap();
            assert_eq!((message.class, message.method), (class, method));
        }
    }
}
