use std::sync::Arc;
use std::time::Duration;

use connlib_portal_api::client::Network;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::PrivateKeyDer;

use super::*;

/// Nothing here takes longer unless it hangs.
const SOON: Duration = Duration::from_secs(30);

/// What a stream has told.
#[derive(Debug, PartialEq)]
enum Told {
    Opened(SocketAddr),
    Messages(Vec<Vec<u8>>),
    Closed,
}

fn streams() -> Streams {
    Streams::new(Connector::new(Network::default().sockets))
}

async fn listen() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

async fn next(streams: &mut Streams) -> Vec<Told> {
    timeout(SOON, streams.ready()).await.expect("something happens");
    let mut told = Vec::new();
    streams.take(|event| {
        told.push(match event {
            StreamEvent::Opened { local, .. } => Told::Opened(local),
            StreamEvent::Received(run) => {
                Told::Messages(run.datagrams().map(|message| message.to_vec()).collect())
            }
            StreamEvent::Closed(_) => Told::Closed,
        });
    });
    told
}

/// A stream to a relay that is on the other end of this connection.
async fn connected() -> (Streams, TcpStream, Path) {
    let (listener, address) = listen().await;
    let mut streams = streams();
    streams.handle(StreamRequest::Open(StreamServer::Tcp(address)));
    let told = next(&mut streams).await;
    let (relay, client) = listener.accept().await.unwrap();
    assert_eq!(told, [Told::Opened(client)]);
    (streams, relay, Path { local: Some(client), remote: address })
}

#[tokio::test]
async fn messages_come_as_they_were_sent_however_they_arrive() {
    let (mut streams, mut relay, _) = connected().await;
    let long = [b"\x40\x01\xff\xff".as_slice(), &[7; 65_536]].concat();
    let messages: [&[u8]; 5] = [
        b"\x40\x01\x00\x02ab\0\0",
        b"\x40\x01\x00\x02cd\0\0",
        b"\0\x01\0\0\x21\x12\xa4\x42 transaction",
        b"\x40\x02\x00\x00",
        &long,
    ];
    let bytes = messages.concat();
    let mut received = Vec::new();
    for piece in [&bytes[..3], &bytes[3..9], &bytes[9..1000], &bytes[1000..]] {
        relay.write_all(piece).await.unwrap();
        tokio::task::yield_now().await;
    }
    while received.len() < messages.len() {
        for told in next(&mut streams).await {
            let Told::Messages(messages) = told else { panic!("{told:?}") };
            received.extend(messages);
        }
    }
    assert_eq!(received, messages);

    drop(relay);
    assert_eq!(next(&mut streams).await, [Told::Closed]);
}

#[tokio::test]
async fn what_is_sent_is_padded_and_what_has_no_room_is_counted() {
    let (mut streams, mut relay, path) = connected().await;
    let elsewhere = Path { local: path.local, remote: "127.0.0.1:1".parse().unwrap() };
    assert_eq!(streams.send(elsewhere, 5, b"12345"), None, "not a stream's");
    assert_eq!(
        streams.send(path, 5, b"\x40\x01\x00\x01a\x40\x01\x00\x01b\x40\x01\x00\x00"),
        Some(0)
    );
    timeout(SOON, streams.flush()).await.unwrap();
    let mut bytes = [0; 20];
    relay.read_exact(&mut bytes).await.unwrap();
    assert_eq!(&bytes, b"\x40\x01\x00\x01a\0\0\0\x40\x01\x00\x01b\0\0\0\x40\x01\x00\x00");

    // The relay reads nothing any more.
    let message = [b"\x40\x01\x03\xfc".as_slice(), &[0; 1020]].concat();
    let mut dropped = 0;
    for _ in 0..100_000 {
        dropped += streams.send(path, 1024, &message).unwrap();
        let _ = timeout(Duration::ZERO, streams.ready()).await;
        if dropped > 100 {
            break;
        }
    }
    assert!(dropped > 100, "all of 100 MB is kept");
}

#[tokio::test]
async fn what_is_no_relay_is_left() {
    let (mut streams, mut relay, _) = connected().await;
    // It wants TLS.
    relay.write_all(b"\x15\x03\x01\0\x02\x02\x46").await.unwrap();
    assert_eq!(next(&mut streams).await, [Told::Closed]);
    assert_eq!(relay.read(&mut [0; 8]).await.unwrap_or(0), 0);
}

#[tokio::test]
async fn nobody_listens() {
    let (listener, address) = listen().await;
    drop(listener);
    let mut streams = streams();
    for server in [StreamServer::Tcp(address), StreamServer::Tls(address)] {
        streams.handle(StreamRequest::Open(server));
        assert_eq!(next(&mut streams).await, [Told::Closed]);
    }
}

#[tokio::test]
async fn a_stream_that_is_not_wanted_any_more_is_closed_and_not_mentioned() {
    let (mut streams, mut relay, path) = connected().await;
    streams.handle(StreamRequest::Close(StreamServer::Tcp(path.remote)));
    assert_eq!(relay.read(&mut [0; 8]).await.unwrap(), 0);
    assert_eq!(streams.send(path, 4, b"\x40\x01\0\0"), None);
    assert!(timeout(Duration::from_millis(10), streams.ready()).await.is_err());
}

#[tokio::test]
async fn a_reset_closes_all_and_says_so() {
    let (mut streams, mut relay, _) = connected().await;
    streams.reset();
    assert_eq!(next(&mut streams).await, [Told::Closed]);
    assert_eq!(relay.read(&mut [0; 8]).await.unwrap(), 0);
}

#[tokio::test]
async fn tls_is_a_coat_that_anybody_may_wear() {
    let (listener, address) = listen().await;
    let relay = tokio::spawn(async move {
        let key = rcgen::generate_simple_self_signed(["elsewhere.example".to_owned()]).unwrap();
        let private = PrivateKeyDer::try_from(key.signing_key.serialize_der()).unwrap();
        let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![key.cert.der().clone()], private)
            .unwrap();
        let (tcp, _) = listener.accept().await.unwrap();
        let mut tls = TlsAcceptor::from(Arc::new(config)).accept(tcp).await.unwrap();
        let mut bytes = [0; 8];
        tls.read_exact(&mut bytes).await.unwrap();
        tls.write_all(&bytes).await.unwrap();
        tls
    });
    let mut streams = streams();
    streams.handle(StreamRequest::Open(StreamServer::Tls(address)));
    let told = next(&mut streams).await;
    let [Told::Opened(local)] = told[..] else { panic!("{told:?}") };
    let path = Path { local: Some(local), remote: address };
    assert_eq!(streams.send(path, 5, b"\x40\x01\x00\x01a"), Some(0));
    assert_eq!(
        next(&mut streams).await,
        [Told::Messages(vec![b"\x40\x01\x00\x01a\0\0\0".to_vec()])]
    );
    drop(relay.await.unwrap());
    assert_eq!(next(&mut streams).await, [Told::Closed]);
}
