//! A peer over a real WebSocket that knows nothing but frames.

use std::net::SocketAddr;

use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::tungstenite::http::HeaderValue;
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_tungstenite::{WebSocketStream, client_async};

use futures_util::{SinkExt as _, StreamExt as _};

use crate::program::DEADLINE;

pub(crate) struct Peer<S = TcpStream> {
    pub(crate) socket: WebSocketStream<S>,
    topic: &'static str,
    last_ref: u64,
}

/// What a peer of that role appends to its path.
pub(crate) fn query(external_id: &str, key: u8) -> String {
    let key = connlib_portal_api::PublicKey([key; 32]).to_base64().replace('=', "%3D");
    format!("external_id={external_id}&name=x&public_key={}", key.replace('+', "%2B"))
}

impl Peer {
    pub(crate) async fn connect(
        address: SocketAddr,
        topic: &'static str,
        path: &str,
        token: &str,
    ) -> Result<Self, Error> {
        let stream = TcpStream::connect(address).await.expect("a connection");
        Peer::connect_over(stream, topic, path, token).await
    }

    /// A client that has joined. Gives its `init` as well.
    pub(crate) async fn client(address: SocketAddr, token: &str, key: u8) -> (Self, Value) {
        let path = format!("/client/v2/websocket?{}", query("device", key));
        let mut peer = Self::connect(address, "client", &path, token).await.expect("an upgrade");
        let init = peer.join(Value::Null).await;
        (peer, init)
    }

    /// A gateway that has joined. Gives its `init` as well.
    pub(crate) async fn gateway(address: SocketAddr, token: &str, key: u8) -> (Self, Value) {
        let path = format!("/gateway/v2/websocket?{}", query("machine", key));
        let mut peer = Self::connect(address, "gateway", &path, token).await.expect("an upgrade");
        let init = peer.join(Value::Null).await;
        (peer, init)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Peer<S> {
    pub(crate) async fn connect_over(
        stream: S,
        topic: &'static str,
        path: &str,
        token: &str,
    ) -> Result<Self, Error> {
        let mut request = format!("ws://portal.test{path}").into_client_request()?;
        let bearer = HeaderValue::from_str(&format!("Bearer {token}")).expect("a header");
        request.headers_mut().insert("X-Authorization", bearer);
        let (socket, _) = client_async(request, stream).await?;
        Ok(Self { socket, topic, last_ref: 0 })
    }

    pub(crate) async fn join(&mut self, payload: Value) -> Value {
        self.say("phx_join", payload).await;
        assert_eq!(self.hear("phx_reply").await["status"], "ok");
        self.hear("init").await
    }

    pub(crate) async fn say(&mut self, event: &str, payload: Value) {
        let frame = json!({
            "topic": self.topic, "event": event, "payload": payload, "ref": self.last_ref,
        });
        self.last_ref += 1;
        self.send(&frame).await;
    }

    pub(crate) async fn send(&mut self, frame: &Value) {
        self.try_send(frame).await.expect("a write");
    }

    /// Fails if the portal hangs up before all is written.
    pub(crate) async fn try_send(&mut self, frame: &Value) -> Result<(), Error> {
        self.socket.send(Message::text(frame.to_string())).await
    }

    /// The payload of the next frame, which must be of this event.
    pub(crate) async fn hear(&mut self, event: &str) -> Value {
        let frame = self.next_frame().await;
        assert_eq!(frame["event"], event, "{frame}");
        frame["payload"].clone()
    }

    pub(crate) async fn next_frame(&mut self) -> Value {
        match self.next().await {
            Some(Ok(Message::Text(text))) => serde_json::from_str(&text).expect("JSON"),
            other => panic!("not a frame: {other:?}"),
        }
    }

    /// The close code that comes next, after frames of no interest.
    pub(crate) async fn closed(&mut self) -> u16 {
        loop {
            match self.next().await {
                Some(Ok(Message::Close(Some(frame)))) => return frame.code.into(),
                Some(Ok(_)) => {}
                other => panic!("not closed: {other:?}"),
            }
        }
    }

    pub(crate) async fn next(&mut self) -> Option<Result<Message, Error>> {
        timeout(DEADLINE, self.socket.next()).await.expect("something in time")
    }
}
