//! What makes up a link.

use std::fmt;

use is::IceCreds;

use crate::output::PeerId;

/// Which end chooses the path (RFC 8445 §6.1.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Nominates pairs and starts handshakes: a client.
    Controlling,
    /// Follows: a gateway.
    Controlled,
}

/// ICE user name fragment and password of one end.
#[derive(Clone, PartialEq, Eq)]
pub struct IceCredentials {
    /// The user name fragment.
    pub username: String,
    /// The password.
    pub password: String,
}

impl fmt::Debug for IceCredentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IceCredentials").field("username", &self.username).finish_non_exhaustive()
    }
}

impl From<IceCredentials> for IceCreds {
    fn from(credentials: IceCredentials) -> Self {
        Self { ufrag: credentials.username, pass: credentials.password }
    }
}

/// All that makes up a link. Two equal ones are the same link.
#[derive(Clone, PartialEq, Eq)]
pub struct LinkConfig {
    /// The peer.
    pub peer: PeerId,
    /// Our role.
    pub role: Role,
    /// The peer's WireGuard key.
    pub remote_public_key: [u8; 32],
    /// WireGuard's preshared key.
    pub preshared_key: [u8; 32],
    /// Our ICE credentials.
    pub local: IceCredentials,
    /// The peer's ICE credentials.
    pub remote: IceCredentials,
}

impl fmt::Debug for LinkConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LinkConfig")
            .field("peer", &self.peer)
            .field("role", &self.role)
            .finish_non_exhaustive()
    }
}
