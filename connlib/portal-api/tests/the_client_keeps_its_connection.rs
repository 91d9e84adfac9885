//! A client and a portal on loopback, while all is well.
#![allow(clippy::unwrap_used, clippy::panic)] // Helpers of tests are tests.

mod portal;

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use connlib_portal_api::channel::{Frame, event};
use connlib_portal_api::client::{Config, Event, Network, PortalClient, Retry, SendError};
use connlib_portal_api::login::{Params, UserAgent};
use connlib_portal_api::messages::client::{FromPortal, ToPortal};
use connlib_portal_api::messages::common::Capabilities;
use connlib_portal_api::messages::relay::{self, RelayRole};
use connlib_portal_api::{PublicKey, ResourceId, Secret};
use serde_json::json;
use tokio_tungstenite::tungstenite::Message;

use crate::portal::{
    Client, Server, TOKEN, client, config, connected, header, jump, next, reconnected,
    while_running,
};

const HEARTBEAT: Duration = Duration::from_secs(10);

#[tokio::test]
async fn it_says_who_it_is() {
    let server = Server::start().await;
    let (_client, peer) = connected(&server).await;
    let key = "BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwc%3D";
    assert_eq!(
        peer.request.lines().next(),
        Some(&*format!(
            "GET /client/v2/websocket?external_id=device&name=my+laptop&public_key={key} HTTP/1.1"
        ))
    );
    let header = |name| header(&peer.request, name);
    assert_eq!(header("X-Authorization"), Some(&*format!("Bearer {TOKEN}")));
    assert_eq!(header("User-Agent"), Some("Debian/12.0.0 headless-client/1.5.12 (x86_64)"));
    assert_eq!(header("Host"), Some(&*server.address().to_string()));
}

#[tokio::test]
async fn a_relay_joins_with_its_secret() {
    let server = Server::start().await;
    let config = Config::<RelayRole> {
        url: format!("ws://{}", server.address()),
        token: Secret::new(" .relay\ntoken\n"),
        params: Params { port: Some(3478), ..Params::default() },
        user_agent: UserAgent::of_this_machine("relay", "0.1.0"),
        join: relay::Join { stamp_secret: Secret::new("3e93") },
        retry: Retry::FOR_EVER,
        extra_ca_file: None,
    };
    let mut client = PortalClient::<RelayRole>::new(config, Network::default()).unwrap();
    let serve = async {
        let mut peer = server.accept().await;
        let join = peer.receive().await;
        peer.send(&Frame::reply_ok(&join)).await;
        peer.send(&Frame::message("relay", &relay::FromPortal::Init, None)).await;
        (peer, join)
    };
    let events = async { [client.next_event().await, client.next_event().await] };
    let (events, (peer, join)) = tokio::join!(events, serve);
    assert!(matches!(events, [Event::Connected, Event::Message(relay::FromPortal::Init)]));
    assert!(peer.request.starts_with("GET /relay/websocket?port=3478 "), "{}", peer.request);
    assert_eq!(header(&peer.request, "X-Authorization"), Some("Bearer .relaytoken"));
    assert_eq!((&*join.topic, join.payload), ("relay", json!({"stamp_secret": "3e93"})));
}

#[tokio::test]
async fn messages_go_both_ways() {
    let server = Server::start().await;
    let (mut client, mut peer) = connected(&server).await;
    let capabilities = ToPortal::SetSnownetCapabilities(Capabilities { iceless: true });
    client.send(&capabilities).unwrap();
    let frame = while_running(&mut client, peer.receive()).await;
    assert_eq!(frame, Frame::message("client", &capabilities, 1));

    let id = ResourceId::from_u128(1);
    peer.push("resource_deleted", json!(id)).await;
    let event = next(&mut client).await;
    assert!(matches!(event, Event::Message(FromPortal::ResourceDeleted(deleted)) if deleted == id));
}

#[tokio::test]
async fn what_is_sent_before_the_join_is_answered_waits_for_it() {
    let server = Server::start().await;
    let mut client = client(server.address());
    assert_eq!(client.send(&ToPortal::NoRelays), Err(SendError::NotConnected));
    let mut peer = while_running(&mut client, server.accept()).await;
    let join = while_running(&mut client, peer.receive()).await;
    assert_eq!(join.event, event::JOIN);
    client.send(&ToPortal::NoRelays).unwrap();
    peer.send(&Frame::reply_ok(&join)).await;
    assert!(matches!(next(&mut client).await, Event::Connected));
    let frame = while_running(&mut client, peer.receive()).await;
    assert_eq!(frame.event, "no_relays");
}

#[tokio::test]
async fn what_it_does_not_understand_is_skipped() {
    let server = Server::start().await;
    let (mut client, mut peer) = connected(&server).await;
    peer.push("brand_new", json!({})).await;
    peer.push("init", json!([])).await;
    peer.send_raw(Message::text("not a frame")).await;
    peer.send_raw(Message::binary(vec![1, 2, 3])).await;
    peer.send_raw(Message::Ping(vec![1].into())).await;
    peer.push("relays_presence", json!({"connected": [1]})).await;
    let event = next(&mut client).await;
    assert!(matches!(event, Event::Message(FromPortal::RelaysPresence(_))), "{event:?}");
}

/// A wake-up to say it, and one to hear the answer: the phone sleeps in between.
#[tokio::test]
async fn an_idle_connection_wakes_up_for_heartbeats_alone() {
    let server = Server::start().await;
    let (mut client, mut peer) = connected(&server).await;
    let polls = Arc::new(AtomicU32::new(0));
    let count = Arc::clone(&polls);
    // In a task of its own: it is polled if it is woken, and only then.
    let task = tokio::spawn(async move {
        let mut next_event = pin!(client.next_event());
        let counting = std::future::poll_fn(|cx| {
            count.fetch_add(1, Ordering::Relaxed);
            next_event.as_mut().poll(cx)
        });
        panic!("{:?}", counting.await);
    });
    for reference in 1..=10 {
        jump(HEARTBEAT).await;
        let frame = peer.receive().await;
        assert_eq!(frame, Frame::heartbeat(reference));
        peer.send(&Frame::reply_ok(&frame)).await;
    }
    assert!(!task.is_finished());
    let polls = polls.load(Ordering::Relaxed);
    assert!(polls <= 1 + 2 * 10, "{polls} wake-ups");
}

#[tokio::test]
async fn a_message_is_there_however_often_next_event_is_cancelled() {
    let server = Server::start().await;
    let mut client = client(server.address());
    // One poll each, then cancelled: as in a `select!` whose other branches are always ready.
    let serve = async {
        let mut peer = server.accept_and_join().await;
        for number in 0..100 {
            let frame = peer.receive().await;
            assert_eq!(frame.payload["resource_id"], json!(ResourceId::from_u128(number)));
            peer.push("resource_deleted", json!(ResourceId::from_u128(number))).await;
        }
        peer
    };
    let poll_and_cancel = async {
        let (mut polls, mut answered) = (0_u32, 0);
        while answered < 100 {
            polls += 1;
            let event = tokio::select! {
                biased;
                event = client.next_event() => event,
                () = tokio::task::yield_now() => continue,
            };
            match event {
                Event::Connected => {
                    for number in 0..20 {
                        client.send(&resolve(number)).unwrap();
                    }
                }
                Event::Message(FromPortal::ResourceDeleted(id)) => {
                    assert_eq!(id, ResourceId::from_u128(answered));
                    answered += 1;
                    if answered <= 80 {
                        client.send(&resolve(answered + 19)).unwrap();
                    }
                }
                other => panic!("{other:?}"),
            }
        }
        polls
    };
    let (_peer, polls) = tokio::join!(serve, poll_and_cancel);
    assert!(polls > 101, "never cancelled");
}

fn resolve(number: u128) -> ToPortal {
    ToPortal::ResolveDevicePoolDomain(
        connlib_portal_api::messages::client::ResolveDevicePoolDomain {
            resource_id: ResourceId::from_u128(number),
            domain: "x".to_owned(),
        },
    )
}

#[tokio::test]
async fn another_network_and_another_key_make_another_connection() {
    let server = Server::start().await;
    let (mut client, _peer) = connected(&server).await;
    client.set_public_key(PublicKey([8; 32]));
    client.reconnect_now();
    assert_eq!(client.send(&ToPortal::NoRelays), Err(SendError::NotConnected));
    let peer = reconnected(&mut client, &server).await;
    assert!(peer.request.contains("public_key=CAgICAgI"), "{}", peer.request);
}

#[tokio::test]
async fn the_caller_resolves_the_host_and_makes_the_sockets() {
    let server = Server::start().await;
    let port = server.address().port();
    let sockets = Arc::new(AtomicU32::new(0));
    let count = Arc::clone(&sockets);
    let network = Network {
        resolver: Arc::new(|host: String| async move {
            assert_eq!(host, "portal.test");
            // Nobody listens at the first ones.
            Ok(["127.9.9.1", "127.9.9.2", "127.0.0.1"].map(|ip| ip.parse().unwrap()).to_vec())
        }),
        sockets: Arc::new(move |remote: std::net::SocketAddr| {
            assert_eq!(remote.port(), port);
            count.fetch_add(1, Ordering::Relaxed);
            tokio::net::TcpSocket::new_v4()
        }),
    };
    let mut client =
        Client::new(config(format!("ws://portal.test:{port}/base/")), network).unwrap();
    let peer = reconnected(&mut client, &server).await;
    assert!(peer.request.starts_with("GET /base/client/v2/websocket?"), "{}", peer.request);
    assert_eq!(header(&peer.request, "Host"), Some(&*format!("portal.test:{port}")));
    assert_eq!(sockets.load(Ordering::Relaxed), 3);
}

#[tokio::test]
async fn an_ipv6_literal_needs_no_resolver() {
    let server = Server::start_at("[::1]:0".parse().unwrap()).await;
    let (_client, peer) = connected(&server).await;
    assert_eq!(header(&peer.request, "Host"), Some(&*server.address().to_string()));
}
