//! What a client talks to the relay by: UDP, TCP or TLS.

use std::{
    io::{self, ErrorKind, Read as _, Write as _},
    net::{IpAddr, SocketAddr, TcpStream, UdpSocket},
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use rustls::{ClientConfig, ClientConnection, StreamOwned};
use socket2::{Domain, Protocol, Socket, Type};

use super::{
    certificate::NAME,
    network::{RELAY, place},
};

pub(super) const UDP_PORT: u16 = 3478;
pub(super) const TCP_PORT: u16 = 3478;
pub(super) const TLS_PORT: u16 = 443;

/// A connection stands by then, and takes what is written.
const PATIENCE: Duration = Duration::from_secs(10);
const LONGEST: usize = 65_535;
const SHORTEST_WAIT: Duration = Duration::from_millis(1);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Transport {
    Udp,
    Tcp,
    Tls,
}

impl Transport {
    fn port(self) -> u16 {
        match self {
            Self::Udp => UDP_PORT,
            Self::Tcp => TCP_PORT,
            Self::Tls => TLS_PORT,
        }
    }
}

/// Messages in, messages out.
pub(super) struct Link {
    wire: Wire,
    local: SocketAddr,
    /// Of a stream: what has come and is not a whole message yet.
    partial: Vec<u8>,
    buffer: Vec<u8>,
}

enum Wire {
    Udp(UdpSocket),
    Tcp(TcpStream),
    Tls(Box<StreamOwned<ClientConnection, TcpStream>>),
}

impl Link {
    /// Opens a link from `local` to the relay.
    pub(super) fn open(
        transport: Transport,
        local: SocketAddr,
        tls: &Arc<ClientConfig>,
    ) -> Result<Self> {
        let relay = SocketAddr::new(RELAY[place(local.is_ipv4())], transport.port());
        let (wire, local) = match transport {
            Transport::Udp => {
                let socket = UdpSocket::bind(local).context("cannot bind")?;
                socket.connect(relay)?;
                let local = socket.local_addr()?;
                (Wire::Udp(socket), local)
            }
            Transport::Tcp | Transport::Tls => {
                let stream = connect(local.ip(), relay).context("cannot connect")?;
                let local = stream.local_addr()?;
                if transport == Transport::Tcp {
                    (Wire::Tcp(stream), local)
                } else {
                    let connection = ClientConnection::new(Arc::clone(tls), NAME.try_into()?)?;
                    let mut stream = StreamOwned::new(connection, stream);
                    stream.conn.complete_io(&mut stream.sock).context("no TLS")?;
                    (Wire::Tls(Box::new(stream)), local)
                }
            }
        };
        Ok(Self { wire, local, partial: Vec::new(), buffer: vec![0; LONGEST] })
    }

    pub(super) fn local(&self) -> SocketAddr {
        self.local
    }

    pub(super) fn is_datagrams(&self) -> bool {
        matches!(self.wire, Wire::Udp(_))
    }

    /// Sends a message. What a full queue does not take of UDP is lost, as anywhere.
    pub(super) fn send(&mut self, message: &[u8]) -> Result<()> {
        let padding = &[0; 3][..message.len().next_multiple_of(4) - message.len()];
        match &mut self.wire {
            Wire::Udp(socket) => match socket.send(message) {
                Err(error) if error.kind() == ErrorKind::ConnectionRefused => {}
                result => drop(result?),
            },
            Wire::Tcp(stream) => stream.write_all(&[message, padding].concat())?,
            Wire::Tls(stream) => stream.write_all(&[message, padding].concat())?,
        }
        Ok(())
    }

    /// The next message, if one comes until `deadline`.
    pub(super) fn receive(&mut self, deadline: Instant) -> Result<Option<Vec<u8>>> {
        loop {
            if !self.is_datagrams()
                && let Some(message) = cut(&mut self.partial)?
            {
                return Ok(Some(message));
            }
            let wait = deadline.saturating_duration_since(Instant::now());
            if wait.is_zero() {
                return Ok(None);
            }
            let wait = Some(wait.max(SHORTEST_WAIT));
            let result = match &mut self.wire {
                Wire::Udp(socket) => {
                    socket.set_read_timeout(wait)?;
                    socket.recv(&mut self.buffer)
                }
                Wire::Tcp(stream) => {
                    stream.set_read_timeout(wait)?;
                    stream.read(&mut self.buffer)
                }
                Wire::Tls(stream) => {
                    stream.sock.set_read_timeout(wait)?;
                    stream.read(&mut self.buffer)
                }
            };
            match result {
                Ok(length) if self.is_datagrams() => {
                    return Ok(Some(self.buffer[..length].to_vec()));
                }
                Ok(0) => bail!("the relay closed the connection"),
                Ok(length) => self.partial.extend_from_slice(&self.buffer[..length]),
                Err(error) if is_passing(&error) => {}
                Err(error) => return Err(error).context("cannot receive"),
            }
        }
    }
}

fn is_passing(error: &io::Error) -> bool {
    use ErrorKind::{ConnectionRefused, Interrupted, TimedOut, WouldBlock};
    matches!(error.kind(), WouldBlock | TimedOut | Interrupted | ConnectionRefused)
}

/// Connects from an address of our choice.
pub(super) fn connect(local: IpAddr, relay: SocketAddr) -> Result<TcpStream> {
    let domain = if local.is_ipv4() { Domain::IPV4 } else { Domain::IPV6 };
    let socket = Socket::new(domain, Type::STREAM, Some(Protocol::TCP))?;
    socket.bind(&SocketAddr::new(local, 0).into())?;
    socket.connect_timeout(&relay.into(), PATIENCE)?;
    let stream = TcpStream::from(socket);
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    Ok(stream)
}

/// Takes the first whole message off a stream: STUN, or channel data with its padding (RFC 8656 §12.5).
fn cut(stream: &mut Vec<u8>) -> Result<Option<Vec<u8>>> {
    let Some(&[a, _, high, low]) = stream.first_chunk() else { return Ok(None) };
    ensure!(a & 0x80 == 0, "the relay sent what is neither STUN nor channel data");
    let length = usize::from(u16::from_be_bytes([high, low]));
    let whole = if a < 0x40 { 20 + length } else { 4 + length };
    if stream.len() < whole.next_multiple_of(4) {
        return Ok(None);
    }
    let rest = stream.split_off(whole.next_multiple_of(4));
    let mut message = std::mem::replace(stream, rest);
    message.truncate(whole);
    Ok(Some(message))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_are_cut_into_messages() {
        let mut stream = b"\x40\x00\0\x05hello\0\0\0\x40\x01\0\x01".to_vec();
        assert_eq!(cut(&mut stream).unwrap().unwrap(), b"\x40\x00\0\x05hello");
        assert_eq!(cut(&mut stream).unwrap(), None);
        stream.extend_from_slice(b"x\0\0");
        assert_eq!(cut(&mut stream).unwrap(), None);
        stream.push(0);
        assert_eq!(cut(&mut stream).unwrap().unwrap(), b"\x40\x01\0\x01x");
        assert!(stream.is_empty());
        assert!(cut(&mut vec![0xff; 8]).is_err());
    }
}
