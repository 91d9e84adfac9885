//! Keys and secrets of the portal's messages. `Debug` and the errors never show a secret.

use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Not 32 bytes in standard base64 with padding (44 characters).
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a key is 32 bytes in base64: 44 characters")]
pub struct InvalidKey;

macro_rules! key {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash)]
        pub struct $name(pub [u8; 32]);

        impl $name {
            /// The key as it stands on the wire: standard base64 with padding.
            pub fn to_base64(&self) -> String {
                BASE64.encode(self.0)
            }
        }

        impl FromStr for $name {
            type Err = InvalidKey;

            fn from_str(text: &str) -> Result<Self, InvalidKey> {
                let bytes = BASE64.decode(text).map_err(|_| InvalidKey)?;
                Ok(Self(bytes.try_into().map_err(|_| InvalidKey)?))
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(&self.to_base64())
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
            }
        }

        impl From<[u8; 32]> for $name {
            fn from(bytes: [u8; 32]) -> Self {
                Self(bytes)
            }
        }
    };
}

key! {
    /// A WireGuard (X25519) public key.
    PublicKey
}
key! {
    /// A WireGuard preshared key.
    PresharedKey
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.to_base64())
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Debug for PresharedKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PresharedKey(..)")
    }
}

/// A text that no log may show: a token, a password, the relay's stamp secret.
#[derive(Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Secret(String);

impl Secret {
    /// The text as it is.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// A token as a person pastes it or a file holds it: all white space is taken out.
    pub fn token(text: &str) -> Self {
        Self(text.split_whitespace().collect())
    }

    /// The text itself, for the one place that needs it.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_44_characters_of_base64() {
        let text = "ZElgMipxYbRTXSirwzaOLWju8XJeK9xjyZsjLvoZunA=";
        let key: PublicKey = text.parse().unwrap();
        assert_eq!(key.to_base64(), text);
        for bad in ["", "AAAA", &text[1..], "ZElgMipxYbRTXSirwzaOLWju8XJeK9xjyZsjLvoZun_="] {
            assert_eq!(bad.parse::<PublicKey>(), Err(InvalidKey), "{bad}");
        }
    }

    #[test]
    fn debug_shows_no_secret() {
        let psk = PresharedKey([0x41; 32]);
        let shown = format!("{psk:?} {:?}", Secret::new("hunter2"));
        assert_eq!(shown, "PresharedKey(..) Secret(..)");
        let error = serde_json::from_str::<PresharedKey>("\"hunter2\"").unwrap_err().to_string();
        assert!(!error.contains("hunter2"), "{error}");
    }

    #[test]
    fn a_token_loses_all_white_space() {
        assert_eq!(Secret::token(" .SFMy\nNTY.abc\r\n").expose(), ".SFMyNTY.abc");
    }
}
