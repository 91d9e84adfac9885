//! Who is not let in is told why, in words that peers understand.

use serde_json::Value;
use tokio_tungstenite::tungstenite::Error;

use crate::peer::{Peer, query};
use crate::program::{Home, POLICY, Program};

fn request(program: &Program, path: &str, headers: &[&str]) -> (u16, String, Value) {
    let mut request = format!("GET {path} HTTP/1.1\r\nHost: portal\r\n");
    for header in headers {
        request += &format!("{header}\r\n");
    }
    let answer = program.http(&(request + "\r\n"));
    let (head, body) = answer.split_once("\r\n\r\n").expect("head and body");
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status");
    (status, head.to_lowercase(), serde_json::from_str(body).unwrap_or(Value::Null))
}

const UPGRADE: [&str; 4] = [
    "Connection: Upgrade",
    "Upgrade: websocket",
    "Sec-WebSocket-Version: 13",
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
];

#[test]
fn every_refusal_has_its_code() {
    let home = Home::new(POLICY);
    let token = |args: &[&str]| {
        format!("X-Authorization: Bearer {}", home.token(&[&["new"], args].concat()))
    };
    let client = token(&["--client", "alice"]);
    let gateway = token(&["--gateway", "gw"]);
    let relay = token(&["--relay"]);
    let stranger = token(&["--client", "mallory"]);
    let revoked = token(&["--client", "alice"]);
    let id = revoked.split('.').nth(1).expect("an id");
    home.token(&["revoke", id]);
    let program = home.run();

    let good = format!("?{}", query("device", 1));
    let table = [
        ("/client/v2/websocket", &*good, None, 401, "missing_token"),
        ("/client/v2/websocket", &good, Some("X-Authorization: Bearer .a.b"), 401, "invalid_token"),
        ("/client/v2/websocket", &good, Some(&*revoked), 401, "invalid_token"),
        ("/client/v2/websocket", &good, Some(&gateway), 401, "invalid_token"),
        ("/client/v2/websocket", &good, Some(&stranger), 401, "invalid_token"),
        ("/client/v2/websocket", "", Some(&client), 400, "invalid_connect_params"),
        (
            "/client/websocket",
            "?external_id=x&public_key=AAAA",
            Some(&client),
            400,
            "invalid_connect_params",
        ),
        ("/gateway/v2/websocket", "?external_id=x", Some(&gateway), 400, "invalid_connect_params"),
        ("/relay/websocket", "?port=3478", Some(&relay), 400, "missing_ip"),
        ("/relay/v2/websocket", "", Some(&relay), 404, "not_found"),
        ("/", "", None, 404, "not_found"),
    ];
    for (path, query, token, status, code) in table {
        let mut headers = UPGRADE.to_vec();
        headers.extend(token);
        let (got, head, problem) = request(&program, &format!("{path}{query}"), &headers);
        assert_eq!((got, problem["code"].as_str()), (status, Some(code)), "{path}{query}");
        assert!(head.contains("content-type: application/problem+json"), "{head}");
        assert_eq!(problem["status"], status);
        assert_eq!(problem["type"], "about:blank");
        assert!(problem["detail"].is_string() && problem["title"].is_string());
    }
    let (status, _, problem) = request(&program, "/client/v2/websocket", &[&client]);
    assert_eq!((status, problem["code"].as_str()), (426, Some("upgrade_required")));
    program.assert_content();
}

#[test]
fn a_source_that_comes_too_often_is_told_to_wait() {
    let home = Home::new(POLICY);
    let program = home.run();
    let mut headers = UPGRADE.to_vec();
    headers.push("X-Authorization: Bearer .no.such");
    let statuses: Vec<_> =
        (0..10).map(|_| request(&program, "/relay/websocket", &headers)).collect();
    assert_eq!(statuses[0].0, 401);
    let limited = statuses.iter().find(|(status, ..)| *status == 503).expect("a limit");
    assert!(limited.1.contains("retry-after: 1"), "{}", limited.1);
    assert_eq!(limited.2["code"], "rate_limit");
}

#[tokio::test]
async fn a_second_gateway_is_refused_and_the_first_stays() {
    let home = Home::new(POLICY);
    let token = home.token(&["new", "--gateway", "gw"]);
    let program = home.run();
    let (mut first, _) = Peer::gateway(program.address, &token, 1).await;
    let path = format!("/gateway/v2/websocket?{}", query("clone", 2));
    match Peer::connect(program.address, "gateway", &path, &token).await {
        Err(Error::Http(response)) => {
            assert_eq!(response.status(), 409);
            assert_eq!(response.headers()["retry-after"], "2");
            let body = response.body().as_deref().unwrap();
            let problem: Value = serde_json::from_slice(body).unwrap();
            assert_eq!(problem["code"], "gateway_already_connected");
        }
        other => panic!("{:?}", other.err()),
    }
    first.say("phx_join", Value::Null).await;
    // The ping that asked whether it lives comes first; the library answers it.
    let reply = loop {
        if let Some(Ok(message)) = first.next().await
            && message.is_text()
        {
            break message;
        }
    };
    assert!(reply.to_text().unwrap().contains("\"ok\""));
}

#[tokio::test]
async fn a_client_has_as_many_devices_as_the_policy_says() {
    let home = Home::new(&POLICY.replace("name = \"alice\"", "name = \"alice\"\nmax_devices = 1"));
    let token = home.token(&["new", "--client", "alice"]);
    let program = home.run();
    let (first, init) = Peer::client(program.address, &token, 1).await;
    let path = format!("/client/v2/websocket?{}", query("another", 2));
    match Peer::connect(program.address, "client", &path, &token).await {
        Err(Error::Http(response)) => assert_eq!(response.status(), 402),
        other => panic!("{:?}", other.err()),
    }
    // Once the first is gone, it makes room.
    drop(first);
    program.wait_for_log("disconnected");
    let mut second = Peer::connect(program.address, "client", &path, &token).await.unwrap();
    assert_eq!(second.join(Value::Null).await["interface"], init["interface"]);
}

#[tokio::test]
async fn a_message_that_is_too_large_ends_the_connection() {
    let home = Home::new(POLICY);
    let token = home.token(&["new", "--client", "alice"]);
    let program = home.run();
    let (mut client, _) = Peer::client(program.address, &token, 1).await;
    // It may hang up while we still write.
    let _written = client.try_send(&Value::String("x".repeat(2 << 20))).await;
    assert!(!matches!(client.next().await, Some(Ok(m)) if m.is_text()));
    // And nobody else's.
    let (mut client, _) = Peer::client(program.address, &token, 1).await;
    client.say("no_relays", serde_json::json!({})).await;
    client.hear("relays_presence").await;
}

#[test]
fn health_checks_need_no_token() {
    let program = Home::new(POLICY).run();
    for (path, says) in [("/healthz", "ok"), ("/readyz", "ready")] {
        let answer = program.http(&format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n"));
        assert!(
            answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.ends_with(&format!("{says}\n"))
        );
    }
    // A listener that gets anything else just hangs up.
    assert_eq!(program.http("\x16\x03\x01\x02\r\n\r\n"), "");
}
