//! What is said before the channel opens: the URL's query, the user agent, and the portal's refusal.

mod user_agent;

use std::net::{Ipv4Addr, Ipv6Addr};

use serde::{Deserialize, Serialize};

use crate::PublicKey;

pub use user_agent::{InvalidUserAgent, UserAgent};

/// The header that carries `Bearer <token>`. Not `Authorization`: some load balancers claim that one.
pub const TOKEN_HEADER: &str = "X-Authorization";

/// Who connects: the query of the URL. What is absent is left out.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Params {
    /// The device: [`crate::credentials::external_id`].
    pub external_id: Option<String>,
    /// Its name, for people.
    pub name: Option<String>,
    /// Relay: its public IPv4 address.
    pub ipv4: Option<Ipv4Addr>,
    /// Relay: its public IPv6 address.
    pub ipv6: Option<Ipv6Addr>,
    /// Relay: its port (3478 if absent).
    pub port: Option<u16>,
    /// Client: what the operating system tells about the device.
    pub device: DeviceInfo,
    /// Client and gateway: the WireGuard key of this process.
    pub public_key: Option<PublicKey>,
}

/// What the operating system tells about a device.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[allow(missing_docs)] // The names are the operating systems'.
pub struct DeviceInfo {
    pub device_serial: Option<String>,
    pub device_uuid: Option<String>,
    pub identifier_for_vendor: Option<String>,
    pub firebase_installation_id: Option<String>,
}

/// A parameter of the query does not parse.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the parameter `{name}` is invalid")]
pub struct InvalidParam {
    /// Its name.
    pub name: &'static str,
}

impl Params {
    /// The query, without its question mark.
    pub fn to_query(&self) -> String {
        let device = &self.device;
        let all = [
            ("external_id", self.external_id.clone()),
            ("name", self.name.clone()),
            ("ipv4", self.ipv4.map(|ip| ip.to_string())),
            ("ipv6", self.ipv6.map(|ip| ip.to_string())),
            ("port", self.port.map(|port| port.to_string())),
            ("device_serial", device.device_serial.clone()),
            ("device_uuid", device.device_uuid.clone()),
            ("identifier_for_vendor", device.identifier_for_vendor.clone()),
            ("firebase_installation_id", device.firebase_installation_id.clone()),
            ("public_key", self.public_key.map(|key| key.to_base64())),
        ];
        let mut query = form_urlencoded::Serializer::new(String::new());
        for (name, value) in all {
            if let Some(value) = value {
                query.append_pair(name, &value);
            }
        }
        query.finish()
    }

    /// Reads a query, without its question mark. Unknown parameters are ignored; the last of several counts.
    ///
    /// # Errors
    /// If an address, the port or the key does not parse.
    pub fn from_query(query: &str) -> Result<Self, InvalidParam> {
        fn parse<T: std::str::FromStr>(
            name: &'static str,
            value: &str,
        ) -> Result<Option<T>, InvalidParam> {
            value.parse().map(Some).map_err(|_| InvalidParam { name })
        }
        let mut params = Self::default();
        let device = &mut params.device;
        for (name, value) in form_urlencoded::parse(query.as_bytes()) {
            match &*name {
                "external_id" => params.external_id = Some(value.into_owned()),
                "name" => params.name = Some(value.into_owned()),
                "ipv4" => params.ipv4 = parse("ipv4", &value)?,
                "ipv6" => params.ipv6 = parse("ipv6", &value)?,
                "port" => params.port = parse("port", &value)?,
                "device_serial" => device.device_serial = Some(value.into_owned()),
                "device_uuid" => device.device_uuid = Some(value.into_owned()),
                "identifier_for_vendor" => device.identifier_for_vendor = Some(value.into_owned()),
                "firebase_installation_id" => {
                    device.firebase_installation_id = Some(value.into_owned());
                }
                "public_key" => params.public_key = parse("public_key", &value)?,
                _ => {}
            }
        }
        Ok(params)
    }
}

/// The body of a refusal (RFC 9457), of the media type `application/problem+json`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Problem {
    /// Always `about:blank`.
    #[serde(rename = "type")]
    pub kind: String,
    /// The status in words.
    pub title: String,
    /// The status of the response.
    pub status: u16,
    /// What is wrong, for people.
    pub detail: String,
    /// What is wrong, for programs: `invalid_token`, `account_disabled`, …
    pub code: String,
}

impl Problem {
    /// The token is unknown, expired or revoked: sign in again.
    pub const INVALID_TOKEN: &'static str = "invalid_token";
    /// There is no token: sign in.
    pub const MISSING_TOKEN: &'static str = "missing_token";

    /// A refusal.
    pub fn new(status: u16, title: &str, code: &str, detail: &str) -> Self {
        let [title, detail, code] = [title, detail, code].map(str::to_owned);
        Self { kind: "about:blank".to_owned(), title, status, detail, code }
    }

    /// Whether only a new token can help.
    pub fn requires_sign_in(&self) -> bool {
        [Self::INVALID_TOKEN, Self::MISSING_TOKEN].contains(&self.code.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_is_written_in_order_and_read_again() {
        let params = Params {
            external_id: Some("6f".to_owned()),
            name: Some("Anna's laptop & co/ü".to_owned()),
            ipv4: Some(Ipv4Addr::new(10, 78, 0, 2)),
            ipv6: Some(Ipv6Addr::LOCALHOST),
            port: Some(3478),
            device: DeviceInfo {
                device_serial: Some("C02".to_owned()),
                device_uuid: Some("u".to_owned()),
                identifier_for_vendor: Some("i".to_owned()),
                firebase_installation_id: Some("f".to_owned()),
            },
            public_key: Some(PublicKey([0xfb; 32])),
        };
        let query = params.to_query();
        let names: Vec<_> =
            query.split('&').map(|pair| pair.split('=').next().unwrap_or_default()).collect();
        assert_eq!(
            names.join(" "),
            "external_id name ipv4 ipv6 port device_serial device_uuid identifier_for_vendor \
             firebase_installation_id public_key"
        );
        assert!(query.contains("Anna%27s+laptop+%26+co%2F%C3%BC"), "{query}");
        assert_eq!(Params::from_query(&query), Ok(params));
    }

    #[test]
    fn a_bad_parameter_is_named() {
        for (query, name) in [
            ("port=x", "port"),
            ("ipv4=::1", "ipv4"),
            ("ipv6=1", "ipv6"),
            ("public_key=a", "public_key"),
        ] {
            assert_eq!(Params::from_query(query), Err(InvalidParam { name }));
        }
        assert_eq!(
            Params::from_query("&&unknown=1&name"),
            Ok(Params { name: Some(String::new()), ..Params::default() })
        );
    }

    #[test]
    fn a_refusal_may_lack_anything() {
        let problem: Problem = serde_json::from_str(r#"{"code":"missing_token","x":1}"#).unwrap();
        assert!(problem.requires_sign_in());
        assert!(!Problem::new(401, "Unauthorized", "other", "").requires_sign_in());
    }
}
