//! Both address families together.

use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::task::Poll;

use super::message::Run;
use super::socket::{Socket, SocketError, Transmit, UNSPECIFIED_V4, UNSPECIFIED_V6};

/// The port that is tried first, for both families: administrators open it in firewalls.
pub const PREFERRED_PORT: u16 = 52625;

/// Size in bytes of a buffer that any run of datagrams fits into.
pub const RECEIVE_BUFFER: usize = 65_535;

/// How to make the sockets.
#[derive(Debug, Clone)]
pub struct Options {
    /// The port to bind, if it is free. An ephemeral one otherwise.
    pub port: u16,
    /// `SO_MARK`: keeps our own datagrams out of the tunnel where routing rules look at it. Needs `CAP_NET_ADMIN`.
    pub mark: Option<u32>,
    /// Whether the kernel may cut and join datagrams (UDP GSO and GRO). To be turned off where a driver gets it wrong.
    pub offload: bool,
    /// Wanted size in bytes of each socket's receive buffer: what waits there is delay under load, a few milliseconds of
    /// traffic must fit. Without `CAP_NET_ADMIN` `net.core.rmem_max` is the limit.
    pub receive_buffer: usize,
    /// Wanted size in bytes of each socket's send buffer. Without `CAP_NET_ADMIN` `net.core.wmem_max` is the limit.
    pub send_buffer: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            port: PREFERRED_PORT,
            mark: None,
            offload: true,
            receive_buffer: 4 << 20,
            send_buffer: 4 << 20,
        }
    }
}

/// Neither address family has a socket.
#[derive(Debug, thiserror::Error)]
#[error("no UDP socket: {v4} (IPv4); {v6} (IPv6)")]
pub struct BindError {
    /// Why not IPv4.
    pub v4: SocketError,
    /// Why not IPv6.
    pub v6: SocketError,
}

/// A UDP socket for IPv4 and one for IPv6. A host may lack one family.
#[derive(Debug)]
pub struct UdpSockets {
    v4: Option<Socket>,
    v6: Option<Socket>,
    v6_is_next: bool,
    options: Options,
}

impl UdpSockets {
    /// Binds a socket per family.
    ///
    /// # Errors
    ///
    /// If neither family has one. One alone is fine.
    ///
    /// # Panics
    ///
    /// Outside of a tokio runtime with I/O enabled.
    pub fn bind(options: Options) -> Result<Self, BindError> {
        let mut sockets = Self { v4: None, v6: None, v6_is_next: false, options };
        sockets.rebind()?;
        Ok(sockets)
    }

    /// Closes the sockets and makes new ones, as after a change of networks: routes, interface bindings and errors of
    /// the old ones are gone. The port stays the same where it can.
    ///
    /// # Errors
    ///
    /// As [`bind`](Self::bind). There are no sockets then: nothing arrives, and sending fails, until this succeeds.
    pub fn rebind(&mut self) -> Result<(), BindError> {
        // The port is free only once the old sockets are closed.
        (self.v4, self.v6) = (None, None);
        let v4 = Socket::bind(UNSPECIFIED_V4, &self.options);
        let v6 = Socket::bind(UNSPECIFIED_V6, &self.options);
        (self.v4, self.v6) = match (v4, v6) {
            (Err(v4), Err(v6)) => return Err(BindError { v4, v6 }),
            (v4, v6) => (present(v4, "IPv4"), present(v6, "IPv6")),
        };
        tracing::debug!(port_v4 = ?self.port_v4(), port_v6 = ?self.port_v6(), "Bound UDP sockets");
        Ok(())
    }

    /// The local IPv4 port. `None`: the host has no IPv4.
    pub fn port_v4(&self) -> Option<u16> {
        self.v4.as_ref().map(Socket::port)
    }

    /// The local IPv6 port. `None`: the host has no IPv6.
    pub fn port_v6(&self) -> Option<u16> {
        self.v6.as_ref().map(Socket::port)
    }

    /// Waits until a datagram may have arrived.
    ///
    /// # Errors
    ///
    /// If the runtime is shutting down.
    pub async fn readable(&self) -> io::Result<()> {
        poll_fn(|context| {
            let sockets = [&self.v4, &self.v6].into_iter().flatten();
            for socket in sockets {
                if let Poll::Ready(result) = socket.poll_readable(context) {
                    return Poll::Ready(result);
                }
            }
            Poll::Pending
        })
        .await
    }

    /// Waits until datagrams to `destination` may be sent again, after [`send`](Self::send) said `WouldBlock`.
    ///
    /// # Errors
    ///
    /// If the runtime is shutting down.
    pub async fn writable(&self, destination: SocketAddr) -> io::Result<()> {
        match self.socket(destination) {
            Some(socket) => socket.writable().await,
            None => Ok(()),
        }
    }

    /// Receives one run of datagrams into `buffer`, which should hold [`RECEIVE_BUFFER`] bytes. The families take turns.
    ///
    /// # Errors
    ///
    /// `WouldBlock`: nothing is there, [wait](Self::readable). Any other error concerns one datagram.
    pub fn recv<'a>(&mut self, buffer: &'a mut [u8]) -> io::Result<Run<'a>> {
        self.v6_is_next = !self.v6_is_next;
        let turns = if self.v6_is_next { [&self.v4, &self.v6] } else { [&self.v6, &self.v4] };
        for socket in turns.into_iter().flatten() {
            match socket.recv(buffer) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                received => return received.map(|received| received.in_buffer(buffer)),
            }
        }
        Err(io::ErrorKind::WouldBlock.into())
    }

    /// Sends as much of `transmit` as the kernel takes and leaves the rest in `contents`.
    ///
    /// # Errors
    ///
    /// - `WouldBlock`: [wait](Self::writable), then call again with the same `transmit`.
    /// - Everything else means that the rest of `transmit` is lost, just as on the way, and is worth counting: no route,
    ///   source address gone, no socket of this family (`EAFNOSUPPORT`), refused by a filter (`EPERM`).
    pub fn send(&mut self, transmit: &mut Transmit<'_>) -> io::Result<()> {
        let socket = if transmit.destination.is_ipv4() { &mut self.v4 } else { &mut self.v6 };
        match socket {
            Some(socket) => socket.send(transmit),
            None => Err(io::Error::from_raw_os_error(libc::EAFNOSUPPORT)),
        }
    }

    fn socket(&self, destination: SocketAddr) -> Option<&Socket> {
        if destination.is_ipv4() { self.v4.as_ref() } else { self.v6.as_ref() }
    }
}

fn present(socket: Result<Socket, SocketError>, family: &str) -> Option<Socket> {
    socket
        .inspect_err(|error| tracing::info!(family, %error, "This host lacks an address family"))
        .ok()
}
