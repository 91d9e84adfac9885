//! One UDP socket: runs of datagrams in (UDP GRO), runs of datagrams out (UDP GSO).
//!
//! `recvmmsg` and `sendmmsg` would share one system call between unlike datagrams. What costs is the way through the
//! kernel, not its door, and nix's `MultiHeaders` forgets the room for control messages after the first use; so one call
//! moves one run.

use std::io::{self, IoSlice, IoSliceMut};
use std::net::{IpAddr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use nix::sys::socket::sockopt::{RcvBufForce, SndBufForce, UdpGroSegment};
use nix::sys::socket::{
    ControlMessageOwned, MsgFlags, RecvMsg, SockaddrIn, SockaddrIn6, recvmsg, setsockopt,
};
use rustix::net::sockopt::{
    Ipv4PathMtuDiscovery, Ipv6PathMtuDiscovery, set_ip_mtu_discover, set_ipv6_mtu_discover,
};
use socket2::{Domain, MsgHdr, Protocol, SockAddr, Socket, Type};

/// Room that a receive buffer must have: no run of datagrams is longer.
pub(crate) const LARGEST_RUN: usize = 65_535;

/// Segments that one system call may carry (Linux's `UDP_MAX_SEGMENTS` before 6.9; later kernels take more).
pub(crate) const MAX_SEGMENTS: usize = 64;

/// The largest UDP payload over IPv4; IPv6 takes 20 bytes more.
pub(crate) const MAX_PAYLOAD: usize = 65_507;

/// Whether several sockets may share an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sharing {
    /// No, and it fails if somebody has the address already.
    Alone,
    /// The first of several. It fails if somebody has the address already; others may join it afterwards.
    First,
    /// One of several: the kernel spreads senders over them.
    Joining,
}

/// Datagrams of one sender that arrived together, at the front of a buffer: all of one size but for the last, which may
/// be shorter.
#[derive(Debug)]
pub(crate) struct Received {
    pub(crate) from: SocketAddr,
    /// ECN code point (RFC 3168 §5).
    pub(crate) ecn: u8,
    /// Bytes of each datagram but the last. Not 0.
    pub(crate) segment_size: usize,
    /// Bytes of all.
    pub(crate) length: usize,
}

#[derive(Debug)]
pub(crate) struct UdpSocket {
    socket: Socket,
    is_v4: bool,
}

impl UdpSocket {
    /// Binds `address`, non-blocking, with `buffer` bytes in each direction if the system lets us have them.
    pub(crate) fn bind(address: SocketAddr, sharing: Sharing, buffer: usize) -> io::Result<Self> {
        let is_v4 = address.is_ipv4();
        let domain = if is_v4 { Domain::IPV4 } else { Domain::IPV6 };
        let socket = Socket::new(domain, Type::DGRAM.nonblocking(), Some(Protocol::UDP))?;
        // RFC 8656 §13 and §14: ECN passes through, DF is not set. Forged ICMP errors have no effect either.
        if is_v4 {
            socket.set_recv_tos_v4(true)?;
            set_ip_mtu_discover(&socket, Ipv4PathMtuDiscovery::OMIT)?;
        } else {
            socket.set_only_v6(true)?;
            socket.set_recv_tclass_v6(true)?;
            set_ipv6_mtu_discover(&socket, Ipv6PathMtuDiscovery::OMIT)?;
        }
        if let Err(error) = setsockopt(&socket, UdpGroSegment, &true) {
            tracing::debug!(%error, "the kernel does not join received datagrams");
        }
        if setsockopt(&socket, RcvBufForce, &buffer).is_err() {
            socket.set_recv_buffer_size(buffer)?;
        }
        if setsockopt(&socket, SndBufForce, &buffer).is_err() {
            socket.set_send_buffer_size(buffer)?;
        }
        if sharing == Sharing::Joining {
            socket.set_reuse_port(true)?;
        }
        socket.bind(&address.into())?;
        if sharing == Sharing::First {
            // Not before: two relays would share the port, each with half of the other's clients.
            socket.set_reuse_port(true)?;
        }
        Ok(Self { socket, is_v4 })
    }

    /// Bytes that fit into the receive buffer, by the kernel's own reckoning (twice what was asked for).
    pub(crate) fn receive_buffer(&self) -> io::Result<usize> {
        self.socket.recv_buffer_size()
    }

    /// Receives one run to the front of `buffer`, which must hold [`LARGEST_RUN`] bytes.
    pub(crate) fn receive(&self, buffer: &mut [u8]) -> io::Result<Received> {
        let fd = self.socket.as_raw_fd();
        let mut control = Control([0; 64]);
        let mut parts = [IoSliceMut::new(buffer)];
        if self.is_v4 {
            let message =
                recvmsg::<SockaddrIn>(fd, &mut parts, Some(&mut control.0), MsgFlags::empty())?;
            let from = message.address.map(|from| SocketAddrV4::from(from).into());
            received(&message, from)
        } else {
            let message =
                recvmsg::<SockaddrIn6>(fd, &mut parts, Some(&mut control.0), MsgFlags::empty())?;
            let from = message.address.map(|from| SocketAddrV6::from(from).into());
            received(&message, from)
        }
    }

    /// Sends the `parts` as one datagram or, if `segment_size` is given, as several of this size.
    pub(crate) fn send(
        &self,
        to: SocketAddr,
        ecn: u8,
        segment_size: Option<u16>,
        parts: &[IoSlice<'_>],
    ) -> io::Result<()> {
        let to = SockAddr::from(to);
        let mut message = MsgHdr::new().with_addr(&to).with_buffers(parts);
        let mut control = Outgoing { bytes: [0; 48], length: 0 };
        if ecn != 0 {
            control.push_ecn(ecn, self.is_v4);
        }
        if let Some(size) = segment_size {
            control.push_segment_size(size);
        }
        if control.length != 0 {
            message = message.with_control(&control.bytes[..control.length]);
        }
        self.socket.sendmsg(&message, 0).map(drop)
    }
}

impl AsFd for UdpSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// Room for ECN and a segment size, aligned as control messages are.
#[repr(align(8))]
struct Control([u8; 64]);

fn received<S>(message: &RecvMsg<'_, '_, S>, from: Option<SocketAddr>) -> io::Result<Received> {
    let from = from.ok_or(io::ErrorKind::InvalidData)?;
    let (mut ecn, mut segment_size) = (0, None);
    for control in message.cmsgs()? {
        match control {
            ControlMessageOwned::Ipv4Tos(class) => ecn = class & 0b11,
            ControlMessageOwned::Ipv6TClass(class) => ecn = class as u8 & 0b11,
            ControlMessageOwned::UdpGroSegments(size) => segment_size = usize::try_from(size).ok(),
            _ => {}
        }
    }
    let length = message.bytes;
    let segment_size = segment_size.unwrap_or(length).max(1);
    Ok(Received { from, ecn, segment_size, length })
}

/// Control messages for `sendmsg`: a header (length as `size_t`, level and type as `int`) and its data, padded to the
/// size of a pointer.
struct Outgoing {
    bytes: [u8; 48],
    length: usize,
}

const LENGTH: usize = size_of::<usize>();
const INT: usize = size_of::<i32>();
const HEADER: usize = (LENGTH + 2 * INT).next_multiple_of(LENGTH);

impl Outgoing {
    fn push_ecn(&mut self, ecn: u8, is_v4: bool) {
        let class = i32::from(ecn & 0b11).to_ne_bytes();
        if is_v4 {
            self.push(libc::IPPROTO_IP, libc::IP_TOS, &class);
        } else {
            self.push(libc::IPPROTO_IPV6, libc::IPV6_TCLASS, &class);
        }
    }

    /// A `u16` here, though `UDP_GRO` reports an `int`.
    fn push_segment_size(&mut self, size: u16) {
        self.push(libc::SOL_UDP, libc::UDP_SEGMENT, &size.to_ne_bytes());
    }

    fn push(&mut self, level: i32, kind: i32, data: &[u8]) {
        let message = &mut self.bytes[self.length..];
        message[..LENGTH].copy_from_slice(&(HEADER + data.len()).to_ne_bytes());
        message[LENGTH..LENGTH + INT].copy_from_slice(&level.to_ne_bytes());
        message[LENGTH + INT..LENGTH + 2 * INT].copy_from_slice(&kind.to_ne_bytes());
        message[HEADER..HEADER + data.len()].copy_from_slice(data);
        self.length += HEADER + data.len().next_multiple_of(LENGTH);
    }
}

/// Whether an error may mean that the kernel cannot segment on this path: no checksum offload or IPsec on the way
/// (`EIO`), segments above the path's MTU (`EMSGSIZE`, formerly `EINVAL`). All of them can have other causes as well.
pub(crate) fn may_refuse_segmentation(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EIO | libc::EINVAL | libc::EMSGSIZE))
}

/// Whether `ip` is one of this host's own addresses.
pub(crate) fn is_own(ip: IpAddr) -> bool {
    std::net::UdpSocket::bind(SocketAddr::new(ip, 0)).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair() -> (UdpSocket, UdpSocket) {
        let bind = || UdpSocket::bind("127.0.0.1:0".parse().unwrap(), Sharing::Alone, 1 << 16);
        (bind().unwrap(), bind().unwrap())
    }

    #[test]
    fn a_run_is_gathered_cut_and_joined_again() {
        let (sender, receiver) = pair();
        let (header, payload, end) = ([1; 4], [2; 96], [3; 50]);
        let parts = [&header[..], &payload, &header, &payload, &header, &end].map(IoSlice::new);
        sender.send(local(&receiver), 0b10, Some(100), &parts).unwrap();
        let mut buffer = vec![0; LARGEST_RUN];
        let run = receiver.receive(&mut buffer).unwrap();
        assert_eq!(run.from, local(&sender));
        assert_eq!((run.ecn, run.segment_size, run.length), (0b10, 100, 254));
        assert_eq!(
            buffer[..254],
            [[1; 4].as_slice(), &[2; 96], &[1; 4], &[2; 96], &[1; 4], &[3; 50]].concat()
        );
    }

    #[test]
    fn an_empty_datagram_is_a_run_too() {
        let (sender, receiver) = pair();
        sender.send(local(&receiver), 0, None, &[]).unwrap();
        let run = receiver.receive(&mut vec![0; LARGEST_RUN]).unwrap();
        assert_eq!((run.segment_size, run.length), (1, 0));
    }

    #[test]
    fn a_group_keeps_strangers_out() {
        let first = UdpSocket::bind("127.0.0.1:0".parse().unwrap(), Sharing::First, 4096).unwrap();
        let address = local(&first);
        UdpSocket::bind(address, Sharing::Joining, 4096).unwrap();
        for sharing in [Sharing::Alone, Sharing::First] {
            let error = UdpSocket::bind(address, sharing, 4096).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
        }
    }

    fn local(socket: &UdpSocket) -> SocketAddr {
        socket.socket.local_addr().unwrap().as_socket().unwrap()
    }
}
