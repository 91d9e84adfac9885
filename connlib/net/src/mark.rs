//! Sockets that bypass the tunnel.

use std::io;
use std::os::fd::AsFd;

use socket2::SockRef;

/// Sets `SO_MARK`, by which routing rules tell our own sockets from those of applications
/// ([`SOCKET_MARK`](crate::netlink::SOCKET_MARK)). To be called before the socket connects.
///
/// # Errors
///
/// Without `CAP_NET_ADMIN`.
pub fn set_mark(socket: &impl AsFd, mark: u32) -> io::Result<()> {
    SockRef::from(socket).set_mark(mark)
}
