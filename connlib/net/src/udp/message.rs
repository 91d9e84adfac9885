//! One `sendmsg(2)`, one `recvmsg(2)`.

use std::io::{self, IoSlice};
use std::mem;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsRawFd;

use socket2::{MsgHdr, SockAddr, SockAddrStorage, Socket};

use super::control::{Incoming, Outgoing, SPACE};

/// Datagrams of one sender that arrived together: same addresses, same ECN, same size but for the last, which may be
/// shorter.
#[derive(Debug)]
pub struct Run<'a> {
    /// Our address that they were sent to.
    pub local: SocketAddr,
    /// The sender.
    pub remote: SocketAddr,
    /// ECN code point (RFC 3168 §5): 0 Not-ECT, 1 ECT(1), 2 ECT(0), 3 CE.
    pub ecn: u8,
    /// Size in bytes of each datagram but the last.
    pub segment_size: usize,
    /// All datagrams, one behind the other.
    pub bytes: &'a mut [u8],
}

impl<'a> Run<'a> {
    /// The datagrams, in the order in which they arrived. Empty ones are left out.
    pub fn datagrams(self) -> impl ExactSizeIterator<Item = &'a mut [u8]> {
        self.bytes.chunks_mut(self.segment_size.max(1))
    }
}

/// A [`Run`] at the front of a buffer that it does not borrow.
pub(super) struct Received {
    local: SocketAddr,
    remote: SocketAddr,
    ecn: u8,
    segment_size: usize,
    length: usize,
}

impl Received {
    pub(super) fn in_buffer(self, buffer: &mut [u8]) -> Run<'_> {
        let Self { local, remote, ecn, segment_size, length } = self;
        Run { local, remote, ecn, segment_size, bytes: &mut buffer[..length] }
    }
}

/// Receives one datagram or, with UDP GRO, one run of them. `bound` is the socket's own address.
pub(super) fn receive(
    socket: &Socket,
    buffer: &mut [u8],
    bound: SocketAddr,
) -> io::Result<Received> {
    let mut remote = SockAddrStorage::zeroed();
    let remote_size = remote.size_of();
    let mut control = [0u8; SPACE];
    let mut part = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
    // SAFETY: all zeros is a valid `msghdr` without name, buffers and control data.
    let mut header: libc::msghdr = unsafe { mem::zeroed() };
    header.msg_name = (&raw mut remote).cast();
    header.msg_namelen = remote_size;
    header.msg_iov = &raw mut part;
    header.msg_iovlen = 1;
    header.msg_control = control.as_mut_ptr().cast();
    header.msg_controllen = control.len() as _;

    // SAFETY: name, buffer and control point to memory of the given sizes that we hold exclusively and that outlives
    // the call.
    let length = unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut header, 0) };
    let length = usize::try_from(length).map_err(|_| io::Error::last_os_error())?;

    // SAFETY: the kernel has written `msg_namelen` bytes of a socket address there, and the rest is zeroed.
    let remote = unsafe { SockAddr::new(remote, header.msg_namelen.min(remote_size)) };
    let remote = remote
        .as_socket()
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "datagram without a sender"))?;
    let control_length = (header.msg_controllen as usize).min(SPACE);
    let incoming = Incoming::parse(&control[..control_length]);

    let segment_size = incoming.segment_size.unwrap_or(length);
    let mut length = length.min(buffer.len());
    if header.msg_flags & libc::MSG_TRUNC != 0 {
        // The caller's buffer was too small: keep the datagrams that are whole.
        length = length.checked_rem(segment_size).map_or(0, |partial| length - partial);
    }
    let local = SocketAddr::new(incoming.local.unwrap_or(bound.ip()), bound.port());
    Ok(Received { local, remote, ecn: incoming.ecn, segment_size, length })
}

/// Sends one datagram or, if `segment_size` is given, several of that size.
pub(super) fn send(
    socket: &Socket,
    source: Option<IpAddr>,
    destination: SocketAddr,
    ecn: u8,
    segment_size: Option<u16>,
    contents: &[u8],
) -> io::Result<()> {
    let mut control = Outgoing::new();
    if ecn != 0 {
        control.push_ecn(ecn, destination.is_ipv4());
    }
    if let Some(source) = source {
        control.push_source(source);
    }
    if let Some(size) = segment_size {
        control.push_segment_size(size);
    }
    let destination = SockAddr::from(destination);
    let buffers = [IoSlice::new(contents)];
    let mut message = MsgHdr::new().with_addr(&destination).with_buffers(&buffers);
    if !control.as_bytes().is_empty() {
        message = message.with_control(control.as_bytes());
    }
    socket.sendmsg(&message, 0).map(drop)
}
