//! DNS over TCP for apps: connections to the sentinels end here, in user space.

mod connection;
#[cfg(test)]
mod tests;
mod wire;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::{Duration, Instant};

use smoltcp::iface::{Config, Interface, PollResult, SocketHandle, SocketSet};
use smoltcp::socket::tcp::{Socket, SocketBuffer, State};
use smoltcp::time::{Duration as SmolDuration, Instant as SmolInstant};
use smoltcp::wire::HardwareAddress;

use self::connection::{Connection, Received};
use self::wire::Wire;
use crate::forwarder::Client;
use crate::framing::frame;
use crate::query::MAX_QUERY_LEN;
use crate::upstream::Transport;

const PORT: u16 = 53;

/// Connections at the same time. When one more comes, the one that was quiet for longest goes.
const MAX_CONNECTIONS: usize = 64;
/// Queries of one connection that wait for their answers. Until then, no more are read.
const MAX_PIPELINED: usize = 16;
/// Bytes of all answers together that apps are too slow to take. The connection whose answer
/// would exceed this is broken off.
const MAX_UNSENT: usize = 1024 * 1024;
const RECEIVE_BUFFER: usize = 2 + MAX_QUERY_LEN;
const SEND_BUFFER: usize = 8 * 1024;

/// A connection without traffic for this long is closed (RFC 7766 §6.2.3), whether or not it has
/// been answered: whoever answers has given up before.
const IDLE_TIMEOUT: Duration = Duration::from_secs(30);

/// TCP for port 53 of all sentinels, on packets instead of sockets.
///
/// Packets to the sentinels go in; queries, and packets for the apps, come out of
/// [`TcpServer::poll_output`]. A query is handed to a [`crate::Resolver`], whose answer goes to
/// [`TcpServer::answer`]. Several queries of one connection may be under way at a time and are
/// answered as the answers come (RFC 7766 §6.2.1.1).
pub struct TcpServer {
    interface: Interface,
    wire: Wire,
    sockets: SocketSet<'static>,
    /// Takes the next connection. There is always one unless there are too many connections.
    listener: Option<SocketHandle>,
    connections: BTreeMap<Client, Connection>,
    addresses: BTreeSet<IpAddr>,
    unsent: usize,
    queries: VecDeque<TcpOutput>,
    due: Option<Instant>,
    epoch: Instant,
}

/// What there is to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TcpOutput {
    /// Give an IP packet to the app.
    Packet(Vec<u8>),
    /// Resolve a query. It needs an answer or [`TcpServer::reject`].
    Query {
        /// The connection that it came from.
        client: Client,
        /// The message, which can be anything.
        message: Vec<u8>,
    },
    /// Nothing until then, or until something comes in. `None` if there are no connections.
    Timeout(Option<Instant>),
}

impl TcpServer {
    /// Starts without addresses. `seed` should be random; sequence numbers come from it.
    pub fn new(seed: u64, now: Instant) -> Self {
        let mut wire = Wire::default();
        let mut config = Config::new(HardwareAddress::Ip);
        config.random_seed = seed;
        let mut interface = Interface::new(config, &mut wire, SmolInstant::ZERO);
        // Addresses are checked before packets get this far.
        interface.set_any_ip(true);
        let mut server = Self {
            interface,
            wire,
            sockets: SocketSet::new(Vec::new()),
            listener: None,
            connections: BTreeMap::new(),
            addresses: BTreeSet::new(),
            unsent: 0,
            queries: VecDeque::new(),
            due: None,
            epoch: now,
        };
        server.listen();
        server
    }

    /// Sets the sentinels. Connections to others are reset.
    pub fn set_addresses(&mut self, addresses: impl IntoIterator<Item = IpAddr>, now: Instant) {
        self.addresses = addresses.into_iter().collect();
        for (client, connection) in &self.connections {
            if !self.addresses.contains(&client.server.ip()) {
                self.sockets.get_mut::<Socket<'_>>(connection.socket).abort();
            }
        }
        self.settle(now);
    }

    /// Takes an IP packet that an app sent to port 53 of an address. It is ignored unless the
    /// address is one of the sentinels and the packet TCP. Checksums are not looked at: between
    /// the app and us, nothing corrupts, and some systems leave them out.
    pub fn handle_packet(&mut self, packet: &[u8], now: Instant) {
        if !tcp_destination(packet).is_some_and(|address| self.addresses.contains(&address)) {
            return;
        }
        let time = self.time(now);
        self.wire.received = Some(packet.to_vec());
        self.interface.poll_ingress_single(time, &mut self.wire, &mut self.sockets);
        self.accept(now);
        self.settle(now);
    }

    /// Sends the answer to a query of this connection, if it still stands.
    pub fn answer(&mut self, to: Client, message: &[u8], now: Instant) {
        let Some(connection) = self.connections.get_mut(&to) else { return };
        connection.pending = connection.pending.saturating_sub(1);
        connection.last_active = now;
        match frame(message) {
            Some(framed) if self.unsent + framed.len() <= MAX_UNSENT => {
                self.unsent += framed.len();
                connection.unsent.extend(framed);
            }
            _ => self.sockets.get_mut::<Socket<'_>>(connection.socket).abort(),
        }
        self.settle(now);
    }

    /// Resets a connection that sent something that is no query.
    pub fn reject(&mut self, client: Client, now: Instant) {
        if let Some(connection) = self.connections.get(&client) {
            self.sockets.get_mut::<Socket<'_>>(connection.socket).abort();
        }
        self.settle(now);
    }

    /// Does what is due: retransmissions, and the end of connections that are idle or dead.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.settle(now);
    }

    /// What is next to do. Call it until it returns [`TcpOutput::Timeout`].
    pub fn poll_output(&mut self) -> TcpOutput {
        if let Some(packet) = self.wire.sent.pop_front() {
            return TcpOutput::Packet(packet);
        }
        self.queries.pop_front().unwrap_or(TcpOutput::Timeout(self.due))
    }

    /// Adds a socket for the next connection, if there may be one.
    fn listen(&mut self) {
        if self.listener.is_some() || self.connections.len() >= MAX_CONNECTIONS {
            return;
        }
        let buffer = |size| SocketBuffer::new(vec![0; size]);
        let mut socket = Socket::new(buffer(RECEIVE_BUFFER), buffer(SEND_BUFFER));
        socket.set_nagle_enabled(false);
        // Only fails for port zero, or for a socket that is in use.
        if socket.listen(PORT).is_ok() {
            self.listener = Some(self.sockets.add(socket));
        }
    }

    /// Makes a connection of the listening socket if the last packet opened one.
    fn accept(&mut self, now: Instant) {
        let Some(handle) = self.listener else { return };
        let socket = self.sockets.get::<Socket<'_>>(handle);
        let (Some(local), Some(remote)) = (socket.local_endpoint(), socket.remote_endpoint())
        else {
            return;
        };
        self.listener = None;
        let client = Client {
            server: SocketAddr::new(local.addr.into(), local.port),
            source: SocketAddr::new(remote.addr.into(), remote.port),
            transport: Transport::Tcp,
        };
        if self.connections.contains_key(&client) {
            // A SYN that was repeated, and met the listener first. What it asks for is under way.
            self.sockets.remove(handle);
            return self.listen();
        }
        let connection = Connection::new(handle, now);
        if self.connections.len() + 1 >= MAX_CONNECTIONS {
            let quietest = self.connections.values().min_by_key(|c| c.last_active);
            if let Some(connection) = quietest {
                self.sockets.get_mut::<Socket<'_>>(connection.socket).abort();
            }
        }
        self.connections.insert(client, connection);
    }

    /// Moves everything on as far as it goes, and notes when to come back.
    fn settle(&mut self, now: Instant) {
        let time = self.time(now);
        self.serve(now);
        while self.interface.poll_egress(time, &mut self.wire, &mut self.sockets)
            == PollResult::SocketStateChanged
        {
            self.serve(now);
        }
        self.remove_closed();
        self.listen();

        let protocol = self.interface.poll_at(time, &self.sockets);
        let protocol = protocol.map(|at| self.instant(at).max(now));
        let idle = self.connections.values().map(|c| c.last_active + IDLE_TIMEOUT).min();
        self.due = protocol.into_iter().chain(idle).min();
    }

    /// Takes queries out of connections and puts answers into them.
    fn serve(&mut self, now: Instant) {
        for (client, connection) in &mut self.connections {
            let socket = self.sockets.get_mut::<Socket<'_>>(connection.socket);
            if now >= connection.last_active + IDLE_TIMEOUT {
                // The second time, the other end has not closed in return.
                let is_closing = !socket.may_send();
                if is_closing {
                    socket.abort()
                } else {
                    socket.close()
                }
                connection.last_active = now;
                continue;
            }
            while connection.pending < MAX_PIPELINED && connection.unsent.is_empty() {
                match connection.receive(socket) {
                    Received::Message(message) => {
                        connection.pending += 1;
                        connection.last_active = now;
                        self.queries.push_back(TcpOutput::Query { client: *client, message });
                    }
                    Received::Nothing => break,
                    Received::Rubbish => {
                        socket.abort();
                        break;
                    }
                }
            }
            let sent = connection.send(socket);
            if sent > 0 {
                self.unsent -= sent;
                connection.last_active = now;
            }
            let is_done = connection.pending == 0 && connection.unsent.is_empty();
            if socket.state() == State::CloseWait && is_done {
                socket.close();
            }
        }
    }

    fn remove_closed(&mut self) {
        let Self { connections, sockets, unsent, .. } = self;
        connections.retain(|_, connection| {
            let state = sockets.get::<Socket<'_>>(connection.socket).state();
            let is_over = matches!(state, State::Closed | State::TimeWait);
            if is_over {
                sockets.remove(connection.socket);
                *unsent -= connection.unsent.len();
            }
            !is_over
        });
    }

    fn time(&self, now: Instant) -> SmolInstant {
        SmolInstant::ZERO + smol_duration(now.saturating_duration_since(self.epoch))
    }

    fn instant(&self, time: SmolInstant) -> Instant {
        self.epoch + Duration::from_micros(time.total_micros().try_into().unwrap_or(0))
    }
}

impl fmt::Debug for TcpServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TcpServer")
            .field("addresses", &self.addresses)
            .field("connections", &self.connections.len())
            .finish_non_exhaustive()
    }
}

/// Where a TCP packet goes; `None` for other packets.
fn tcp_destination(packet: &[u8]) -> Option<IpAddr> {
    const TCP: u8 = 6;
    match packet.first()? >> 4 {
        4 if *packet.get(9)? == TCP => {
            let octets: [u8; 4] = packet.get(16..20)?.try_into().ok()?;
            Some(Ipv4Addr::from(octets).into())
        }
        6 if *packet.get(6)? == TCP => {
            let octets: [u8; 16] = packet.get(24..40)?.try_into().ok()?;
            Some(Ipv6Addr::from(octets).into())
        }
        _ => None,
    }
}

fn smol_duration(duration: Duration) -> SmolDuration {
    SmolDuration::from_micros(duration.as_micros().try_into().unwrap_or(u64::MAX))
}
