//! A relay's place in a portal: announced by being there, given up before it drains.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};

use connlib_e2e::{Process, wait};
use connlib_portal_api::channel::{Frame, event};
use connlib_portal_api::login::Params;
use nix::sys::signal::Signal;
use tokio_tungstenite::tungstenite::handshake::server::{Request, Response};
use tokio_tungstenite::tungstenite::{Message, WebSocket, accept_hdr};

use super::support::{Network, PEER, RELAY, RELAY6, SOON, text};

/// The portal's end, on the relay's own loopback.
struct Portal(TcpListener);

struct Place {
    query: String,
    token: String,
    socket: WebSocket<TcpStream>,
    secret: String,
}

impl Portal {
    fn start(network: &Network) -> Self {
        Self(network.relay.enter(|| TcpListener::bind("127.0.0.1:9000").unwrap()).unwrap())
    }

    fn next(&self) -> TcpStream {
        let (stream, _) = self.0.accept().unwrap();
        stream.set_read_timeout(Some(SOON)).unwrap();
        stream
    }

    /// Lets the next relay in.
    fn accept(&self) -> Place {
        let (mut query, mut token) = (String::new(), String::new());
        #[allow(clippy::result_large_err)] // The library's choice.
        let upgrade = |request: &Request, response: Response| {
            assert_eq!(request.uri().path(), "/relay/websocket");
            query = request.uri().query().unwrap().to_owned();
            token = request.headers()["X-Authorization"].to_str().unwrap().to_owned();
            Ok(response)
        };
        let mut socket = accept_hdr(self.next(), upgrade).unwrap();
        let join = Frame::parse(socket.read().unwrap().to_text().unwrap()).unwrap();
        assert_eq!((&*join.topic, &*join.event), ("relay", event::JOIN));
        let secret = join.payload["stamp_secret"].as_str().unwrap().to_owned();
        let place = Place { query, token, socket, secret };
        place.answer(&join)
    }
}

impl Place {
    fn answer(mut self, join: &Frame) -> Self {
        self.say(Frame::reply_ok(join).to_text());
        self.say(r#"{"topic":"relay","event":"init","ref":null,"payload":{}}"#.to_owned());
        self
    }

    fn say(&mut self, text: String) {
        self.socket.send(Message::text(text)).unwrap();
    }

    /// Waits for the relay to leave.
    fn wait_for_the_end(mut self) {
        while let Ok(message) = self.socket.read() {
            if message.is_close() {
                return;
            }
        }
    }
}

fn start(network: &Network, more: &[&str]) -> Process {
    let token = network.file("token", ".token\n");
    let options =
        ["--api-url", "ws://127.0.0.1:9000", "--token-file", text(&token), "--name", "frankfurt"];
    network.command().args(options).args(more).spawn_watched("relay").unwrap()
}

fn wait_until_ready(network: &Network, wanted: bool) {
    wait::until("/readyz to change", SOON, || (network.is_ready() == wanted).then_some(()))
        .unwrap();
}

#[test]
fn it_says_where_it_is_and_comes_back() {
    let network = Network::new();
    let portal = Portal::start(&network);
    let mut relay = start(&network, &[]);
    let first = portal.accept();
    let params = Params::from_query(&first.query).unwrap();
    assert_eq!(params.name.as_deref(), Some("frankfurt"));
    assert_eq!(params.ipv4, Some(RELAY.parse().unwrap()));
    assert_eq!(params.ipv6, Some(RELAY6.parse().unwrap()));
    assert_eq!((params.port, &*first.token), (Some(3478), "Bearer .token"));
    assert!(first.secret.len() == 64 && first.secret.bytes().all(|byte| byte.is_ascii_hexdigit()));
    relay.wait_for("ready: joined the portal", SOON).unwrap();
    wait_until_ready(&network, true);

    let secret = first.secret.clone();
    drop(first);
    wait_until_ready(&network, false);
    let second = portal.accept();
    assert_eq!(second.secret, secret, "credentials that were handed out stay good");
    wait_until_ready(&network, true);
    assert_eq!(network.metric("connlib_relay_portal_connected", ""), 1);
}

#[test]
fn it_leaves_before_it_drains() {
    let network = Network::new();
    let _echo = network.echo();
    let portal = Portal::start(&network);
    let users = network.users();
    let mut relay = start(&network, &["--user-file", text(&users), "--listen-tcp", "0.0.0.0:3478"]);
    let place = portal.accept();
    relay.wait_for("ready: joined the portal", SOON).unwrap();
    let client = format!("-t -e {PEER} -c -n 150 -z 20 {RELAY}");
    let _client = network.uclient_command(&client).spawn("client").unwrap();
    network.wait_for_metric_with("connlib_relay_channels", "", |channels| channels >= 1);

    relay.signal(Signal::SIGTERM).unwrap();
    place.wait_for_the_end();
    assert!(network.metric("connlib_relay_channels", "") >= 1, "it still serves");
    assert_eq!(relay.wait(SOON).unwrap().code(), Some(0));
}

#[test]
fn a_token_that_does_not_hold_is_the_end() {
    let network = Network::new();
    let portal = Portal::start(&network);
    let mut relay = start(&network, &[]);
    relay.log().allow("the portal is left");
    let mut stream = portal.next();
    let mut request = Vec::new();
    while !request.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
        request.push(byte[0]);
    }
    let problem = r#"{"type":"about:blank","title":"Unauthorized","status":401,"detail":"unknown","code":"invalid_token"}"#;
    let head =
        "HTTP/1.1 401 Unauthorized\r\nContent-Type: application/problem+json\r\nConnection: close";
    write!(stream, "{head}\r\nContent-Length: {}\r\n\r\n{problem}", problem.len()).unwrap();
    assert_eq!(relay.wait(SOON).unwrap().code(), Some(77));
}
