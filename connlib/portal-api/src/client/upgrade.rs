//! From HTTP to WebSocket (RFC 6455 §4.1).
//!
//! `tungstenite` has this too, but drops the body of a refusal that does not arrive together with its head, and the
//! body says whether to sign in again.

use std::io;
use std::time::{Duration, SystemTime};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::handshake::client::generate_key;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use super::ConnectionError;
use super::connect::{Stream, Target};
use crate::login::{Problem, TOKEN_HEADER};
use crate::wire::shorten;

/// The most that we read of a response's head, and of its body.
const MAX_LEN: usize = 16 << 10;
const MAX_HEADERS: usize = 64;
/// A refusal counts without its body if that does not come.
const BODY_TIMEOUT: Duration = Duration::from_secs(2);

/// Asks for a WebSocket. Returns what arrived already of its first frames.
pub(super) async fn upgrade(
    stream: &mut (impl Stream + ?Sized),
    target: &Target,
    query: &str,
) -> Result<Vec<u8>, ConnectionError> {
    let key = generate_key();
    let request = request(target, query, &key);
    stream.write_all(request.as_bytes()).await.map_err(ConnectionError::Broken)?;
    stream.flush().await.map_err(ConnectionError::Broken)?;

    let mut received = Vec::with_capacity(1024);
    let (head, len) = loop {
        if let Some(head) = Head::parse(&received)? {
            break head;
        }
        if received.len() >= MAX_LEN {
            return Err(ConnectionError::NotAPortal("the head of its response is too long"));
        }
        if read(stream, &mut received).await.map_err(ConnectionError::Broken)? == 0 {
            return Err(ConnectionError::Broken(io::ErrorKind::UnexpectedEof.into()));
        }
    };
    let mut rest = received.split_off(len);
    if head.status == 101 {
        head.verify(&derive_accept_key(key.as_bytes()))?;
        return Ok(rest);
    }
    // Whatever comes of the body is good enough.
    let _ = timeout(BODY_TIMEOUT, read_body(stream, head.body, &mut rest)).await;
    let body = head.body.decode(&rest);
    let problem: Problem = serde_json::from_slice(&body).unwrap_or_default();
    let Problem { kind, title, detail, code, .. } = &problem;
    let [kind, title, detail, code] = [kind, title, detail, code].map(|text| shorten(text));
    let problem = Problem { kind, title, status: head.status, detail, code };
    Err(ConnectionError::Refused { problem, retry_after: head.retry_after })
}

fn request(target: &Target, query: &str, key: &str) -> String {
    let Target { endpoint, user_agent, token, .. } = target;
    let (path, host) = (&endpoint.path, endpoint.host_header());
    let mut request = format!(
        "GET {path}?{query} HTTP/1.1\r\n\
         Host: {host}\r\n\
         Connection: Upgrade\r\n\
         Upgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\n\
         Sec-WebSocket-Key: {key}\r\n\
         User-Agent: {user_agent}\r\n"
    );
    if !token.expose().is_empty() {
        request += &format!("{TOKEN_HEADER}: Bearer {}\r\n", token.expose());
    }
    request + "\r\n"
}

async fn read(stream: &mut (impl Stream + ?Sized), buffer: &mut Vec<u8>) -> io::Result<usize> {
    let mut chunk = [0; 1024];
    let len = stream.read(&mut chunk).await?;
    buffer.extend_from_slice(&chunk[..len]);
    Ok(len)
}

async fn read_body(stream: &mut (impl Stream + ?Sized), body: Body, received: &mut Vec<u8>) {
    while !body.is_complete(received) && received.len() < MAX_LEN {
        match read(stream, received).await {
            Ok(0) | Err(_) => return,
            Ok(_) => {}
        }
    }
}

/// What we need of a response's head.
#[derive(Debug)]
struct Head {
    status: u16,
    upgrades: bool,
    /// Extensions or a subprotocol, neither of which we asked for.
    extended: bool,
    accept: Option<String>,
    retry_after: Option<Duration>,
    body: Body,
}

impl Head {
    /// The head and its length, if it is complete.
    fn parse(received: &[u8]) -> Result<Option<(Self, usize)>, ConnectionError> {
        let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
        let mut response = httparse::Response::new(&mut headers);
        let len = match response.parse(received) {
            Ok(httparse::Status::Complete(len)) => len,
            Ok(httparse::Status::Partial) => return Ok(None),
            Err(_) => return Err(ConnectionError::NotAPortal("it does not speak HTTP")),
        };
        let header = |name: &str| {
            let mut headers = response.headers.iter();
            let header = headers.find(|header| header.name.eq_ignore_ascii_case(name))?;
            std::str::from_utf8(header.value).ok().map(str::trim)
        };
        let lists = |name, token: &str| {
            let tokens = header(name).unwrap_or_default().split(',');
            tokens.map(str::trim).any(|other| other.eq_ignore_ascii_case(token))
        };
        let head = Self {
            status: response.code.unwrap_or_default(),
            upgrades: lists("Upgrade", "websocket") && lists("Connection", "upgrade"),
            extended: header("Sec-WebSocket-Extensions").is_some()
                || header("Sec-WebSocket-Protocol").is_some(),
            accept: header("Sec-WebSocket-Accept").map(str::to_owned),
            retry_after: header("Retry-After")
                .and_then(|text| retry_after(text, SystemTime::now())),
            body: if lists("Transfer-Encoding", "chunked") {
                Body::Chunked
            } else {
                header("Content-Length")
                    .and_then(|len| len.parse().ok())
                    .map_or(Body::UntilEnd, Body::Length)
            },
        };
        Ok(Some((head, len)))
    }

    fn verify(&self, accept: &str) -> Result<(), ConnectionError> {
        if !self.upgrades || self.accept.as_deref() != Some(accept) {
            Err(ConnectionError::NotAPortal("it does not speak WebSocket"))
        } else if self.extended {
            Err(ConnectionError::NotAPortal("it wants extensions of WebSocket"))
        } else {
            Ok(())
        }
    }
}

/// How long a body is (RFC 9112 §6.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Body {
    Length(usize),
    Chunked,
    UntilEnd,
}

impl Body {
    fn is_complete(self, received: &[u8]) -> bool {
        match self {
            Self::Length(len) => received.len() >= len,
            Self::Chunked => dechunk(received).1,
            Self::UntilEnd => false,
        }
    }

    fn decode(self, received: &[u8]) -> Vec<u8> {
        match self {
            Self::Length(len) => received[..len.min(received.len())].to_vec(),
            Self::Chunked => dechunk(received).0,
            Self::UntilEnd => received.to_vec(),
        }
    }
}

/// The content so far, and whether that was all (RFC 9112 §7.1).
fn dechunk(mut rest: &[u8]) -> (Vec<u8>, bool) {
    let mut content = Vec::new();
    while let Ok(httparse::Status::Complete((head, len))) = httparse::parse_chunk_size(rest) {
        if len == 0 {
            return (content, true);
        }
        let start = head.min(rest.len());
        let end = usize::try_from(len).map_or(usize::MAX, |len| start.saturating_add(len));
        content.extend_from_slice(&rest[start..end.min(rest.len())]);
        // The chunk's own line ends behind it.
        rest = rest.get(end.saturating_add(2)..).unwrap_or_default();
    }
    (content, false)
}

/// Seconds, or a date (RFC 9110 §10.2.3).
fn retry_after(text: &str, now: SystemTime) -> Option<Duration> {
    if let Ok(seconds) = text.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let date = httpdate::parse_http_date(text).ok()?;
    Some(date.duration_since(now).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_777);
        for (text, seconds) in [
            ("0", Some(0)),
            ("120", Some(120)),
            ("Sun, 06 Nov 1994 08:49:47 GMT", Some(10)),
            ("Sun, 06 Nov 1994 08:49:27 GMT", Some(0)),
            ("-1", None),
            ("soon", None),
        ] {
            assert_eq!(retry_after(text, now), seconds.map(Duration::from_secs), "{text}");
        }
    }

    #[test]
    fn chunks_are_put_together() {
        let body = b"4;x=y\r\nWiki\r\n6\r\npedia \r\n0\r\n\r\n";
        assert_eq!(dechunk(body), (b"Wikipedia ".to_vec(), true));
        for end in 0..body.len() {
            let (content, _) = dechunk(&body[..end]);
            assert!(b"Wikipedia ".starts_with(&content));
        }
        assert_eq!(dechunk(b"ffffffffffffffff\r\nabc"), (b"abc".to_vec(), false));
        assert_eq!(dechunk(b"no\r\n"), (vec![], false));
    }

    #[test]
    fn a_head_is_read_however_it_is_cut_and_written() {
        let text =
            b"HTTP/1.1 101 Switching\r\nupgrade: WebSocket\r\nCONNECTION: keep-alive, Upgrade\r\n\
                     Sec-WebSocket-Accept: abc\r\n\r\nframes";
        for end in 0..text.len() - 6 {
            assert!(Head::parse(&text[..end]).unwrap().is_none());
        }
        let (head, len) = Head::parse(text).unwrap().unwrap();
        assert_eq!(&text[len..], b"frames");
        assert!(head.verify("abc").is_ok());
        assert!(head.verify("abd").is_err());
        assert!(matches!(Head::parse(b"SSH-2.0-x\r\n"), Err(ConnectionError::NotAPortal(_))));
    }

    #[test]
    fn a_server_may_not_extend_the_protocol() {
        for header in ["Sec-WebSocket-Extensions: x", "Sec-WebSocket-Protocol: x"] {
            let text = format!(
                "HTTP/1.1 101 x\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\
                 Sec-WebSocket-Accept: abc\r\n{header}\r\n\r\n"
            );
            let (head, _) = Head::parse(text.as_bytes()).unwrap().unwrap();
            assert!(head.verify("abc").is_err(), "{header}");
        }
    }
}
