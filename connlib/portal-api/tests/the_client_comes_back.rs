//! A client and a portal on loopback, when the connection is lost.
#![allow(clippy::unwrap_used, clippy::panic)] // Helpers of tests are tests.

mod portal;

use std::time::Duration;

use connlib_portal_api::channel::{Closed, Frame, event};
use connlib_portal_api::client::{ConnectionError, Event, FatalError, Network, Retry, SendError};
use connlib_portal_api::messages::client::ToPortal;
use serde_json::json;
use tokio_tungstenite::tungstenite::Message;

use crate::portal::{
    Client, Server, client, config, connected, jump, next, reconnected, while_running,
};

const S: Duration = Duration::from_secs(1);

/// The error of the next event, which must be a loss.
async fn lost(client: &mut Client) -> ConnectionError {
    match next(client).await {
        Event::Disconnected { error, .. } => error,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn after_the_portal_was_stopped_and_started() {
    let server = Server::start().await;
    let address = server.address();
    let (mut client, peer) = connected(&server).await;
    drop((server, peer));
    assert!(matches!(
        lost(&mut client).await,
        ConnectionError::Broken(_) | ConnectionError::Closed(_)
    ));
    assert_eq!(client.send(&ToPortal::NoRelays), Err(SendError::NotConnected));
    let error = lost(&mut client).await;
    assert!(
        matches!(&error, ConnectionError::Tcp { address: tried, .. } if *tried == address),
        "{error}"
    );

    let server = Server::start_at(address).await;
    let mut peer = reconnected(&mut client, &server).await;
    client.send(&ToPortal::NoRelays).unwrap();
    let frame = while_running(&mut client, peer.receive()).await;
    // A new connection counts from 0.
    assert_eq!(frame, Frame::message("client", &ToPortal::NoRelays, 1));
}

#[tokio::test]
async fn after_heartbeats_stayed_unanswered() {
    let server = Server::start().await;
    let (mut client, mut peer) = connected(&server).await;
    for reference in 1..=4 {
        jump(10 * S).await;
        let frame = while_running(&mut client, peer.receive()).await;
        assert_eq!(frame, Frame::heartbeat(reference));
    }
    jump(10 * S).await;
    let error = lost(&mut client).await;
    assert!(matches!(error, ConnectionError::Closed(Closed::HeartbeatsUnanswered)), "{error}");
    reconnected(&mut client, &server).await;
}

#[tokio::test]
async fn after_a_join_without_an_answer() {
    let server = Server::start().await;
    let mut client = client(server.address());
    let mut peer = while_running(&mut client, server.accept()).await;
    while_running(&mut client, peer.receive()).await;
    jump(5 * S).await;
    let error = lost(&mut client).await;
    assert!(matches!(error, ConnectionError::Closed(Closed::JoinTimedOut)), "{error}");
    reconnected(&mut client, &server).await;
}

#[tokio::test]
async fn after_a_server_that_says_nothing() {
    let server = Server::start().await;
    let mut client = client(server.address());
    let _tcp = while_running(&mut client, server.accept_tcp()).await;
    jump(15 * S).await;
    assert!(matches!(lost(&mut client).await, ConnectionError::TimedOut));
    reconnected(&mut client, &server).await;
}

#[tokio::test]
async fn after_the_portal_closed_the_channel_or_the_socket() {
    let server = Server::start().await;
    let (mut client, mut peer) = connected(&server).await;
    peer.push(event::CLOSE, json!({})).await;
    assert!(matches!(lost(&mut client).await, ConnectionError::Closed(Closed::ByPortal)));
    let mut peer = reconnected(&mut client, &server).await;
    peer.send_raw(Message::Close(None)).await;
    assert!(matches!(lost(&mut client).await, ConnectionError::Closed(Closed::ByPortal)));
    reconnected(&mut client, &server).await;
}

#[tokio::test]
async fn after_a_session_that_ended_for_another_reason_than_the_token() {
    let server = Server::start().await;
    let (mut client, mut peer) = connected(&server).await;
    peer.send(&Frame::disconnect("client", "certificate_revoked")).await;
    let error = lost(&mut client).await;
    assert!(
        matches!(error, ConnectionError::Closed(Closed::SessionEnded { reason }) if reason == "certificate_revoked")
    );
    reconnected(&mut client, &server).await;
}

#[tokio::test]
async fn on_the_same_connection_when_the_portal_forgot_it() {
    let server = Server::start().await;
    let (mut client, mut peer) = connected(&server).await;
    client.send(&ToPortal::NoRelays).unwrap();
    let message = while_running(&mut client, peer.receive()).await;
    peer.send(&Frame::reply_error(&message, "unmatched topic")).await;
    while_running(&mut client, peer.let_join()).await;
    assert!(matches!(next(&mut client).await, Event::Connected));
}

#[tokio::test]
async fn at_once_on_another_network() {
    let server = Server::start().await;
    let address = server.address();
    drop(server);
    let mut client = client(address);
    // Far into the back-off: the next attempt is many seconds away.
    for _ in 0..12 {
        let Event::Disconnected { retry_in, .. } = next(&mut client).await else { panic!() };
        jump(retry_in).await;
    }
    lost(&mut client).await;
    let server = Server::start_at(address).await;
    client.reconnect_now();
    reconnected(&mut client, &server).await;
}

#[tokio::test]
async fn not_if_the_first_connection_is_to_fail_fast() {
    let server = Server::start().await;
    let address = server.address();
    drop(server);
    let config = connlib_portal_api::client::Config {
        retry: Retry::interactive(3600 * S),
        ..config(format!("ws://{address}"))
    };
    let mut client = Client::new(config, Network::default()).unwrap();
    let gave_up = loop {
        match next(&mut client).await {
            Event::Disconnected { retry_in, .. } => {
                assert_eq!(retry_in, S);
                jump(retry_in).await;
            }
            Event::Fatal(error) => break error,
            other => panic!("{other:?}"),
        }
    };
    assert!(matches!(&gave_up, FatalError::GaveUp { source: ConnectionError::Tcp { .. }, .. }));
    assert!(!gave_up.requires_sign_in());
}
