//! Addresses of interfaces.

use std::io;
use std::net::IpAddr;

use super::message::{ACK, Attributes, CREATE, EXCLUSIVE, Message, attributes, u32_at};
use super::socket::Socket;
use super::{family, ip_from_bytes, ip_to_bytes};

/// `struct ifaddrmsg`: family, prefix length, flags, scope, index.
const IFADDRMSG_LEN: usize = 8;
const INDEX_OFFSET: usize = 4;
const RT_SCOPE_LINK: u8 = 253;

/// An address as the kernel lists it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Address {
    pub(crate) interface: u32,
    pub(crate) ip: IpAddr,
    pub(crate) prefix_len: u8,
    /// `IFA_F_*`
    pub(crate) flags: u32,
    /// Valid on the link only, as `fe80::` addresses are.
    pub(crate) is_link_local: bool,
}

/// All addresses of one interface, or of the machine.
pub(crate) fn addresses(socket: &mut Socket, interface: Option<u32>) -> io::Result<Vec<Address>> {
    let header = header(libc::AF_UNSPEC as u8, 0, interface.unwrap_or(0));
    let mut addresses =
        socket.dump(libc::RTM_GETADDR, &header, &Attributes::new(), |m| parse(m.payload))?;
    addresses.retain(|a| interface.is_none_or(|wanted| a.interface == wanted));
    Ok(addresses)
}

/// Adds an address that stands alone (/32, /128): the routes are our own business.
///
/// It can be used at once; on a point-to-point device there is nobody to collide with.
pub(crate) fn add(socket: &mut Socket, interface: u32, ip: IpAddr) -> io::Result<()> {
    let header = header(family(ip), full_prefix(ip), interface);
    let attributes = Attributes::new()
        .bytes(libc::IFA_LOCAL, &ip_to_bytes(ip))
        .bytes(libc::IFA_ADDRESS, &ip_to_bytes(ip))
        .u32(libc::IFA_FLAGS, libc::IFA_F_NODAD | libc::IFA_F_NOPREFIXROUTE);
    let request = Message::new(libc::RTM_NEWADDR, ACK | CREATE | EXCLUSIVE, &header, &attributes);
    match socket.request(request, |_| {}) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        result => result,
    }
}

/// Removes an address; one that has gone already is fine.
pub(crate) fn remove(socket: &mut Socket, address: &Address) -> io::Result<()> {
    let header = header(family(address.ip), address.prefix_len, address.interface);
    let attributes = Attributes::new().bytes(libc::IFA_LOCAL, &ip_to_bytes(address.ip));
    let request = Message::new(libc::RTM_DELADDR, ACK, &header, &attributes);
    match socket.request(request, |_| {}) {
        Err(error) if error.kind() == io::ErrorKind::AddrNotAvailable => Ok(()),
        result => result,
    }
}

/// The prefix length that covers this one address.
pub(crate) fn full_prefix(ip: IpAddr) -> u8 {
    if ip.is_ipv4() { 32 } else { 128 }
}

/// The interface that a notification about an address speaks of.
pub(crate) fn interface_of(payload: &[u8]) -> Option<u32> {
    u32_at(payload, INDEX_OFFSET)
}

fn header(family: u8, prefix_len: u8, interface: u32) -> [u8; IFADDRMSG_LEN] {
    let mut header = [0; IFADDRMSG_LEN];
    header[0] = family;
    header[1] = prefix_len;
    header[INDEX_OFFSET..].copy_from_slice(&interface.to_ne_bytes());
    header
}

fn parse(payload: &[u8]) -> Option<Address> {
    let &[_, prefix_len, flags, scope, ..] = payload else { return None };
    let (mut local, mut address, mut flags) = (None, None, u32::from(flags));
    for (kind, value) in attributes(payload, IFADDRMSG_LEN) {
        match kind {
            libc::IFA_LOCAL => local = ip_from_bytes(value),
            libc::IFA_ADDRESS => address = ip_from_bytes(value),
            libc::IFA_FLAGS => flags = u32_at(value, 0)?,
            _ => {}
        }
    }
    Some(Address {
        interface: u32_at(payload, INDEX_OFFSET)?,
        // On a point-to-point IPv4 link, IFA_ADDRESS is the other end's; IPv6 has no IFA_LOCAL then.
        ip: local.or(address)?,
        prefix_len,
        flags,
        is_link_local: scope == RT_SCOPE_LINK,
    })
}
