//! What the portal gives both ends of a link.

use std::fmt;

use connlib_link::IceCredentials;

/// The secrets of a link, the same for every authorization between one client and one gateway.
#[derive(Clone, PartialEq, Eq)]
pub struct LinkKeys {
    /// WireGuard's preshared key.
    pub preshared_key: [u8; 32],
    /// ICE credentials of the client's end.
    pub client_ice: IceCredentials,
    /// ICE credentials of the gateway's end.
    pub gateway_ice: IceCredentials,
}

impl fmt::Debug for LinkKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LinkKeys").finish_non_exhaustive()
    }
}
