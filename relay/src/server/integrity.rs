//! MESSAGE-INTEGRITY and FINGERPRINT (RFC 8489 §14.5 to §14.7).

use hmac::{Hmac, Mac};
use md5::{Digest, Md5};
use sha1::Sha1;
use sha2::Sha256;
use subtle::ConstantTimeEq;

/// What messages of one user are signed with: MD5 over `username:realm:password` (RFC 8489 §9.2.2; for other
/// algorithms a server would have to offer PASSWORD-ALGORITHMS).
#[derive(Clone, Copy)]
pub(crate) struct Key([u8; 16]);

impl Key {
    pub(crate) fn new(username: &str, realm: &str, password: &str) -> Self {
        let mut digest = Md5::new();
        for part in [username, ":", realm, ":", password] {
            digest.update(part);
        }
        Self(digest.finalize().into())
    }

    /// Signs `parts`: a message up to its integrity attribute, with the length that it has with the attribute.
    pub(crate) fn sign(&self, algorithm: Algorithm, parts: [&[u8]; 3]) -> [u8; 32] {
        let mut signature = [0; 32];
        match algorithm {
            Algorithm::Sha1 => signature[..20].copy_from_slice(&mac::<Hmac<Sha1>>(&self.0, parts)),
            Algorithm::Sha256 => signature.copy_from_slice(&mac::<Hmac<Sha256>>(&self.0, parts)),
        }
        signature
    }

    /// Whether `signature` is that of `parts`. One of SHA-256 may be cut short (RFC 8489 §14.6).
    pub(crate) fn verifies(
        &self,
        algorithm: Algorithm,
        parts: [&[u8]; 3],
        signature: &[u8],
    ) -> bool {
        self.sign(algorithm, parts)[..signature.len().min(32)].ct_eq(signature).into()
    }
}

fn mac<M: Mac + hmac::digest::KeyInit>(key: &[u8], parts: [&[u8]; 3]) -> hmac::digest::Output<M> {
    let mut mac = <M as Mac>::new_from_slice(key).expect("HMAC takes keys of any length");
    for part in parts {
        mac.update(part);
    }
    mac.finalize().into_bytes()
}

/// Which of the two integrity attributes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Algorithm {
    Sha1,
    Sha256,
}

impl Algorithm {
    /// The length of its signature in bytes.
    pub(crate) fn len(self) -> usize {
        match self {
            Self::Sha1 => 20,
            Self::Sha256 => 32,
        }
    }
}

/// The value of FINGERPRINT for a message up to it, with the length that it has with it.
pub(crate) fn fingerprint(message: &[u8]) -> [u8; 4] {
    (crc32fast::hash(message) ^ 0x5354_554e).to_be_bytes()
}
