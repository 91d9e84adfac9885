//! One address on which clients ask.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use connlib_dns::{Client, Deframer, MAX_QUERY_LEN, Query, Transport, frame};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

/// An address may not be usable at once. The pause between attempts doubles: the last is after 25 s.
const BIND_ATTEMPTS: u32 = 9;
const BIND_PAUSE: Duration = Duration::from_millis(100);

/// TCP connections of all clients together, and of one. Further ones are closed at once.
const MAX_CONNECTIONS: usize = 256;
const CONNECTIONS_PER_CLIENT: usize = 16;

/// Answers that wait to be written to a connection. As many as a client may have under way.
const OUTBOX: usize = super::IN_FLIGHT_PER_CLIENT;

/// A connection on which nothing happens for so long is closed.
const IDLE: Duration = Duration::from_secs(15);

/// After an error of a socket, so that one that lasts does not keep us busy.
const PAUSE_AFTER_ERROR: Duration = Duration::from_millis(100);

/// A query, and the way back for its answer.
pub(super) struct Asked {
    pub(super) client: Client,
    pub(super) query: Query,
    pub(super) reply: Reply,
}

/// The way back for an answer.
pub(super) enum Reply {
    Udp(Arc<UdpSocket>),
    Tcp(mpsc::Sender<Vec<u8>>),
}

impl Reply {
    /// Sends the answer. Lost, as on the way, if nobody takes it.
    pub(super) fn send(&self, to: SocketAddr, message: Vec<u8>) {
        let is_sent = match self {
            Self::Udp(socket) => socket.try_send_to(&message, to).is_ok(),
            Self::Tcp(connection) => connection.try_send(message).is_ok(),
        };
        if !is_sent {
            tracing::debug!("a client did not take a DNS answer");
        }
    }
}

/// Takes the queries of clients by UDP and TCP. Ends only if it cannot have the address.
pub(super) async fn serve(
    address: SocketAddr,
    is_client: fn(IpAddr) -> bool,
    queries: mpsc::Sender<Asked>,
) {
    match bind(address).await {
        Ok((udp, tcp)) => {
            tracing::debug!(%address, "answering DNS queries of clients");
            let tcp = TcpServer {
                listener: tcp,
                address,
                is_client,
                queries: queries.clone(),
                connections: JoinSet::new(),
                by_client: HashMap::new(),
            };
            tokio::join!(serve_udp(udp, address, is_client, queries), tcp.serve());
        }
        Err(error) => {
            tracing::info!(%address, %error, "SRV and TXT queries of clients are not answered here");
        }
    }
}

async fn bind(address: SocketAddr) -> io::Result<(UdpSocket, TcpListener)> {
    let mut pause = BIND_PAUSE;
    for _ in 1..BIND_ATTEMPTS {
        match bind_once(address).await {
            Ok(sockets) => return Ok(sockets),
            Err(error) => tracing::debug!(%address, %error, "cannot listen yet"),
        }
        sleep(pause).await;
        pause *= 2;
    }
    bind_once(address).await
}

async fn bind_once(address: SocketAddr) -> io::Result<(UdpSocket, TcpListener)> {
    Ok((UdpSocket::bind(address).await?, TcpListener::bind(address).await?))
}

async fn serve_udp(
    socket: UdpSocket,
    address: SocketAddr,
    is_client: fn(IpAddr) -> bool,
    queries: mpsc::Sender<Asked>,
) {
    let socket = Arc::new(socket);
    let mut buffer = [0; MAX_QUERY_LEN];
    loop {
        let (message, source) = match socket.recv_from(&mut buffer).await {
            Ok((len, source)) => (buffer.get(..len).unwrap_or_default(), source),
            Err(error) => {
                tracing::debug!(%error, "cannot receive DNS queries");
                sleep(PAUSE_AFTER_ERROR).await;
                continue;
            }
        };
        // The network behind us can reach the address as well, but is not served.
        if !is_client(source.ip()) {
            continue;
        }
        match Query::parse(message) {
            Ok(query) => {
                let client = Client { server: address, source, transport: Transport::Udp };
                let reply = Reply::Udp(socket.clone());
                if queries.send(Asked { client, query, reply }).await.is_err() {
                    return;
                }
            }
            Err(error) => tracing::debug!(%error, "dropped a malformed DNS query"),
        }
    }
}

struct TcpServer {
    listener: TcpListener,
    address: SocketAddr,
    is_client: fn(IpAddr) -> bool,
    queries: mpsc::Sender<Asked>,
    connections: JoinSet<IpAddr>,
    by_client: HashMap<IpAddr, usize>,
}

impl TcpServer {
    async fn serve(mut self) {
        loop {
            tokio::select! {
                accepted = self.listener.accept() => match accepted {
                    Ok((stream, source)) => self.handle_connection(stream, source),
                    Err(error) => {
                        tracing::debug!(%error, "cannot accept DNS connections");
                        sleep(PAUSE_AFTER_ERROR).await;
                    }
                },
                Some(Ok(ended)) = self.connections.join_next() => self.forget(ended),
            }
        }
    }

    fn handle_connection(&mut self, stream: TcpStream, source: SocketAddr) {
        let count = self.by_client.get(&source.ip()).copied().unwrap_or_default();
        if !(self.is_client)(source.ip())
            || count >= CONNECTIONS_PER_CLIENT
            || self.connections.len() >= MAX_CONNECTIONS
        {
            tracing::debug!(count, "closed a DNS connection at once");
            return;
        }
        self.by_client.insert(source.ip(), count + 1);
        let client = Client { server: self.address, source, transport: Transport::Tcp };
        let queries = self.queries.clone();
        self.connections.spawn(async move {
            if let Err(error) = converse(stream, client, queries).await {
                tracing::debug!(%error, "a DNS connection broke");
            }
            source.ip()
        });
    }

    fn forget(&mut self, client: IpAddr) {
        if let Some(count) = self.by_client.get_mut(&client) {
            *count -= 1;
            if *count == 0 {
                self.by_client.remove(&client);
            }
        }
    }
}

/// Takes the queries of one connection and writes their answers, in whatever order they come.
async fn converse(
    mut stream: TcpStream,
    client: Client,
    queries: mpsc::Sender<Asked>,
) -> io::Result<()> {
    let (mut reader, mut writer) = stream.split();
    let (replies, mut outbox) = mpsc::channel(OUTBOX);
    // None once the client has said all: what it asked for is still answered (RFC 7766 §6.2.4).
    let mut replies = Some(replies);
    let mut deframer = Deframer::new(MAX_QUERY_LEN);
    let mut buffer = [0; MAX_QUERY_LEN];
    loop {
        tokio::select! {
            read = reader.read(&mut buffer), if replies.is_some() => {
                let len = read?;
                let Some(reply) = replies.as_ref().filter(|_| len > 0) else {
                    replies = None;
                    continue;
                };
                let mut received = buffer.get(..len).unwrap_or_default();
                while let Some(message) = deframer.next_message(&mut received).map_err(malformed)? {
                    let query = Query::parse(&message).map_err(malformed)?;
                    let reply = Reply::Tcp(reply.clone());
                    if queries.send(Asked { client, query, reply }).await.is_err() {
                        return Ok(());
                    }
                }
            }
            answer = outbox.recv() => {
                let Some(answer) = answer else { return Ok(()) };
                let framed = frame(&answer).ok_or_else(|| malformed("the answer is too long"))?;
                timeout(IDLE, writer.write_all(&framed)).await??;
            }
            () = sleep(IDLE) => return Ok(()),
        }
    }
}

fn malformed(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}
