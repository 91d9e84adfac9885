//! Keys, MESSAGE-INTEGRITY and FINGERPRINT.

use hmac::{Hmac, Mac};
use md5::{Digest, Md5};
use sha1::Sha1;
use sha2::Sha256;
use subtle::ConstantTimeEq;

use crate::attribute::Attribute;

/// What messages of one user are signed with: MD5 over `username:realm:password` (RFC 8489 §9.2.2; for other
/// algorithms a server would have to offer PASSWORD-ALGORITHMS). The texts are taken as they are: whoever lets people
/// choose them prepares them first (RFC 8265).
#[derive(Clone, Copy)]
pub struct Key([u8; 16]);

impl Key {
    /// Derives it.
    pub fn new(username: &str, realm: &str, password: &str) -> Self {
        let mut digest = Md5::new();
        for part in [username, ":", realm, ":", password] {
            digest.update(part);
        }
        Self(digest.finalize().into())
    }

    /// Signs `parts`: a message up to its integrity attribute, with the length that it has with the attribute. Only
    /// the first [`Algorithm::signature_len`] bytes count.
    pub(crate) fn sign(&self, algorithm: Algorithm, parts: [&[u8]; 2]) -> [u8; 32] {
        algorithm.sign(&self.0, parts)
    }

    /// Whether `signature` is that of `parts`. It may be cut short (RFC 8489 §14.6).
    pub(crate) fn verifies(
        &self,
        algorithm: Algorithm,
        parts: [&[u8]; 2],
        signature: &[u8],
    ) -> bool {
        self.sign(algorithm, parts)[..signature.len().min(32)].ct_eq(signature).into()
    }
}

/// Which of the two integrity attributes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Algorithm {
    /// HMAC-SHA1 in MESSAGE-INTEGRITY (RFC 8489 §14.5).
    Sha1,
    /// HMAC-SHA256 in MESSAGE-INTEGRITY-SHA256 (RFC 8489 §14.6).
    Sha256,
}

impl Algorithm {
    /// The length of a whole signature in bytes.
    pub const fn signature_len(self) -> usize {
        match self {
            Self::Sha1 => 20,
            Self::Sha256 => 32,
        }
    }

    pub(crate) const fn attribute(self) -> Attribute {
        match self {
            Self::Sha1 => Attribute::MESSAGE_INTEGRITY,
            Self::Sha256 => Attribute::MESSAGE_INTEGRITY_SHA256,
        }
    }

    pub(crate) fn sign(self, key: &[u8], parts: [&[u8]; 2]) -> [u8; 32] {
        let mut signature = [0; 32];
        match self {
            Self::Sha1 => signature[..20].copy_from_slice(&mac::<Hmac<Sha1>>(key, parts)),
            Self::Sha256 => signature.copy_from_slice(&mac::<Hmac<Sha256>>(key, parts)),
        }
        signature
    }
}

fn mac<M: Mac + hmac::digest::KeyInit>(key: &[u8], parts: [&[u8]; 2]) -> hmac::digest::Output<M> {
    let mut mac = <M as Mac>::new_from_slice(key).expect("HMAC takes keys of any length");
    for part in parts {
        mac.update(part);
    }
    mac.finalize().into_bytes()
}

/// The value of FINGERPRINT for a message up to it, with the length that it has with it (RFC 8489 §14.7).
pub(crate) fn fingerprint(message: &[u8]) -> [u8; 4] {
    (crc32fast::hash(message) ^ 0x5354_554e).to_be_bytes()
}
