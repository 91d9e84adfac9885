//! The little HTTP that a WebSocket begins with, and the two health checks.
//!
//! A library for HTTP would bring a connection pool, bodies and timers; this needs one request head.

use std::time::Duration;

use connlib_portal_api::login::{Problem, TOKEN_HEADER};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

/// Bytes of a request head; a token and a device's names fit many times.
const MAX_HEAD: usize = 16 * 1024;
const MAX_HEADERS: usize = 64;

/// The head of a request, as far as it concerns us.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) method: String,
    pub(super) path: String,
    pub(super) query: String,
    pub(super) token: Option<String>,
    /// `Sec-WebSocket-Key`, if the request is a proper upgrade (RFC 6455 §4.2.1).
    pub(super) websocket_key: Option<String>,
}

/// Why there is no request.
#[derive(Debug, thiserror::Error)]
pub(super) enum HeadError {
    #[error("{0}")]
    Io(#[from] std::io::Error),
    #[error("the connection ended within the request")]
    Ended,
    #[error("the request is longer than {MAX_HEAD} bytes")]
    TooLong,
    #[error("not an HTTP request: {0}")]
    Malformed(#[from] httparse::Error),
}

/// Reads a request head. Gives what came after it as well.
pub(super) async fn read_head<S: AsyncRead + Unpin>(
    stream: &mut S,
) -> Result<(Head, Vec<u8>), HeadError> {
    let mut buffer = Vec::with_capacity(1024);
    loop {
        if stream.read_buf(&mut buffer).await? == 0 {
            return Err(HeadError::Ended);
        }
        if let Some((head, length)) = parse(&buffer)? {
            return Ok((head, buffer.split_off(length)));
        }
        if buffer.len() >= MAX_HEAD {
            return Err(HeadError::TooLong);
        }
    }
}

fn parse(bytes: &[u8]) -> Result<Option<(Head, usize)>, httparse::Error> {
    let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut request = httparse::Request::new(&mut headers);
    let httparse::Status::Complete(length) = request.parse(bytes)? else { return Ok(None) };
    let (path, query) = match request.path.unwrap_or_default().split_once('?') {
        Some((path, query)) => (path, query),
        None => (request.path.unwrap_or_default(), ""),
    };
    let header = |name: &str| {
        let mut named = request.headers.iter().filter(|h| h.name.eq_ignore_ascii_case(name));
        named.next().and_then(|header| std::str::from_utf8(header.value).ok()).map(str::trim)
    };
    let lists = |name: &str, word: &str| {
        header(name)
            .is_some_and(|list| list.split(',').any(|w| w.trim().eq_ignore_ascii_case(word)))
    };
    let bearer = |name: &str| {
        let (scheme, token) = header(name)?.split_once(' ')?;
        scheme.eq_ignore_ascii_case("bearer").then(|| token.trim().to_owned())
    };
    let is_upgrade = lists("upgrade", "websocket")
        && lists("connection", "upgrade")
        && header("sec-websocket-version") == Some("13");
    let head = Head {
        method: request.method.unwrap_or_default().to_owned(),
        path: path.to_owned(),
        query: query.to_owned(),
        token: bearer(TOKEN_HEADER).or_else(|| bearer("Authorization")).or_else(|| {
            // Where older peers put it (spec 1.1).
            let mut pairs = form_urlencoded::parse(query.as_bytes());
            pairs.find(|(name, _)| name == "token").map(|(_, token)| token.into_owned())
        }),
        websocket_key: header("sec-websocket-key").filter(|_| is_upgrade).map(str::to_owned),
    };
    Ok(Some((head, length)))
}

/// Why a request is refused (spec 1.4).
#[derive(Debug)]
pub(super) struct Refusal {
    pub(super) problem: Problem,
    pub(super) retry_after: Option<Duration>,
}

impl Refusal {
    pub(super) fn new(status: u16, code: &str, detail: &str) -> Self {
        let problem = Problem::new(status, reason(status), code, detail);
        Self { problem, retry_after: None }
    }

    pub(super) fn retry_after(self, delay: Duration) -> Self {
        Self { retry_after: Some(delay), ..self }
    }
}

fn reason(status: u16) -> &'static str {
    match status {
        101 => "Switching Protocols",
        200 => "OK",
        400 => "Bad Request",
        401 => "Unauthorized",
        402 => "Payment Required",
        404 => "Not Found",
        405 => "Method Not Allowed",
        409 => "Conflict",
        426 => "Upgrade Required",
        503 => "Service Unavailable",
        _ => "Internal Server Error",
    }
}

/// Switches to WebSocket (RFC 6455 §4.2.2).
pub(super) async fn upgrade<S: AsyncWrite + Unpin>(
    stream: &mut S,
    websocket_key: &str,
) -> std::io::Result<()> {
    let accept =
        tokio_tungstenite::tungstenite::handshake::derive_accept_key(websocket_key.as_bytes());
    let head = format!(
        "HTTP/1.1 101 {}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Accept: {accept}\r\n\r\n",
        reason(101)
    );
    stream.write_all(head.as_bytes()).await?;
    stream.flush().await
}

/// Says why not.
pub(super) async fn refuse<S: AsyncWrite + Unpin>(
    stream: &mut S,
    refusal: &Refusal,
) -> std::io::Result<()> {
    let body = serde_json::to_string(&refusal.problem).unwrap_or_default();
    let retry_after =
        refusal.retry_after.map(|delay| format!("Retry-After: {}\r\n", delay.as_secs()));
    let more = retry_after.unwrap_or_default();
    respond(stream, refusal.problem.status, "application/problem+json", &more, &body).await
}

/// A short answer in words.
pub(super) async fn answer<S: AsyncWrite + Unpin>(
    stream: &mut S,
    status: u16,
    text: &str,
) -> std::io::Result<()> {
    respond(stream, status, "text/plain; charset=utf-8", "", text).await
}

async fn respond<S: AsyncWrite + Unpin>(
    stream: &mut S,
    status: u16,
    media_type: &str,
    more: &str,
    body: &str,
) -> std::io::Result<()> {
    let response = format!(
        "HTTP/1.1 {status} {}\r\nContent-Type: {media_type}\r\nContent-Length: {}\r\n\
         Cache-Control: no-store\r\nConnection: close\r\n{more}\r\n{body}",
        reason(status),
        body.len()
    );
    stream.write_all(response.as_bytes()).await?;
    stream.flush().await?;
    stream.shutdown().await
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(more: &str) -> Head {
        let request = format!("GET /client/v2/websocket?name=a HTTP/1.1\r\nHost: p\r\n{more}\r\n");
        parse(request.as_bytes()).unwrap().unwrap().0
    }

    #[test]
    fn the_token_is_found_where_peers_put_it() {
        let token = |more: &str| head(more).token;
        assert_eq!(token("X-Authorization: Bearer .a.b\r\n").as_deref(), Some(".a.b"));
        assert_eq!(token("authorization: bearer .a.b\r\n").as_deref(), Some(".a.b"));
        assert_eq!(token("Authorization: Basic .a.b\r\n"), None);
        assert_eq!(
            token("Authorization: Bearer other\r\nx-authorization: Bearer .a\r\n").as_deref(),
            Some(".a")
        );
        let (old, _) =
            parse(b"GET /relay/websocket?token=.a%2Eb HTTP/1.1\r\n\r\n").unwrap().unwrap();
        assert_eq!(old.token.as_deref(), Some(".a.b"));
        assert_eq!(old.path, "/relay/websocket");
    }

    #[test]
    fn only_a_proper_upgrade_has_a_key() {
        let proper = "Connection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n\
                      Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: k==\r\n";
        assert_eq!(head(proper).websocket_key.as_deref(), Some("k=="));
        for (from, to) in [("Upgrade\r\n", "close\r\n"), (": websocket", ": h2c"), ("13", "8")] {
            assert_eq!(head(&proper.replacen(from, to, 1)).websocket_key, None, "{to}");
        }
    }

    #[tokio::test]
    async fn a_head_comes_in_pieces_and_what_follows_is_kept() {
        let (mut near, mut far) = tokio::io::duplex(8);
        let writer = tokio::spawn(async move {
            far.write_all(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\nrest").await.unwrap();
        });
        let (head, rest) = read_head(&mut near).await.unwrap();
        assert_eq!((head.method.as_str(), head.path.as_str()), ("GET", "/healthz"));
        assert!(b"rest".starts_with(&rest));
        let mut left = rest;
        near.read_to_end(&mut left).await.unwrap();
        assert_eq!(left, b"rest");
        writer.await.unwrap();
    }

    #[tokio::test]
    async fn a_head_without_end_is_refused() {
        let mut endless = tokio::io::repeat(b'a');
        assert!(matches!(read_head(&mut endless).await, Err(HeadError::TooLong)));
        let garbage = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n";
        assert!(matches!(read_head(&mut &garbage[..]).await, Err(HeadError::Malformed(_))));
        assert!(matches!(read_head(&mut &b"GET / HT"[..]).await, Err(HeadError::Ended)));
    }
}
