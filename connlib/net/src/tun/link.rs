//! The interface's own attributes. Addresses and routes are set through [`netlink`](crate::netlink).

use nix::net::if_::if_nametoindex;

use super::error::TunError;
use crate::netlink::{ACK, Attributes, Message, Socket};

/// `IFLA_INET6_ADDR_GEN_MODE`.
const ADDRESS_GENERATION: u16 = 8;
/// `IN6_ADDR_GEN_MODE_NONE`.
const NO_ADDRESS_GENERATION: u8 = 1;

/// Attributes of the interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LinkSettings {
    /// Size in bytes of the largest packet.
    pub mtu: u32,
    /// Packets and super-packets that wait for us to read them. Further ones are dropped.
    pub tx_queue_length: u32,
}

impl Default for LinkSettings {
    fn default() -> Self {
        Self { mtu: connlib_packet::plan::MTU.into(), tx_queue_length: 1000 }
    }
}

impl LinkSettings {
    /// Sets the attributes of `interface`, and then brings it up.
    ///
    /// # Errors
    ///
    /// If there is no such interface or the kernel refuses a setting.
    pub fn apply(&self, interface: &str) -> Result<(), TunError> {
        let index = if_nametoindex(interface)
            .map_err(|error| TunError::at("find the interface")(error.into()))?;
        let mut socket =
            Socket::route().map_err(TunError::at("talk to the kernel through netlink"))?;
        let mut change = |message| socket.request(message, |_| {});

        change(link(index, 0, &self.attributes()))
            .map_err(TunError::at("set the interface's MTU and queue length"))?;
        if let Err(error) = change(link(index, 0, &without_link_local())) {
            tracing::debug!(%error, "No IPv6 on the interface");
        }
        change(link(index, libc::IFF_UP, &Attributes::new()))
            .map_err(TunError::at("bring the interface up"))
    }

    fn attributes(&self) -> Attributes {
        Attributes::new().u32(libc::IFLA_MTU, self.mtu).u32(libc::IFLA_TXQLEN, self.tx_queue_length)
    }
}

/// Nobody else is on this link: a link-local address would only send router solicitations into the tunnel.
fn without_link_local() -> Attributes {
    let ipv6 = Attributes::new().bytes(ADDRESS_GENERATION, &[NO_ADDRESS_GENERATION]);
    let families = Attributes::new().nested(libc::AF_INET6 as u16, &ipv6);
    Attributes::new().nested(libc::IFLA_AF_SPEC, &families)
}

/// A change of an existing link that also switches these flags on.
fn link(index: u32, flags: libc::c_int, attributes: &Attributes) -> Message {
    // `struct ifinfomsg`: family, padding, type, index, flags, mask of flags to change.
    let mut header = [0; 16];
    header[4..8].copy_from_slice(&index.to_ne_bytes());
    header[8..12].copy_from_slice(&flags.to_ne_bytes());
    header[12..16].copy_from_slice(&flags.to_ne_bytes());
    Message::new(libc::RTM_NEWLINK, ACK, &header, attributes)
}
