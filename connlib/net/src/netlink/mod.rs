//! Addresses, routes and policy rules of Linux, through route netlink.
//!
//! - [`Interface`]: addresses of our TUN device, and routes to it in a table;
//! - [`ClientRoutes`]: the rules and tables that steer a client's packets into the TUN device, but not its own sockets.
//!
//! All of it is idempotent: a call states what should be, the kernel is asked what is, and only the difference is
//! changed. What a crashed process left behind is a difference like any other. Objects of other programs are never
//! touched.
//!
//! The messages are encoded here and not by `rtnetlink`: nf_tables needs a codec in any case ([`crate::nft`]), a dozen
//! attributes are all that routes need on top, and a reader that looks at nothing else does not trip over what newer
//! kernels add. It also needs no task and no queue: the kernel answers a request before `send` returns.

pub(crate) mod address;
mod client_routes;
mod error;
mod interface;
pub(crate) mod link;
mod message;
mod monitor;
pub(crate) mod route;
mod rule;
mod socket;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

pub(crate) use message::{ACK, APPEND, Attributes, CREATE, Message, Received};
pub(crate) use monitor::{Debounce, Monitor, groups};
pub(crate) use socket::{BUFFER_SIZE, Socket};

pub use client_routes::{ClientRoutes, SOCKET_MARK};
pub use error::Error;
pub use interface::{Interface, Ipv6Support, MAIN_TABLE};

/// The number of an address's family.
pub(crate) fn family(ip: IpAddr) -> u8 {
    match ip {
        IpAddr::V4(_) => libc::AF_INET as u8,
        IpAddr::V6(_) => libc::AF_INET6 as u8,
    }
}

/// An address in network byte order.
pub(crate) fn ip_to_bytes(ip: IpAddr) -> Vec<u8> {
    match ip {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    }
}

/// An address from network byte order; its length says which family it has.
fn ip_from_bytes(bytes: &[u8]) -> Option<IpAddr> {
    if let Ok(octets) = <[u8; 4]>::try_from(bytes) {
        return Some(IpAddr::V4(Ipv4Addr::from(octets)));
    }
    let octets = <[u8; 16]>::try_from(bytes).ok()?;
    Some(IpAddr::V6(Ipv6Addr::from(octets)))
}
