//! What a client has to be told.

use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;

use futures_util::future::BoxFuture;
use tokio::net::TcpSocket;
use tokio_tungstenite::tungstenite::http::Uri;

use super::Retry;
use crate::Secret;
use crate::login::{Params, UserAgent};
use crate::messages::Role;

/// Where the portal is and who we are.
#[derive(Debug, Clone)]
pub struct Config<R: Role> {
    /// The URL of the API: `wss://api.example`. `http` and `https` mean `ws` and `wss`; the port is 443 if there is
    /// none, for both schemes. The path is put before that of the endpoint.
    pub url: String,
    /// The token. White space is taken out; empty if there is none.
    pub token: Secret,
    /// Who we are.
    pub params: Params,
    /// What runs here.
    pub user_agent: UserAgent,
    /// What to say when we join.
    pub join: R::Join,
    /// For how long to try.
    pub retry: Retry,
    /// Certificates (PEM) to trust beside those of the operating system and the public ones.
    pub extra_ca_file: Option<PathBuf>,
}

/// Where connections come from: by default, the operating system without further ado.
#[derive(Clone)]
pub struct Network {
    /// Finds the addresses of the portal. Must not ask through our own tunnel.
    pub resolver: Arc<dyn Resolve>,
    /// Makes sockets. Must keep them out of our own tunnel (a mark, a protected descriptor).
    pub sockets: Arc<dyn SocketFactory>,
}

/// Finds the addresses of a host; a closure will do.
pub trait Resolve: Send + Sync {
    /// The addresses of this host, never empty.
    fn resolve(&self, host: String) -> BoxFuture<'static, io::Result<Vec<IpAddr>>>;
}

impl<F, T> Resolve for F
where
    F: Fn(String) -> T + Send + Sync,
    T: Future<Output = io::Result<Vec<IpAddr>>> + Send + 'static,
{
    fn resolve(&self, host: String) -> BoxFuture<'static, io::Result<Vec<IpAddr>>> {
        Box::pin(self(host))
    }
}

/// Makes TCP sockets; a closure will do.
pub trait SocketFactory: Send + Sync {
    /// A socket that can connect to this address.
    ///
    /// # Errors
    /// If the operating system refuses.
    fn tcp(&self, remote: SocketAddr) -> io::Result<TcpSocket>;
}

impl<F: Fn(SocketAddr) -> io::Result<TcpSocket> + Send + Sync> SocketFactory for F {
    fn tcp(&self, remote: SocketAddr) -> io::Result<TcpSocket> {
        self(remote)
    }
}

impl Default for Network {
    fn default() -> Self {
        Self { resolver: Arc::new(resolve), sockets: Arc::new(tcp_socket) }
    }
}

async fn resolve(host: String) -> io::Result<Vec<IpAddr>> {
    Ok(tokio::net::lookup_host((host, 0)).await?.map(|address| address.ip()).collect())
}

fn tcp_socket(remote: SocketAddr) -> io::Result<TcpSocket> {
    if remote.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }
}

/// What is wrong with a [`Config`].
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The URL does not parse, or has no host.
    #[error("`{0}` is no URL of a portal: write it like `wss://api.example`")]
    Url(String),
    /// The URL is one of something else.
    #[error("the portal's URL begins with `wss://` or `ws://`, not `{0}://`")]
    Scheme(String),
    /// The token cannot stand in a header.
    #[error("the token has characters that are no visible ASCII")]
    Token,
    /// The file of further certificates is not readable or holds none.
    #[error("cannot read certificates from {}", path.display())]
    ExtraCa {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: rustls::pki_types::pem::Error,
    },
    /// TLS cannot be set up.
    #[error("cannot set up TLS")]
    Tls(#[from] rustls::Error),
}

/// A parsed URL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Endpoint {
    pub(super) tls: bool,
    /// A name or an address, without brackets.
    pub(super) host: String,
    pub(super) port: u16,
    /// Of the request, without the query.
    pub(super) path: String,
}

impl Endpoint {
    pub(super) fn parse(url: &str, path: &str) -> Result<Self, ConfigError> {
        let bad_url = || ConfigError::Url(url.to_owned());
        let uri: Uri = url.trim().parse().map_err(|_| bad_url())?;
        let tls = match uri.scheme_str().ok_or_else(bad_url)? {
            "wss" | "https" => true,
            "ws" | "http" => false,
            other => return Err(ConfigError::Scheme(other.to_owned())),
        };
        let authority = uri.authority().ok_or_else(bad_url)?;
        let host = authority.host().trim_start_matches('[').trim_end_matches(']');
        // `port_u16` is silent about a port that is none.
        let port = match authority.port_u16() {
            Some(port) => port,
            None if authority.as_str() == authority.host() => 443,
            None => return Err(bad_url()),
        };
        if host.is_empty() || port == 0 || authority.as_str().contains('@') {
            return Err(bad_url());
        }
        let base = uri.path().trim_end_matches('/');
        Ok(Self { tls, host: host.to_owned(), port, path: format!("{base}{path}") })
    }

    /// The `Host` header: with the port unless it is the scheme's own.
    pub(super) fn host_header(&self) -> String {
        let Self { host, port, tls, .. } = self;
        let host = if host.contains(':') { format!("[{host}]") } else { host.clone() };
        let default = if *tls { 443 } else { 80 };
        if *port == default { host } else { format!("{host}:{port}") }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_name_an_endpoint() {
        for (url, tls, host, port, path, header) in [
            ("wss://api.example", true, "api.example", 443, "/p", "api.example"),
            ("ws://api.example", false, "api.example", 443, "/p", "api.example:443"),
            ("https://api.example/", true, "api.example", 443, "/p", "api.example"),
            ("http://10.0.0.1:80", false, "10.0.0.1", 80, "/p", "10.0.0.1"),
            ("ws://10.0.0.1:8080/a/b/?x=1", false, "10.0.0.1", 8080, "/a/b/p", "10.0.0.1:8080"),
            ("wss://[2001:db8::1]", true, "2001:db8::1", 443, "/p", "[2001:db8::1]"),
            (" wss://[::1]:8443/x\n", true, "::1", 8443, "/x/p", "[::1]:8443"),
        ] {
            let endpoint = Endpoint::parse(url, "/p").unwrap();
            let expected = Endpoint { tls, host: host.to_owned(), port, path: path.to_owned() };
            assert_eq!(endpoint, expected, "{url}");
            assert_eq!(endpoint.host_header(), header, "{url}");
        }
    }

    #[test]
    fn other_urls_are_refused() {
        for url in [
            "",
            "api.example",
            "/path",
            "wss://",
            "wss:///x",
            "wss://:443",
            "wss://a b",
            "wss://user@api.example",
            "wss://api.example:0",
            "wss://api.example:99999",
            "wss://api.example:",
        ] {
            assert!(matches!(Endpoint::parse(url, "/p"), Err(ConfigError::Url(_))), "{url}");
        }
        let error = Endpoint::parse("ftp://api.example", "/p").unwrap_err();
        assert!(matches!(error, ConfigError::Scheme(scheme) if scheme == "ftp"));
    }
}
