//! A client and a portal on loopback that does not let it in.
#![allow(clippy::unwrap_used, clippy::panic)] // Helpers of tests are tests.

mod portal;

use std::time::Duration;

use connlib_portal_api::channel::{Frame, event};
use connlib_portal_api::client::{ConnectionError, Event, FatalError};
use connlib_portal_api::messages::client::FromPortal;

use crate::portal::{Client, Server, client, connected, next, reconnected, while_running};

const INVALID_TOKEN: &str = r#"{"type":"about:blank","title":"Unauthorized","status":401,"detail":"The token is unknown.","code":"invalid_token"}"#;

/// Head and body of a refusal, apart.
fn refusal(status: &str, headers: &str, body: &str) -> [String; 2] {
    let len = body.len();
    [format!("HTTP/1.1 {status}\r\n{headers}Content-Length: {len}\r\n\r\n"), body.to_owned()]
}

/// What the client makes of these pieces of a response.
async fn refused(pieces: &[&str]) -> (Server, Client, Event<FromPortal>) {
    let server = Server::start().await;
    let mut client = client(server.address());
    let (event, _) = tokio::join!(next(&mut client), server.refuse(pieces));
    (server, client, event)
}

#[tokio::test]
async fn an_unknown_token_needs_another_sign_in() {
    let [head, body] = refusal("401 Unauthorized", "", INVALID_TOKEN);
    let (first, second) = body.split_at(40);
    let chunked = "HTTP/1.1 401 x\r\nTransfer-Encoding: chunked\r\n\r\n";
    let first_chunk = format!("{:x}\r\n{first}\r\n", first.len());
    let second_chunk = format!("{:x}\r\n{second}\r\n0\r\n\r\n", second.len());
    let until_end = "HTTP/1.1 401 x\r\n\r\n";
    for pieces in [
        &[&*head, &*body][..],
        &[&*format!("{head}{body}")],
        &[&head[..20], &head[20..], first, second],
        &[chunked, &first_chunk, &second_chunk],
        &[until_end, first, second],
    ] {
        let (_, _, event) = refused(pieces).await;
        let Event::Fatal(error) = event else { panic!("{event:?}") };
        assert!(error.requires_sign_in(), "{pieces:?}");
        assert_eq!(error.to_string(), "sign in again: The token is unknown.");
    }
}

#[tokio::test]
async fn any_other_401_is_fatal_without_a_sign_in() {
    for body in ["", "<html>", r#"{"code":"other","detail":"No."}"#] {
        let [head, body] = refusal("401 Unauthorized", "", body);
        let (_, _, event) = refused(&[&head, &body]).await;
        let Event::Fatal(error) = event else { panic!("{event:?}") };
        assert!(matches!(error, FatalError::AuthenticationFailed { .. }), "{error}");
        assert!(!error.requires_sign_in());
    }
}

#[tokio::test]
async fn every_other_status_is_tried_again() {
    for status in [
        "302 Found",
        "400 Bad",
        "402 Pay",
        "403 Forbidden",
        "404 Not Found",
        "409 Conflict",
        "500 Oops",
    ] {
        let [head, body] = refusal(status, "", r#"{"detail":"Because.","status":7}"#);
        let (server, mut client, event) = refused(&[&head, &body]).await;
        let Event::Disconnected { error, .. } = event else { panic!("{event:?}") };
        assert_eq!(error.to_string(), format!("the portal refused us: {} Because.", &status[..3]));
        client.reconnect_now();
        reconnected(&mut client, &server).await;
    }
}

#[tokio::test]
async fn a_portal_under_load_says_when_to_come_again() {
    for status in ["429 Too Many Requests", "503 Service Unavailable"] {
        let [head, body] = refusal(status, "Retry-After: 1\r\n", r#"{"code":"rate_limit"}"#);
        let (server, mut client, event) = refused(&[&head, &body]).await;
        let Event::Disconnected { error, retry_in } = event else { panic!("{event:?}") };
        let ConnectionError::Refused { problem, retry_after } = error else { panic!("{error}") };
        assert_eq!(
            (problem.code.as_str(), retry_after),
            ("rate_limit", Some(Duration::from_secs(1)))
        );
        assert_eq!(retry_in, Duration::from_secs(1));
        reconnected(&mut client, &server).await;
    }
}

#[tokio::test]
async fn a_server_that_is_no_portal_is_tried_again() {
    let too_long = format!("HTTP/1.1 200 OK\r\nX: {}\r\n", "x".repeat(20_000));
    for response in [
        "SSH-2.0-OpenSSH_9\r\n",
        "HTTP/1.1 101 Switching\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n",
        &too_long,
    ] {
        let (server, mut client, event) = refused(&[response]).await;
        let Event::Disconnected { error: ConnectionError::NotAPortal(_), .. } = event else {
            panic!("{event:?}")
        };
        reconnected(&mut client, &server).await;
    }
    let (_, _, event) = refused(&["HTTP/1.1 1"]).await;
    assert!(matches!(event, Event::Disconnected { error: ConnectionError::Broken(_), .. }));
}

#[tokio::test]
async fn a_refused_join_is_fatal() {
    let server = Server::start().await;
    let mut client = client(server.address());
    let mut peer = while_running(&mut client, server.accept()).await;
    let join = while_running(&mut client, peer.receive()).await;
    assert_eq!(join.event, event::JOIN);
    peer.send(&Frame::reply_error(&join, "disabled")).await;
    let event = next(&mut client).await;
    let Event::Fatal(FatalError::JoinRefused { reason }) = event else { panic!("{event:?}") };
    assert_eq!(reason, "disabled");
}

#[tokio::test]
async fn an_expired_token_ends_the_session() {
    let server = Server::start().await;
    let (mut client, mut peer) = connected(&server).await;
    peer.send(&Frame::disconnect("client", "token_expired")).await;
    let event = next(&mut client).await;
    let Event::Fatal(error) = event else { panic!("{event:?}") };
    assert!(error.requires_sign_in());
    // That was the last event, whatever the caller does.
    client.reconnect_now();
    while_running(&mut client, tokio::task::yield_now()).await;
}
