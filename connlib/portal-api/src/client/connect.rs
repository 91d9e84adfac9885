//! One attempt: resolve, connect, TLS, upgrade.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::{Role, WebSocketConfig};

use super::config::{Endpoint, Network};
use super::{ConnectionError, upgrade};
use crate::Secret;

/// For the whole attempt.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(15);
/// For one address.
const TCP_TIMEOUT: Duration = Duration::from_secs(5);
/// The most addresses that are tried; all at once.
const MAX_ADDRESSES: usize = 8;
/// Without an acknowledgement for so long, TCP is to give up. By itself it doubles the time between its attempts, and would
/// notice half a minute late that a network is back that was away for half a minute.
#[cfg(any(target_os = "linux", target_os = "android"))]
const UNACKNOWLEDGED_TIMEOUT: Duration = Duration::from_secs(10);
/// An `init` with ten thousand resources has a few MiB.
const MAX_MESSAGE: usize = 16 << 20;
/// Messages are rare and small, and memory is scarce.
const READ_BUFFER: usize = 4 << 10;

/// Everything that attempts have in common.
pub(super) struct Target {
    pub(super) endpoint: Endpoint,
    pub(super) token: Secret,
    pub(super) user_agent: String,
    pub(super) network: Network,
    /// Present if the URL says `wss`.
    pub(super) tls: Option<Arc<rustls::ClientConfig>>,
}

/// With or without TLS.
pub(super) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

pub(super) type Socket = WebSocketStream<Box<dyn Stream>>;

/// Connects to the portal with this query.
pub(super) async fn connect(target: Arc<Target>, query: String) -> Result<Socket, ConnectionError> {
    let attempt = async {
        let tcp = tcp(&target).await?;
        // A message is complete when it is written: do not wait for more.
        tcp.set_nodelay(true).map_err(ConnectionError::Broken)?;
        #[cfg(any(target_os = "linux", target_os = "android"))]
        socket2::SockRef::from(&tcp)
            .set_tcp_user_timeout(Some(UNACKNOWLEDGED_TIMEOUT))
            .map_err(ConnectionError::Broken)?;
        let mut stream: Box<dyn Stream> = match &target.tls {
            None => Box::new(tcp),
            Some(config) => {
                let name = ServerName::try_from(target.endpoint.host.clone())
                    .map_err(|error| ConnectionError::Tls(io::Error::other(error)))?;
                let tls = TlsConnector::from(Arc::clone(config)).connect(name, tcp).await;
                Box::new(tls.map_err(ConnectionError::Tls)?)
            }
        };
        let rest = upgrade::upgrade(&mut stream, &target, &query).await?;
        let config = WebSocketConfig::default()
            .read_buffer_size(READ_BUFFER)
            .max_message_size(Some(MAX_MESSAGE))
            .max_frame_size(Some(MAX_MESSAGE));
        Ok(WebSocketStream::from_partially_read(stream, rest, Role::Client, Some(config)).await)
    };
    timeout(ATTEMPT_TIMEOUT, attempt).await.unwrap_or(Err(ConnectionError::TimedOut))
}

/// The first of the host's addresses that answers.
async fn tcp(target: &Target) -> Result<TcpStream, ConnectionError> {
    let Endpoint { host, port, .. } = &target.endpoint;
    let unresolved = |source| ConnectionError::Resolve { host: host.clone(), source };
    let addresses = match host.parse::<IpAddr>() {
        Ok(address) => vec![address],
        Err(_) => target.network.resolver.resolve(host.clone()).await.map_err(unresolved)?,
    };
    let mut attempts: FuturesUnordered<_> = addresses
        .into_iter()
        .take(MAX_ADDRESSES)
        .map(|address| SocketAddr::new(address, *port))
        .map(|address| async move { (address, tcp_to(target, address).await) })
        .collect();
    let mut error = unresolved(io::Error::new(io::ErrorKind::NotFound, "it has no address"));
    while let Some((address, result)) = attempts.next().await {
        match result {
            Ok(stream) => return Ok(stream),
            Err(source) => error = ConnectionError::Tcp { address, source },
        }
    }
    Err(error)
}

async fn tcp_to(target: &Target, address: SocketAddr) -> io::Result<TcpStream> {
    let socket = target.network.sockets.tcp(address)?;
    timeout(TCP_TIMEOUT, socket.connect(address)).await?
}
