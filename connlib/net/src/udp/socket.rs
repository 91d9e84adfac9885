//! The socket of one address family.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::AsRawFd;
use std::task::{Context, Poll, ready};

use libc::c_int;
use socket2::{Domain, Protocol, SockAddr, Type};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::message::{self, Received};
use super::refusals::Refusals;
use super::sockets::Options;
use crate::readiness;

/// Segments that one system call may carry (Linux's `UDP_MAX_SEGMENTS` before 6.9; later kernels take more).
const MAX_SEGMENTS: usize = 64;
/// The largest UDP payload over IPv4; IPv6 takes 20 bytes more.
const MAX_PAYLOAD: usize = 65_507;

/// Datagrams to one destination.
#[derive(Debug, Clone)]
pub struct Transmit<'a> {
    /// Our address to send from. `None`: the routing table decides.
    pub source: Option<IpAddr>,
    /// Where to.
    pub destination: SocketAddr,
    /// ECN code point of the IP header (RFC 3168 §5).
    pub ecn: u8,
    /// Size in bytes of each datagram but the last, which may be shorter. `None`: `contents` is one datagram.
    pub segment_size: Option<usize>,
    /// The datagrams, one behind the other. [`UdpSockets::send`](super::UdpSockets::send) takes off what it has sent.
    pub contents: &'a [u8],
}

/// Why the socket of one address family could not be made.
#[derive(Debug, thiserror::Error)]
#[error("cannot {step}: {source}")]
pub struct SocketError {
    /// What was attempted, as the end of a sentence that begins with "cannot".
    pub step: &'static str,
    /// What the kernel said.
    pub source: io::Error,
}

#[derive(Debug)]
pub(super) struct Socket {
    io: AsyncFd<socket2::Socket>,
    local: SocketAddr,
    offload: bool,
    refusals: Refusals,
}

impl Socket {
    /// Binds the unspecified address `ip` to the preferred port, or an ephemeral one if that is taken.
    pub(super) fn bind(ip: IpAddr, options: &Options) -> Result<Self, SocketError> {
        let attempt = |step| move |source| SocketError { step, source };
        let domain = if ip.is_ipv4() { Domain::IPV4 } else { Domain::IPV6 };
        let socket = socket2::Socket::new(domain, Type::DGRAM.nonblocking(), Some(Protocol::UDP))
            .map_err(attempt("make a UDP socket"))?;
        if let Some(mark) = options.mark {
            socket
                .set_mark(mark)
                .map_err(attempt("mark the socket's packets (is CAP_NET_ADMIN missing?)"))?;
        }
        if ip.is_ipv6() {
            socket.set_only_v6(true).map_err(attempt("restrict the socket to IPv6"))?;
        }
        report_metadata(&socket, ip).map_err(attempt("ask for local addresses and ECN"))?;
        allow_fragmentation(&socket, ip).map_err(attempt("allow fragmentation"))?;
        if options.offload
            && let Err(error) = set_option(&socket, libc::SOL_UDP, libc::UDP_GRO, 1)
        {
            tracing::debug!(%error, "The kernel does not coalesce received datagrams");
        }
        enlarge_buffers(&socket, options);

        let bind = |port| socket.bind(&SockAddr::from(SocketAddr::new(ip, port)));
        match bind(options.port) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => bind(0),
            result => result,
        }
        .map_err(attempt("bind the socket to a port"))?;
        let local = socket
            .local_addr()
            .and_then(|local| local.as_socket().ok_or_else(|| io::ErrorKind::InvalidData.into()))
            .map_err(attempt("learn the socket's port"))?;
        let io = readiness::register(socket).map_err(attempt("watch the socket"))?;
        Ok(Self { io, local, offload: options.offload, refusals: Refusals::default() })
    }

    pub(super) fn port(&self) -> u16 {
        self.local.port()
    }

    pub(super) fn poll_readable(&self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        // The guard is only for clearing the readiness, which `try_io` does.
        Poll::Ready(ready!(self.io.poll_read_ready(context)).map(drop))
    }

    pub(super) async fn writable(&self) -> io::Result<()> {
        self.io.writable().await.map(drop)
    }

    pub(super) fn recv(&self, buffer: &mut [u8]) -> io::Result<Received> {
        self.io.try_io(Interest::READABLE, |socket| message::receive(socket, buffer, self.local))
    }

    /// Sends as much as one system call takes, then the rest. Takes off `contents` what has been sent.
    pub(super) fn send(&mut self, transmit: &mut Transmit<'_>) -> io::Result<()> {
        let destination = transmit.destination.ip();
        let segment = match transmit.segment_size {
            Some(size) if size != 0 => size,
            _ => transmit.contents.len(),
        };
        let mut batch = match u16::try_from(segment) {
            Ok(1..) if self.offload && !self.refusals.contains(destination) => {
                MAX_SEGMENTS.min(MAX_PAYLOAD / segment).max(1)
            }
            _ => 1,
        };
        let mut is_refused = false;
        // At least once: a datagram may be empty.
        loop {
            let length = transmit.contents.len().min(segment * batch);
            let (now, later) = transmit.contents.split_at(length);
            match self.send_now(transmit, segment, now) {
                Ok(()) => transmit.contents = later,
                Err(error) if length > segment && may_be_refusal(&error) => {
                    is_refused = true;
                    batch = 1;
                    continue;
                }
                Err(error) => return Err(error),
            }
            if is_refused {
                // What failed as a whole went out in parts: segmentation is at fault, not an address or a filter.
                tracing::debug!(%destination, segment, "This path takes no segmentation offload");
                self.refusals.insert(destination);
                is_refused = false;
            }
            if transmit.contents.is_empty() {
                return Ok(());
            }
        }
    }

    fn send_now(&self, transmit: &Transmit<'_>, segment: usize, bytes: &[u8]) -> io::Result<()> {
        // Some drivers dislike segmentation of what is one segment.
        let segment_size = if bytes.len() > segment { u16::try_from(segment).ok() } else { None };
        let Transmit { source, destination, ecn, .. } = *transmit;
        readiness::write_now(&self.io, |socket| {
            message::send(socket, source, destination, ecn, segment_size, bytes)
        })
    }
}

/// Errors by which kernels say that they cannot segment: no checksum offload or IPsec on the way (`EIO`), segments above
/// the path's MTU (`EMSGSIZE`, formerly `EINVAL`). All of them can have other causes as well.
fn may_be_refusal(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EIO | libc::EINVAL | libc::EMSGSIZE))
}

fn report_metadata(socket: &socket2::Socket, ip: IpAddr) -> io::Result<()> {
    let options = match ip {
        IpAddr::V4(_) => {
            [(libc::IPPROTO_IP, libc::IP_PKTINFO), (libc::IPPROTO_IP, libc::IP_RECVTOS)]
        }
        IpAddr::V6(_) => [
            (libc::IPPROTO_IPV6, libc::IPV6_RECVPKTINFO),
            (libc::IPPROTO_IPV6, libc::IPV6_RECVTCLASS),
        ],
    };
    options.into_iter().try_for_each(|(level, name)| set_option(socket, level, name, 1))
}

/// Lets the kernel and routers fragment our datagrams. The MTU inside the tunnel is IPv6's minimum and cannot shrink,
/// so on a path below 1364 bytes a fragment is better than nothing. Over IPv4 that is the routers' business and forged
/// ICMP errors have no effect; over IPv6 only the sender can do it, when a router says so.
fn allow_fragmentation(socket: &socket2::Socket, ip: IpAddr) -> io::Result<()> {
    match ip {
        IpAddr::V4(_) => {
            set_option(socket, libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, libc::IP_PMTUDISC_OMIT)
        }
        IpAddr::V6(_) => set_option(
            socket,
            libc::IPPROTO_IPV6,
            libc::IPV6_MTU_DISCOVER,
            libc::IPV6_PMTUDISC_DONT,
        ),
    }
}

/// Buffers of the wanted size if we may exceed the system's limit, else up to the limit: the kernel cuts by itself.
fn enlarge_buffers(socket: &socket2::Socket, options: &Options) {
    let size = |bytes: usize| c_int::try_from(bytes).unwrap_or(c_int::MAX);
    let force = |name, bytes| set_option(socket, libc::SOL_SOCKET, name, size(bytes));
    let receive = force(libc::SO_RCVBUFFORCE, options.receive_buffer)
        .or_else(|_| socket.set_recv_buffer_size(options.receive_buffer));
    let send = force(libc::SO_SNDBUFFORCE, options.send_buffer)
        .or_else(|_| socket.set_send_buffer_size(options.send_buffer));
    // The kernel reports twice the size that was asked for: it counts its overhead in.
    tracing::debug!(
        receive_buffer = ?receive.and_then(|()| socket.recv_buffer_size()),
        send_buffer = ?send.and_then(|()| socket.send_buffer_size()),
        "Set socket buffers"
    );
}

fn set_option(socket: &socket2::Socket, level: c_int, name: c_int, value: c_int) -> io::Result<()> {
    // SAFETY: the option's value is a `c_int` that outlives the call, and its size is given.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            name,
            (&raw const value).cast(),
            size_of::<c_int>() as libc::socklen_t,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

pub(super) const UNSPECIFIED_V4: IpAddr = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
pub(super) const UNSPECIFIED_V6: IpAddr = IpAddr::V6(Ipv6Addr::UNSPECIFIED);
