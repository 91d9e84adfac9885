//! Servers that queries are forwarded to.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

use url::Url;

/// A server that queries are forwarded to.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Upstream {
    /// A resolver that speaks DNS over UDP and TCP, nearly always on port 53. An IPv6 link-local
    /// address needs its scope id.
    Do53(SocketAddr),
    /// A resolver that speaks DNS over HTTPS (RFC 8484).
    Doh(DohUrl),
}

impl Upstream {
    /// The resolver at this address, on port 53.
    pub fn at(address: IpAddr) -> Self {
        Self::Do53(SocketAddr::new(address, 53))
    }

    /// Whether `other`, as the source of a response, is this server. Scope ids are ignored: not
    /// every system reports them with a datagram.
    pub(crate) fn is_same_server(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Do53(a), Self::Do53(b)) => a.ip() == b.ip() && a.port() == b.port(),
            _ => self == other,
        }
    }
}

/// What carries a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Transport {
    /// One datagram a message.
    Udp,
    /// A stream of messages, each after its length ([`crate::frame`]).
    Tcp,
    /// One HTTPS request a message.
    Https,
}

/// The address of a DNS-over-HTTPS resolver: `https`, a host, no query and no fragment.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct DohUrl(Url);

/// Why a text is no [`DohUrl`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DohUrlError {
    /// No URL at all.
    #[error("not a URL: {0}")]
    Malformed(#[from] url::ParseError),
    /// Another scheme than `https`.
    #[error("the scheme is '{0}', only https works")]
    Scheme(String),
    /// No host.
    #[error("the URL has no host")]
    NoHost,
    /// Something that doesn't belong there: user name, password, query or fragment.
    #[error("the URL has more than a host, a port and a path")]
    Surplus,
}

impl DohUrl {
    /// The URL, to which a request appends `?dns=`.
    pub fn as_url(&self) -> &Url {
        &self.0
    }
}

impl FromStr for DohUrl {
    type Err = DohUrlError;

    fn from_str(text: &str) -> Result<Self, DohUrlError> {
        let url = Url::parse(text)?;
        if url.scheme() != "https" {
            return Err(DohUrlError::Scheme(url.scheme().to_owned()));
        }
        if url.host_str().is_none_or(str::is_empty) {
            return Err(DohUrlError::NoHost);
        }
        let surplus = url.query().is_some()
            || url.fragment().is_some()
            || !url.username().is_empty()
            || url.password().is_some();
        if surplus { Err(DohUrlError::Surplus) } else { Ok(Self(url)) }
    }
}

impl fmt::Display for DohUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl fmt::Debug for DohUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn doh_urls_are_checked() {
        for text in ["https://dns.quad9.net/dns-query", "https://[2620:fe::fe]:8443/q"] {
            assert_eq!(text.parse::<DohUrl>().unwrap().to_string(), text);
        }
        for (text, error) in [
            ("dns.quad9.net", DohUrlError::Malformed(url::ParseError::RelativeUrlWithoutBase)),
            ("http://dns.quad9.net/dns-query", DohUrlError::Scheme("http".to_owned())),
            ("https://", DohUrlError::Malformed(url::ParseError::EmptyHost)),
            ("https://dns.quad9.net/dns-query?dns=", DohUrlError::Surplus),
            ("https://dns.quad9.net/dns-query#x", DohUrlError::Surplus),
            ("https://me@dns.quad9.net/dns-query", DohUrlError::Surplus),
            ("https://:x@dns.quad9.net/dns-query", DohUrlError::Surplus),
        ] {
            assert_eq!(text.parse::<DohUrl>(), Err(error), "{text}");
        }
    }
}
