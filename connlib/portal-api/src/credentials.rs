//! How a portal derives the keys and passwords that it hands out: all of them follow from what it stores and from
//! the peers' keys, so that authorizing twice, or restarting the portal, changes nothing for an existing link.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD as BASE64;
use data_encoding::{BASE32_NOPAD, HEXLOWER};
use sha2::{Digest as _, Sha256};
use uuid::Uuid;

use crate::messages::common::{IceCredentials, UnixTime};
use crate::{ClientId, GatewayId, PresharedKey, PublicKey, RelayId, Secret};

/// A device as it names itself: a UUID is hashed, anything else stands as it is.
pub fn external_id(device_id: &str) -> String {
    match Uuid::try_parse(device_id) {
        Ok(_) => HEXLOWER.encode(&Sha256::digest(device_id)),
        Err(_) => device_id.to_owned(),
    }
}

/// One end of a link, as key derivation sees it.
#[derive(Debug, Clone, Copy)]
pub struct Peer<'a, Id> {
    /// Its ID.
    pub id: Id,
    /// Its WireGuard key of this process.
    pub public_key: PublicKey,
    /// Random bytes that the portal made once for this device and tells nobody.
    pub psk_base: &'a [u8],
}

/// The preshared key of a client and a gateway. Stable as long as both keep their keys.
pub fn preshared_key(client: &Peer<'_, ClientId>, gateway: &Peer<'_, GatewayId>) -> PresharedKey {
    let salt = format!(
        "WG_PSK|C_ID:{}|G_ID:{}|C_PK:{}|G_PK:{}",
        client.id, gateway.id, client.public_key, gateway.public_key
    );
    derive(client.psk_base, gateway.psk_base, &salt)
}

/// The preshared key of two clients: the initiator, then the one that it wants to reach.
pub fn client_preshared_key(a: &Peer<'_, ClientId>, b: &Peer<'_, ClientId>) -> PresharedKey {
    let salt = format!(
        "WG_PSK_CC|CA_ID:{}|CB_ID:{}|CA_PK:{}|CB_PK:{}",
        a.id, b.id, a.public_key, b.public_key
    );
    derive(a.psk_base, b.psk_base, &salt)
}

fn derive(initiator: &[u8], responder: &[u8], salt: &str) -> PresharedKey {
    let mut key = [0; 32];
    let password = [initiator, responder].concat();
    pbkdf2::pbkdf2_hmac::<Sha256>(&password, salt.as_bytes(), 1, &mut key);
    PresharedKey(key)
}

/// The ICE credentials of a link. They follow from public data: ICE only finds out who can be reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LinkIceCredentials {
    /// For the side that asked for the link: the client.
    pub initiator: IceCredentials,
    /// For the side that was asked: the gateway.
    pub responder: IceCredentials,
}

impl LinkIceCredentials {
    /// The credentials of the link between these two. Stable as long as both keep their keys.
    pub fn new<A: ToString, B: ToString>(
        (initiator, initiator_key): (A, PublicKey),
        (responder, responder_key): (B, PublicKey),
    ) -> Self {
        let (initiator, responder) = (initiator.to_string(), responder.to_string());
        let seed = format!("{initiator}:{initiator_key}:{responder}:{responder_key}");
        // 52 characters: twice a user fragment of 4 and a password of 22.
        let text = BASE32_NOPAD.encode(&Sha256::digest(seed)).to_ascii_lowercase();
        let (first, second) = text.split_at(26);
        let credentials = |text: &str| {
            let (username, password) = text.split_at(4);
            IceCredentials { username: username.to_owned(), password: Secret::new(password) }
        };
        Self { initiator: credentials(first), responder: credentials(second) }
    }
}

/// Time-limited credentials for a TURN server that shares a secret with the portal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TurnCredentials {
    /// `<expiry>:<salt>`.
    pub username: String,
    /// Follows from the user name and the server's secret.
    pub password: Secret,
    /// When they end.
    pub expires_at: UnixTime,
}

/// When the credentials of a gateway end: they never change while it runs (2038-01-01).
pub const GATEWAY_TURN_EXPIRY: UnixTime = UnixTime(2_145_916_800);

impl TurnCredentials {
    /// The credentials of the peer with this key.
    pub fn new(stamp_secret: &Secret, peer: PublicKey, expires_at: UnixTime) -> Self {
        let salt = BASE64.encode(Sha256::digest(peer.to_base64()));
        let username = format!("{}:{salt}", expires_at.0);
        Self { password: turn_password(stamp_secret, expires_at, &salt), username, expires_at }
    }
}

/// The password of the user name `<expiry>:<salt>`: what a relay computes to check one.
pub fn turn_password(stamp_secret: &Secret, expires_at: UnixTime, salt: &str) -> Secret {
    let seed = format!("{}:{}:{salt}", expires_at.0, stamp_secret.expose());
    Secret::new(BASE64.encode(Sha256::digest(seed)))
}

/// The ID of the relay that joined with this secret. A restarted relay is another one.
pub fn relay_id(stamp_secret: &Secret) -> RelayId {
    let hash: [u8; 32] = Sha256::digest(stamp_secret.expose()).into();
    let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p, ..] = hash;
    let bytes = [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p];
    RelayId(uuid::Builder::from_random_bytes(bytes).into_uuid())
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLIENT_KEY: &str = "ZElgMipxYbRTXSirwzaOLWju8XJeK9xjyZsjLvoZunA=";
    const GATEWAY_KEY: &str = "GSwR5IY2ZT+TD7bxZbAJAa1tiqFjd20JeFnwTGCLGAw=";
    const STAMP_SECRET: &str = "3e936fa3a500a3bfd471119b58e53c3ce4036bdabb686ab5d3d86072190f388c";

    fn client() -> Peer<'static, ClientId> {
        Peer {
            id: "38fa57f9-1f80-44f7-8f63-9a1eab9168a1".parse().unwrap(),
            public_key: CLIENT_KEY.parse().unwrap(),
            psk_base: b"client base",
        }
    }

    fn gateway() -> Peer<'static, GatewayId> {
        Peer {
            id: "dcd0f6b8-b959-4e0c-9cb9-804403c10373".parse().unwrap(),
            public_key: GATEWAY_KEY.parse().unwrap(),
            psk_base: b"gateway base",
        }
    }

    #[test]
    fn turn_passwords_are_those_of_the_specification_and_the_recording() {
        let cases = [
            (
                "1cab293a-4032-46f4-862a-40e5d174b0d2",
                1_685_984_278,
                "uvdgKvS9GXYZ_vmv",
                "6xUIoZ+QvxKhRasLifwfRkMXl+ETLJUsFkHlXjlHAkg",
            ),
            (
                STAMP_SECRET,
                1_795_316_530,
                "C/16dhNFNAKHaZw8AsKW/CEMKJS930iTwLKP2cYOUAw",
                "2Phn0wzTPdglcqcRgJUkds1XsIzYlT9e+x/xRQ/MPsw",
            ),
        ];
        for (secret, expiry, salt, password) in cases {
            let computed = turn_password(&Secret::new(secret), UnixTime(expiry), salt);
            assert_eq!(computed.expose(), password);
        }
    }

    #[test]
    fn turn_credentials_are_those_of_the_recording() {
        let key = CLIENT_KEY.parse().unwrap();
        let turn = TurnCredentials::new(&Secret::new(STAMP_SECRET), key, UnixTime(1_795_316_531));
        assert_eq!(turn.username, "1795316531:1e0hUvvHzRz70gAk/t2F9gMRUjwksyPWSqyeaPghPyY");
        assert_eq!(turn.password.expose(), "/w76akdw64EhLrSIkmJl8fwnDIaaXCA4GTkq9GoItfQ");
    }

    #[test]
    fn the_relay_id_is_that_of_the_recording() {
        let id = relay_id(&Secret::new(STAMP_SECRET));
        assert_eq!(id.to_string(), "f0044ae1-d86b-4afd-bb80-412e72b09b43");
    }

    /// Computed with Python's `hashlib.pbkdf2_hmac` from the formula of the specification.
    #[test]
    fn preshared_keys_follow_the_specification() {
        let key = preshared_key(&client(), &gateway());
        assert_eq!(key.to_base64(), "tJ1/DdPuFsS2IUEDoq4Pg3qcLvJtEAATnqg6Vm5rw0k=");
        let other = Peer { id: ClientId::from_u128(7), ..client() };
        assert_eq!(
            client_preshared_key(&client(), &other).to_base64(),
            "sIh8Esoz3u7n5xoDgxOG3kWqd9NIvt9apvNa2aqQtX0="
        );
        let rekeyed = Peer { public_key: PublicKey([1; 32]), ..gateway() };
        assert_ne!(preshared_key(&client(), &rekeyed), key);
    }

    /// Computed with Python's `hashlib` and `base64.b32encode` from the formula of the specification.
    #[test]
    fn ice_credentials_follow_the_specification() {
        let (client, gateway) = (client(), gateway());
        let link = LinkIceCredentials::new(
            (client.id, client.public_key),
            (gateway.id, gateway.public_key),
        );
        let pair = |c: &IceCredentials| format!("{} {}", c.username, c.password.expose());
        assert_eq!(pair(&link.initiator), "tsed c6qobpl2oumqxgzdj7o4yb");
        assert_eq!(pair(&link.responder), "652i pputlqlsi4tx5zo65vqg3a");
    }

    #[test]
    fn only_uuids_are_hashed() {
        let uuid = "38fa57f9-1f80-44f7-8f63-9a1eab9168a1";
        assert_eq!(
            external_id(uuid),
            "c91440805dfcf8f51be6ba773786ef38f61977231dd22caf0e9b104d8962fbd0"
        );
        assert_eq!(external_id("client-device-1"), "client-device-1");
    }
}
