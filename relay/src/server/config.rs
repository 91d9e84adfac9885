//! What a [`Server`](super::Server) is told at its start.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::RangeInclusive;

use ipnet::IpNet;

use super::limits::Limits;
use super::open_ports::OpenPorts;
use super::quota::Quota;

/// The longest USERNAME in bytes (RFC 8489 §14.3).
pub(crate) const MAX_USERNAME: usize = 508;
/// The longest REALM or SOFTWARE in bytes; 127 characters are allowed.
const MAX_TEXT: usize = 127;

/// Settings of a [`Server`](super::Server). [`Config::new`] fills in what hardly anybody changes.
#[derive(Debug, Clone)]
pub struct Config {
    /// The address that IPv4 allocations are announced with (XOR-RELAYED-ADDRESS). One of the two is needed.
    pub public_ip4: Option<Ipv4Addr>,
    /// The address that IPv6 allocations are announced with.
    pub public_ip6: Option<Ipv6Addr>,
    /// Further addresses of this machine: nothing is ever relayed to them. To the public ones, only ports that are
    /// allocations' can be reached.
    /// [`Server::handle_own_addresses`](super::Server::handle_own_addresses) renews them.
    pub own_addresses: Vec<IpAddr>,
    /// Networks of which nothing is a peer, beyond those that never are (see [`Server`](super::Server)).
    pub denied_peers: Vec<IpNet>,
    /// Networks of which anything is a peer, whatever else is said of it: for labs.
    pub allowed_peers: Vec<IpNet>,
    /// The ports that allocations are made of.
    pub allocation_ports: RangeInclusive<u16>,
    /// The realm of the credentials.
    pub realm: String,
    /// Who may allocate.
    pub credentials: Credentials,
    /// SOFTWARE of the responses, where there is room for it. Empty: no such attribute.
    pub software: String,
    /// What the relay gives at most.
    pub limits: Limits,
    /// What counts the allocations: workers that have clones of one share the limits of allocations.
    pub quota: Quota,
    /// Which ports are allocations': workers that have clones of one relay to each other's.
    pub open_ports: OpenPorts,
    /// Seed of everything random, the key of the nonces included: 32 bytes from the operating system, other ones for
    /// each worker.
    pub seed: [u8; 32],
}

impl Config {
    /// A relay for these credentials, without an address yet.
    pub fn new(credentials: Credentials, seed: [u8; 32]) -> Self {
        Self {
            public_ip4: None,
            public_ip6: None,
            own_addresses: Vec::new(),
            denied_peers: Vec::new(),
            allowed_peers: Vec::new(),
            allocation_ports: 49152..=65535,
            realm: "firezone".to_owned(),
            credentials,
            software: "connlib-relay".to_owned(),
            limits: Limits::default(),
            quota: Quota::default(),
            open_ports: OpenPorts::default(),
            seed,
        }
    }

    pub(crate) fn validate(&self) -> Result<(), ConfigError> {
        if self.public_ip4.is_none() && self.public_ip6.is_none() {
            return Err(ConfigError::NoAddress);
        }
        if self.allocation_ports.is_empty() || self.allocation_ports.contains(&0) {
            return Err(ConfigError::NoPorts);
        }
        if self.realm.len() > MAX_TEXT || self.software.len() > MAX_TEXT {
            return Err(ConfigError::TooLong);
        }
        let is_name = |name: &str| (1..=MAX_USERNAME).contains(&name.len());
        let Credentials { stamp_secrets, rest_secrets, users, .. } = &self.credentials;
        if stamp_secrets.iter().chain(rest_secrets).any(String::is_empty)
            || !users.iter().all(|user| is_name(&user.name))
        {
            return Err(ConfigError::Credentials);
        }
        Ok(())
    }
}

/// Who may allocate. Secrets don't appear in its `Debug`.
#[derive(Clone, Default)]
pub struct Credentials {
    /// Secrets behind usernames of the form `expiry:salt` (Unix seconds, any text), whose password is the unpadded
    /// base64 of SHA-256 over `expiry:secret:salt`. Each is tried: a secret can be replaced while the old one lasts.
    pub stamp_secrets: Vec<String>,
    /// Secrets behind usernames of the same form whose password is the padded base64 of HMAC-SHA1 over the username: what
    /// services for WebRTC hand out (draft-uberti-behave-turn-rest). Such a user may have several allocations.
    pub rest_secrets: Vec<String>,
    /// Users that are known by name.
    pub users: Vec<User>,
    /// How many allocations one stamped username has at a time.
    pub per_stamped_user: PerUser,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials")
            .field("stamp_secrets", &self.stamp_secrets.len())
            .field("rest_secrets", &self.rest_secrets.len())
            .field("users", &self.users.len())
            .field("per_stamped_user", &self.per_stamped_user)
            .finish()
    }
}

/// A user of a relay that works alone.
#[derive(Clone)]
pub struct User {
    /// Its USERNAME.
    pub name: String,
    /// Its password.
    pub password: String,
}

impl fmt::Debug for User {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("User").field("name", &self.name).finish_non_exhaustive()
    }
}

/// How many allocations a stamped username has at a time. Users known by name are held to
/// [`Limits::allocations_per_user`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum PerUser {
    /// One over UDP and one over streams, the newest: the portal gives every process its own username, and an older
    /// allocation is what a NAT's new mapping left behind. The two transports are apart so that a client can move from
    /// one to the other without a gap.
    #[default]
    Newest,
    /// As many as [`Limits::allocations_per_user`]: browsers allocate once per interface and transport.
    Limited,
}

/// Why a [`Config`] can't be served.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// Neither public address is set.
    #[error("a relay needs a public IPv4 or IPv6 address")]
    NoAddress,
    /// The range is empty or contains port 0.
    #[error("the range of allocation ports is empty or contains 0")]
    NoPorts,
    /// Realm or software name exceed what STUN can carry.
    #[error("the realm or the software name is longer than 127 bytes")]
    TooLong,
    /// A secret is empty, or a user has an empty or overlong name.
    #[error("a secret is empty, or the name of a user is empty or longer than 508 bytes")]
    Credentials,
}
