//! Ids that follow from names, so that a policy file needs none and stays readable.

use sha2::{Digest, Sha256};
use uuid::Uuid;

/// What an id belongs to. Two things of different kinds may share a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// The account: one per policy file.
    Account,
    /// A place with gateways.
    Site,
    /// A gateway.
    Gateway,
    /// A client: somebody or something that signs in, with one device or several.
    Client,
    /// A device of a client.
    Device,
    /// A resource.
    Resource,
    /// A policy.
    Policy,
    /// A relay that the file names.
    Relay,
}

impl Kind {
    /// The word for this kind in a policy file and in messages.
    pub fn word(self) -> &'static str {
        match self {
            Self::Account => "account",
            Self::Site => "site",
            Self::Gateway => "gateway",
            Self::Client => "client",
            Self::Device => "device",
            Self::Resource => "resource",
            Self::Policy => "policy",
            Self::Relay => "relay",
        }
    }
}

/// Derives the id of the `kind` called `name`: a name-based UUIDv8 over SHA-256 (RFC 9562, B.2).
pub fn derive(kind: Kind, name: &str) -> Uuid {
    derive_parts(kind, &[name])
}

/// Derives the id of a device from its client's id and the id that it gave itself.
pub fn device(client: Uuid, external_id: &str) -> Uuid {
    derive_parts(Kind::Device, &[&client.to_string(), external_id])
}

fn derive_parts(kind: Kind, parts: &[&str]) -> Uuid {
    let mut hash = Sha256::new();
    hash.update(b"connlib-portal/ids/1");
    hash.update(kind.word());
    for part in parts {
        // A name holds no NUL, so no two lists of parts meet in one hash.
        hash.update([0]);
        hash.update(part);
    }
    let digest: [u8; 32] = hash.finalize().into();
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&digest[..16]);
    uuid::Builder::from_custom_bytes(bytes).into_uuid()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_stable_and_distinct() {
        let id = derive(Kind::Site, "hq");
        // A change here gives every deployment new ids.
        assert_eq!(id.to_string(), "bb71a64b-8c5e-8001-8c36-3d6b5c279df5");
        assert_eq!(id.get_version_num(), 8);
        assert_ne!(id, derive(Kind::Gateway, "hq"));
        assert_ne!(id, derive(Kind::Site, "hq2"));
        assert_ne!(device(id, "a"), device(id, "b"));
    }
}
