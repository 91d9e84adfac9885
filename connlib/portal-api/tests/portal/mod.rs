//! A portal on loopback that does what the test says, and a client of it.
#![allow(dead_code, unreachable_pub)] // Each test uses its part.

use std::net::SocketAddr;
use std::time::Duration;

use connlib_portal_api::channel::{Frame, event};
use connlib_portal_api::client::{Config, Event, Network, PortalClient, Retry};
use connlib_portal_api::login::{Params, UserAgent};
use connlib_portal_api::messages::client::{ClientRole, FromPortal};
use connlib_portal_api::{PublicKey, Secret};
use futures_util::{SinkExt as _, StreamExt as _};
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::Role;

pub type Client = PortalClient<ClientRole>;

pub const TOKEN: &str = ".token";

pub struct Server {
    listener: TcpListener,
}

/// The server's end of a connection that has been upgraded.
pub struct Peer {
    /// Request line and headers.
    pub request: String,
    socket: WebSocketStream<Box<dyn Stream>>,
}

pub trait Stream: AsyncRead + AsyncWrite + Unpin {}
impl<T: AsyncRead + AsyncWrite + Unpin> Stream for T {}

impl Server {
    pub async fn start() -> Self {
        Self::start_at("127.0.0.1:0".parse().unwrap()).await
    }

    pub async fn start_at(address: SocketAddr) -> Self {
        Self { listener: TcpListener::bind(address).await.unwrap() }
    }

    pub fn address(&self) -> SocketAddr {
        self.listener.local_addr().unwrap()
    }

    pub async fn accept_tcp(&self) -> TcpStream {
        self.listener.accept().await.unwrap().0
    }

    /// Upgrades the next connection.
    pub async fn accept(&self) -> Peer {
        Peer::upgrade(Box::new(self.accept_tcp().await)).await
    }

    /// Upgrades the next connection and lets the client join.
    pub async fn accept_and_join(&self) -> Peer {
        let mut peer = self.accept().await;
        peer.let_join().await;
        peer
    }

    /// Answers the next connection with these pieces of a response, and gives its request.
    pub async fn refuse(&self, pieces: &[&str]) -> String {
        let mut tcp = self.accept_tcp().await;
        tcp.set_nodelay(true).unwrap();
        let request = read_request(&mut tcp).await;
        for piece in pieces {
            tcp.write_all(piece.as_bytes()).await.unwrap();
            tcp.flush().await.unwrap();
            // The client runs in the same thread: it sees each piece alone.
            for _ in 0..10 {
                tokio::task::yield_now().await;
            }
        }
        tcp.shutdown().await.unwrap();
        request
    }
}

impl Peer {
    pub async fn upgrade(mut stream: Box<dyn Stream>) -> Self {
        let request = read_request(&mut stream).await;
        let key = header(&request, "Sec-WebSocket-Key").unwrap();
        let accept = derive_accept_key(key.as_bytes());
        let response = format!(
            "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Accept: {accept}\r\n\r\n"
        );
        stream.write_all(response.as_bytes()).await.unwrap();
        let socket = WebSocketStream::from_raw_socket(stream, Role::Server, None).await;
        Self { request, socket }
    }

    pub async fn let_join(&mut self) {
        let join = self.receive().await;
        assert_eq!((&*join.event, &join.payload), (event::JOIN, &Value::Null));
        self.send(&Frame::reply_ok(&join)).await;
    }

    pub async fn receive(&mut self) -> Frame {
        match self.socket.next().await.unwrap().unwrap() {
            Message::Text(text) => Frame::parse(&text).unwrap(),
            other => panic!("{other:?}"),
        }
    }

    pub async fn send(&mut self, frame: &Frame) {
        self.send_raw(Message::text(frame.to_text())).await;
    }

    pub async fn push(&mut self, event: &str, payload: Value) {
        let frame = Frame {
            topic: "client".into(),
            event: event.to_owned().into(),
            payload,
            reference: None,
        };
        self.send(&frame).await;
    }

    pub async fn send_raw(&mut self, message: Message) {
        self.socket.send(message).await.unwrap();
    }
}

async fn read_request(stream: &mut (impl Stream + ?Sized)) -> String {
    let mut request = Vec::new();
    while !request.ends_with(b"\r\n\r\n") {
        request.push(stream.read_u8().await.unwrap());
    }
    String::from_utf8(request).unwrap()
}

pub fn header<'a>(request: &'a str, name: &str) -> Option<&'a str> {
    request.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
}

pub fn config(url: String) -> Config<ClientRole> {
    Config {
        url,
        token: Secret::new(TOKEN),
        params: Params {
            external_id: Some("device".to_owned()),
            name: Some("my laptop".to_owned()),
            public_key: Some(PublicKey([7; 32])),
            ..Params::default()
        },
        user_agent: UserAgent {
            os: "Debian".to_owned(),
            os_version: "12.0.0".to_owned(),
            component: "headless-client".to_owned(),
            version: "1.5.12".to_owned(),
            arch: "x86_64".to_owned(),
            kernel: None,
        },
        join: (),
        retry: Retry::FOR_EVER,
        extra_ca_file: None,
    }
}

pub fn client(address: SocketAddr) -> Client {
    Client::new(config(format!("ws://{address}")), Network::default()).unwrap()
}

/// A client that has joined.
pub async fn connected(server: &Server) -> (Client, Peer) {
    let mut client = client(server.address());
    let peer = reconnected(&mut client, server).await;
    (client, peer)
}

/// Lets the client join at its next attempt.
pub async fn reconnected(client: &mut Client, server: &Server) -> Peer {
    let (event, peer) =
        within_a_minute(async { tokio::join!(client.next_event(), server.accept_and_join()) })
            .await;
    assert!(matches!(event, Event::Connected), "{event:?}");
    peer
}

/// Runs the client, which has nothing to say, until the other thing is done.
pub async fn while_running<T>(client: &mut Client, other: impl Future<Output = T>) -> T {
    within_a_minute(async {
        tokio::select! {
            event = client.next_event() => panic!("{event:?}"),
            result = other => result,
        }
    })
    .await
}

pub async fn next(client: &mut Client) -> Event<FromPortal> {
    within_a_minute(client.next_event()).await
}

/// Real time: the clock of these tests jumps.
async fn within_a_minute<T>(future: impl Future<Output = T>) -> T {
    let (late, is_late) = tokio::sync::oneshot::channel::<()>();
    std::thread::spawn(move || {
        std::thread::sleep(Duration::from_secs(60));
        let _ = late.send(());
    });
    tokio::select! {
        result = future => result,
        _ = is_late => panic!("nothing happened for a minute"),
    }
}

/// Moves the clock of the runtime, which must be that of one thread.
pub async fn jump(by: Duration) {
    tokio::time::pause();
    tokio::time::advance(by).await;
    tokio::time::resume();
}
