//! What occurs in the messages of several peers.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;

use crate::{ClientId, RelayId, ResourceId, Secret, Tolerant};

/// A point in time of the wall clock: seconds since 1970, UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct UnixTime(pub u64);

impl UnixTime {
    /// How long from `now` until this point; zero if it has passed.
    pub fn remaining(self, now: SystemTime) -> Duration {
        let now = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        Duration::from_secs(self.0).saturating_sub(now)
    }
}

/// User name and password of one side's ICE agent.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct IceCredentials {
    /// The user fragment.
    pub username: String,
    /// The password.
    pub password: Secret,
}

/// Which side nominates a path (RFC 8445 §6.1.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum IceRole {
    /// It nominates.
    Controlling,
    /// It follows.
    Controlled,
}

/// A server for STUN or TURN. A relay with two address families is two entries with the same ID.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Relay {
    /// Answers STUN Binding alone.
    Stun {
        /// Its ID.
        id: RelayId,
        /// Where it listens.
        addr: SocketAddr,
    },
    /// A TURN server and what to say there.
    Turn(TurnServer),
}

impl Relay {
    /// Its ID.
    pub fn id(&self) -> RelayId {
        match self {
            Self::Stun { id, .. } => *id,
            Self::Turn(server) => server.id,
        }
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        match self {
            Self::Stun { addr, .. } => *addr,
            Self::Turn(server) => server.addr,
        }
    }
}

/// A TURN server and the credentials for it: [`crate::credentials::TurnCredentials`].
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct TurnServer {
    /// Its ID.
    pub id: RelayId,
    /// Where it listens.
    pub addr: SocketAddr,
    /// `<expiry>:<salt>`.
    pub username: String,
    /// The password of this user name.
    pub password: Secret,
    /// When the credentials end.
    pub expires_at: UnixTime,
}

/// Relays came and went.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RelaysPresence {
    /// Those to let go.
    #[serde(default)]
    pub disconnected_ids: Tolerant<RelayId>,
    /// Those to use from now on.
    #[serde(default)]
    pub connected: Tolerant<Relay>,
}

/// A client may reach a resource.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Authorization {
    /// Who.
    pub client_id: ClientId,
    /// What.
    pub resource_id: ResourceId,
    /// Until when; `None`: for good.
    pub expires_at: Option<UnixTime>,
}

/// A client may no longer reach a resource.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct RejectAccess {
    /// Who.
    pub client_id: ClientId,
    /// What.
    pub resource_id: ResourceId,
}

/// What a peer can do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Capabilities {
    /// Path probes in place of ICE.
    #[serde(default)]
    pub iceless: bool,
}

/// Where flow logs go. Existing peers refuse an `init` without it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct FlowLogs {
    /// The base of the API's URL.
    pub api_url: String,
    /// Seconds between two uploads; 0: off.
    pub upload_interval_secs: u64,
    /// The most records of one upload.
    pub upload_batch_size: u64,
}

/// Off, with a URL that parses: existing peers insist on one.
impl Default for FlowLogs {
    fn default() -> Self {
        let api_url = "http://127.0.0.1:1".to_owned();
        Self { api_url, upload_interval_secs: 0, upload_batch_size: 0 }
    }
}

/// What traffic to a resource is let through. A resource without filters lets everything through.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(tag = "protocol", rename_all = "snake_case")]
pub enum Filter {
    /// TCP to these ports.
    Tcp(PortRange),
    /// UDP to these ports.
    Udp(PortRange),
    /// ICMP and ICMPv6.
    Icmp,
    /// A filter of a kind that we do not know, or a malformed one. Matches nothing: leaving it out instead could
    /// leave the list empty, which lets everything through.
    Unknown,
}

/// Ports, both ends included. INVARIANT: `start` is not above `end`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
pub struct PortRange {
    #[serde(rename = "port_range_start")]
    start: u16,
    #[serde(rename = "port_range_end")]
    end: u16,
}

impl PortRange {
    /// All ports.
    pub const ALL: Self = Self { start: 0, end: u16::MAX };

    /// From `start` to `end`, both included; `None` if that is upside down.
    pub fn new(start: u16, end: u16) -> Option<Self> {
        (start <= end).then_some(Self { start, end })
    }

    /// The lowest port.
    pub fn start(&self) -> u16 {
        self.start
    }

    /// The highest port.
    pub fn end(&self) -> u16 {
        self.end
    }

    /// Whether it holds this port.
    pub fn contains(&self, port: u16) -> bool {
        (self.start..=self.end).contains(&port)
    }
}

impl<'de> Deserialize<'de> for Filter {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        struct Wire {
            protocol: String,
            port_range_start: Option<u16>,
            port_range_end: Option<u16>,
        }
        let value = Value::deserialize(deserializer)?;
        Ok(Wire::deserialize(value).map_or(Self::Unknown, |wire| {
            let ports = PortRange::new(
                wire.port_range_start.unwrap_or(PortRange::ALL.start),
                wire.port_range_end.unwrap_or(PortRange::ALL.end),
            );
            match (wire.protocol.as_str(), ports) {
                ("tcp", Some(ports)) => Self::Tcp(ports),
                ("udp", Some(ports)) => Self::Udp(ports),
                ("icmp", _) => Self::Icmp,
                _ => Self::Unknown,
            }
        }))
    }
}

/// Why the portal refused something.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs)] // The names are the portal's and say it all.
pub enum Reason {
    NotFound,
    Offline,
    VersionMismatch,
    Forbidden,
    Disabled,
    AmbiguousAddress,
    MissingAddress,
    InvalidAddress,
    /// Any other one, or none.
    #[default]
    Unknown,
}

impl<'de> Deserialize<'de> for Reason {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(match Value::deserialize(deserializer)?.as_str() {
            Some("not_found") => Self::NotFound,
            Some("offline") => Self::Offline,
            Some("version_mismatch") => Self::VersionMismatch,
            Some("forbidden") => Self::Forbidden,
            Some("disabled") => Self::Disabled,
            Some("ambiguous_address") => Self::AmbiguousAddress,
            Some("missing_address") => Self::MissingAddress,
            Some("invalid_address") => Self::InvalidAddress,
            _ => Self::Unknown,
        })
    }
}

/// The ICE candidates of a client, for the gateway or the other client.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClientIceCandidates {
    /// Whose they are; from a client to the portal: whom they are for.
    pub client_id: ClientId,
    /// As SDP attribute values.
    pub candidates: Tolerant<String>,
}

/// The two addresses of a peer inside the tunnel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct TunnelAddresses {
    /// The IPv4 address.
    pub ipv4: Ipv4Addr,
    /// The IPv6 address.
    pub ipv6: Ipv6Addr,
}
