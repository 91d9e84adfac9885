//! DNS over HTTPS (RFC 8484): one connection per resolver, kept and made anew when it breaks.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use connlib_dns::DohUrl;
use connlib_portal_api::client::{Network, tls_config};
use futures_util::future::select_ok;
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1;
use hyper::header::{ACCEPT, CONTENT_TYPE, HOST};
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::sync::{OnceCell, mpsc, oneshot};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::ClientConfig;
use tokio_rustls::rustls::pki_types::ServerName;

/// What questions and answers are sent as (RFC 8484 §6).
const MEDIA_TYPE: &str = "application/dns-message";

/// No DNS message is longer.
const MAX_ANSWER: usize = 65_535;

/// For the head of an answer.
const MAX_HEAD: usize = 16 << 10;

/// The most addresses of a resolver that are tried; all at once.
const MAX_ADDRESSES: usize = 8;

/// Questions that wait for one resolver. HTTP/1.1 answers them one after the other.
const MAX_WAITING: usize = 64;

/// For one answer, with what it takes to connect.
const PATIENCE: Duration = Duration::from_secs(5);

/// A connection that is used no more is closed.
const IDLE: Duration = Duration::from_secs(120);

/// Resolvers that are asked by HTTPS.
pub(crate) struct Https {
    connector: Arc<Connector>,
    resolvers: HashMap<DohUrl, mpsc::Sender<Question>>,
}

struct Question {
    message: Vec<u8>,
    answer: oneshot::Sender<io::Result<Vec<u8>>>,
}

impl Https {
    /// `network` must keep out of our own tunnel. `extra_ca_file` holds certificates to trust beside the system's.
    pub(crate) fn new(network: Network, extra_ca_file: Option<PathBuf>) -> Self {
        let connector = Connector { network, extra_ca_file, tls: OnceCell::new() };
        Self { connector: Arc::new(connector), resolvers: HashMap::new() }
    }

    /// Asks a resolver. If too many questions wait for it already, there is no answer.
    pub(crate) fn ask(
        &mut self,
        url: &DohUrl,
        message: Vec<u8>,
    ) -> oneshot::Receiver<io::Result<Vec<u8>>> {
        let (answer, answered) = oneshot::channel();
        self.resolvers.retain(|_, questions| !questions.is_closed());
        let questions = self.resolvers.entry(url.clone()).or_insert_with(|| {
            let (sender, questions) = mpsc::channel(MAX_WAITING);
            let (connector, url) = (Arc::clone(&self.connector), url.clone());
            tokio::spawn(Resolver { connector, url, connection: None }.serve(questions));
            sender
        });
        // Without room, the question is dropped, which its receiver notices.
        let _ = questions.try_send(Question { message, answer });
        answered
    }

    /// Leaves all connections: the next questions connect anew.
    pub(crate) fn reset(&mut self) {
        self.resolvers.clear();
    }
}

type Connection = http1::SendRequest<Empty<Bytes>>;

struct Resolver {
    connector: Arc<Connector>,
    url: DohUrl,
    connection: Option<Connection>,
}

impl Resolver {
    async fn serve(mut self, mut questions: mpsc::Receiver<Question>) {
        while let Ok(Some(question)) = timeout(IDLE, questions.recv()).await {
            if question.answer.is_closed() {
                continue;
            }
            // What is given up here takes the connection with it.
            let asked = timeout(PATIENCE, self.ask(&question.message)).await;
            let result = asked.unwrap_or_else(|_| {
                // They would wait as long in vain: whoever asks again later tries again.
                while questions.try_recv().is_ok() {}
                Err(io::ErrorKind::TimedOut.into())
            });
            // Nobody may want to know any more.
            let _ = question.answer.send(result);
        }
    }

    async fn ask(&mut self, message: &[u8]) -> io::Result<Vec<u8>> {
        let request = request(&self.url, message)?;
        let response = match self.connection.take() {
            // The resolver may have closed what was kept, and to ask it twice does no harm.
            Some(kept) => match send(kept, request.clone()).await {
                Ok(response) => response,
                Err(_) => send(self.connector.connect(&self.url).await?, request).await?,
            },
            None => send(self.connector.connect(&self.url).await?, request).await?,
        };
        let (connection, response) = response;
        let message = read(response).await?;
        self.connection = Some(connection);
        Ok(message)
    }
}

/// RFC 8484 §4.1.
fn request(url: &DohUrl, message: &[u8]) -> io::Result<Request<Empty<Bytes>>> {
    let url = url.as_url();
    Request::get(format!("{}?dns={}", url.path(), BASE64_URL_SAFE_NO_PAD.encode(message)))
        .header(HOST, url.authority())
        .header(ACCEPT, MEDIA_TYPE)
        .body(Empty::new())
        .map_err(io::Error::other)
}

async fn send(
    mut connection: Connection,
    request: Request<Empty<Bytes>>,
) -> io::Result<(Connection, Response<Incoming>)> {
    connection.ready().await.map_err(io::Error::other)?;
    let response = connection.send_request(request).await.map_err(io::Error::other)?;
    Ok((connection, response))
}

async fn read(response: Response<Incoming>) -> io::Result<Vec<u8>> {
    let status = response.status();
    if status != StatusCode::OK {
        return Err(io::Error::other(format!("the resolver answered {status}")));
    }
    let content_type = response.headers().get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let essence = content_type.and_then(|value| value.split(';').next()).unwrap_or_default();
    if !essence.trim().eq_ignore_ascii_case(MEDIA_TYPE) {
        return Err(io::Error::other(format!("the resolver answered with {content_type:?}")));
    }
    let body = Limited::new(response.into_body(), MAX_ANSWER).collect().await;
    Ok(body.map_err(io::Error::other)?.to_bytes().into())
}

/// Makes connections.
struct Connector {
    network: Network,
    extra_ca_file: Option<PathBuf>,
    /// Most networks have no need of it, and it is large.
    tls: OnceCell<Arc<ClientConfig>>,
}

impl Connector {
    async fn connect(&self, url: &DohUrl) -> io::Result<Connection> {
        let stream = TokioIo::new(self.tls(url).await?);
        let mut builder = http1::Builder::new();
        let handshake = builder.max_buf_size(MAX_HEAD).handshake(stream);
        let (connection, driver) = handshake.await.map_err(io::Error::other)?;
        tokio::spawn(async move {
            // Ends with the connection's other half, at the latest.
            if let Err(error) = driver.await {
                tracing::debug!(%error, "lost a resolver's connection");
            }
        });
        Ok(connection)
    }

    async fn tls(&self, url: &DohUrl) -> io::Result<TlsStream<TcpStream>> {
        let url = url.as_url();
        let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']).to_owned();
        let port = url.port_or_known_default().unwrap_or(443);
        let name = ServerName::try_from(host.clone()).map_err(io::Error::other)?;
        let config = Arc::clone(self.tls.get_or_try_init(|| self.config()).await?);
        let tcp = self.tcp(host, port).await?;
        // A question is complete when it is written: do not wait for more.
        tcp.set_nodelay(true)?;
        TlsConnector::from(config).connect(name, tcp).await
    }

    async fn tcp(&self, host: String, port: u16) -> io::Result<TcpStream> {
        let addresses = self.network.resolver.resolve(host).await?;
        let attempts = addresses.into_iter().take(MAX_ADDRESSES).map(|ip| {
            Box::pin(async move {
                let address = SocketAddr::new(ip, port);
                self.network.sockets.tcp(address)?.connect(address).await
            })
        });
        let mut attempts = attempts.peekable();
        if attempts.peek().is_none() {
            return Err(io::Error::new(io::ErrorKind::NotFound, "the resolver has no address"));
        }
        Ok(select_ok(attempts).await?.0)
    }

    async fn config(&self) -> io::Result<Arc<ClientConfig>> {
        let extra_ca_file = self.extra_ca_file.clone();
        // Reads files.
        tokio::task::spawn_blocking(move || tls_config(extra_ca_file.as_deref()))
            .await?
            .map_err(io::Error::other)
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::io::Write as _;
    use std::net::Ipv4Addr;
    use std::sync::Mutex;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use http_body_util::Full;
    use hyper::server::conn::http1::Builder;
    use hyper::service::service_fn;
    use tokio::net::TcpListener;
    use tokio::task::JoinSet;
    use tokio_rustls::TlsAcceptor;
    use tokio_rustls::rustls::pki_types::PrivateKeyDer;
    use tokio_rustls::rustls::{ServerConfig, crypto};

    use super::*;

    #[tokio::test]
    async fn questions_share_a_connection() {
        let server = Server::start().await;
        let mut https = server.https();
        let (one, other) =
            (https.ask(&server.url, b"one".into()), https.ask(&server.url, b"other".into()));
        assert_eq!(one.await.unwrap().unwrap(), b"answer to one");
        assert_eq!(other.await.unwrap().unwrap(), b"answer to other");
        assert_eq!(server.connections(), 1);
    }

    #[tokio::test]
    async fn a_connection_that_is_gone_is_made_anew() {
        let server = Server::start().await;
        let mut https = server.https();
        https.ask(&server.url, b"one".into()).await.unwrap().unwrap();

        server.hang_up().await;
        let answer = https.ask(&server.url, b"two".into()).await.unwrap();
        assert_eq!(answer.unwrap(), b"answer to two");
        assert_eq!(server.connections(), 2);

        https.reset();
        https.ask(&server.url, b"three".into()).await.unwrap().unwrap();
        assert_eq!(server.connections(), 3);

        let answer = https.ask(&server.url, b"good-bye".into()).await.unwrap();
        assert_eq!(answer.unwrap(), b"answer to good-bye");
        https.ask(&server.url, b"five".into()).await.unwrap().unwrap();
        assert_eq!(server.connections(), 4);
    }

    #[tokio::test]
    async fn what_is_no_answer_is_refused() {
        let server = Server::start().await;
        let mut https = server.https();
        for (question, reason) in [
            ("missing", "the resolver answered 404 Not Found"),
            ("text", "the resolver answered with Some(\"text/plain\")"),
            ("long", "length limit exceeded"),
        ] {
            let error = https.ask(&server.url, question.into()).await.unwrap().unwrap_err();
            assert_eq!(error.to_string(), reason);
        }
        https.ask(&server.url, b"the longest".into()).await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn a_stranger_is_not_asked() {
        let server = Server::start().await;
        let mut https = Https::new(loopback(), None);
        let error = https.ask(&server.url, b"one".into()).await.unwrap().unwrap_err();
        assert!(error.to_string().contains("UnknownIssuer"), "{error}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_resolver_that_is_silent_holds_nobody_up() {
        let silent = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let port = silent.local_addr().unwrap().port();
        let url: DohUrl = format!("https://doh.test:{port}/").parse().unwrap();
        let mut https = Https::new(loopback(), None);

        let asked = https.ask(&url, b"one".into());
        tokio::task::yield_now().await;
        let mut waiting: Vec<_> =
            (0..MAX_WAITING).map(|_| https.ask(&url, b"more".into())).collect();
        let mut surplus = https.ask(&url, b"too many".into());
        surplus.try_recv().expect_err("there was room for more");

        assert_eq!(asked.await.unwrap().unwrap_err().kind(), io::ErrorKind::TimedOut);
        for answer in &mut waiting {
            answer.await.expect_err("an answer of a resolver that is silent");
        }
    }

    #[test]
    fn a_question_stands_in_the_url() {
        let url = "https://[2001:db8::1]:8443/dns-query".parse().unwrap();
        // RFC 8484 §4.1.1.
        let message = BASE64_URL_SAFE_NO_PAD.decode("AAABAAABAAAAAAAAA3d3dwdleGFtcGxlA2NvbQAAAQAB");
        let request = request(&url, &message.unwrap()).unwrap();
        assert_eq!(request.uri(), "/dns-query?dns=AAABAAABAAAAAAAAA3d3dwdleGFtcGxlA2NvbQAAAQAB");
        assert_eq!(request.headers()[HOST], "[2001:db8::1]:8443");
        assert_eq!(request.headers()[ACCEPT], "application/dns-message");
    }

    fn loopback() -> Network {
        Network {
            resolver: Arc::new(|host| async move {
                assert_eq!(host, "doh.test");
                Ok(vec![Ipv4Addr::LOCALHOST.into()])
            }),
            ..Network::default()
        }
    }

    struct Server {
        url: DohUrl,
        certificate: tempfile::NamedTempFile,
        connections: Arc<Mutex<JoinSet<()>>>,
        count: Arc<AtomicUsize>,
    }

    impl Server {
        async fn start() -> Self {
            let certified = rcgen::generate_simple_self_signed(["doh.test".to_owned()]).unwrap();
            let mut certificate = tempfile::NamedTempFile::new().unwrap();
            certificate.write_all(certified.cert.pem().as_bytes()).unwrap();
            let key = PrivateKeyDer::Pkcs8(certified.signing_key.serialize_der().into());
            let config =
                ServerConfig::builder_with_provider(crypto::ring::default_provider().into())
                    .with_safe_default_protocol_versions()
                    .unwrap()
                    .with_no_client_auth()
                    .with_single_cert(vec![certified.cert.der().clone()], key)
                    .unwrap();
            let acceptor = TlsAcceptor::from(Arc::new(config));
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
            let port = listener.local_addr().unwrap().port();
            let server = Self {
                url: format!("https://doh.test:{port}/dns-query").parse().unwrap(),
                certificate,
                connections: Arc::default(),
                count: Arc::default(),
            };
            let (connections, count) = (Arc::clone(&server.connections), Arc::clone(&server.count));
            tokio::spawn(async move {
                loop {
                    let (tcp, _) = listener.accept().await.unwrap();
                    count.fetch_add(1, Ordering::Relaxed);
                    let acceptor = acceptor.clone();
                    connections.lock().unwrap().spawn(async move {
                        let Ok(tls) = acceptor.accept(tcp).await else { return };
                        let service =
                            service_fn(async |request| Ok::<_, Infallible>(answer(&request)));
                        // Fails when the client hangs up.
                        let _ = Builder::new().serve_connection(TokioIo::new(tls), service).await;
                    });
                }
            });
            server
        }

        fn https(&self) -> Https {
            Https::new(loopback(), Some(self.certificate.path().to_owned()))
        }

        fn connections(&self) -> usize {
            self.count.load(Ordering::Relaxed)
        }

        /// Ends all connections without a word.
        async fn hang_up(&self) {
            let mut connections = std::mem::take(&mut *self.connections.lock().unwrap());
            connections.shutdown().await;
        }
    }

    fn answer(request: &Request<Incoming>) -> Response<Full<Bytes>> {
        assert_eq!(request.uri().path(), "/dns-query");
        assert_eq!(request.headers()[ACCEPT], MEDIA_TYPE);
        let question = request.uri().query().unwrap().strip_prefix("dns=").unwrap();
        let question = BASE64_URL_SAFE_NO_PAD.decode(question).unwrap();
        let question = String::from_utf8(question).unwrap();
        let response = Response::builder().header(CONTENT_TYPE, MEDIA_TYPE);
        let (response, body) = match question.as_str() {
            "missing" => (response.status(404), vec![0]),
            "text" => (Response::builder().header(CONTENT_TYPE, "text/plain"), vec![0]),
            "long" => (response, vec![0; MAX_ANSWER + 1]),
            "the longest" => (response, vec![0; MAX_ANSWER]),
            "good-bye" => {
                (response.header("connection", "close"), format!("answer to {question}").into())
            }
            _ => (response, format!("answer to {question}").into()),
        };
        response.body(Full::from(body)).unwrap()
    }
}
