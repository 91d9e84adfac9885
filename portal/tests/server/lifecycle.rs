//! Changes while it runs: the policy file, tokens, the process itself.

use std::sync::Arc;

use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

use crate::peer::{Peer, query};
use crate::program::{Home, POLICY};

const SECOND: &str = r#"
[[resource]]
name = "second"
type = "cidr"
address = "10.99.0.0/24"
sites = ["hq"]
[[policy]]
name = "second"
groups = ["everyone"]
resources = ["second"]
"#;

#[tokio::test]
async fn a_policy_file_that_is_replaced_or_written_is_applied() {
    let home = Home::new(POLICY);
    let token = home.token(&["new", "--client", "alice"]);
    let program = home.run();
    let (mut client, init) = Peer::client(program.address, &token, 1).await;
    assert_eq!(init["resources"].as_array().map(Vec::len), Some(1));

    let both = format!("{POLICY}{SECOND}");
    home.replace_policy(&both);
    assert_eq!(client.hear("resource_created_or_updated").await["name"], "second");
    home.replace_policy(POLICY);
    client.hear("resource_deleted").await;
    std::fs::write(home.policy(), &both).unwrap();
    assert_eq!(client.hear("resource_created_or_updated").await["name"], "second");
    program.assert_content();
}

#[tokio::test]
async fn sighup_applies_what_no_watch_can_see() {
    let home = Home::new(POLICY);
    let token = home.token(&["new", "--client", "alice"]);
    let program = home.run();
    let (mut client, _) = Peer::client(program.address, &token, 1).await;
    // Another name of the same file, in a folder of its own.
    let elsewhere = home.path("elsewhere");
    std::fs::create_dir(&elsewhere).unwrap();
    let other_name = elsewhere.join("policy");
    std::fs::hard_link(home.policy(), &other_name).unwrap();
    std::fs::write(other_name, format!("{POLICY}{SECOND}")).unwrap();
    program.signal("HUP");
    assert_eq!(client.hear("resource_created_or_updated").await["name"], "second");
    program.assert_content();
}

#[tokio::test]
async fn a_wrong_policy_file_changes_nothing_and_the_log_says_where() {
    let home = Home::new(POLICY);
    let token = home.token(&["new", "--client", "alice"]);
    let program = home.run();
    let (mut client, _) = Peer::client(program.address, &token, 1).await;

    home.replace_policy(&POLICY.replace("site = \"hq\"", "site = \"hqq\""));
    let line = program.wait_for_log("no site is named");
    assert_eq!(line["level"], "WARN");
    assert_eq!((&line["line"], &line["column"]), (&json!(6), &json!(8)));
    program.signal("HUP");

    // What comes next is the next right one.
    home.replace_policy(&format!("{POLICY}{SECOND}"));
    assert_eq!(client.hear("resource_created_or_updated").await["name"], "second");
}

#[tokio::test]
async fn a_revoked_token_ends_its_connection_at_once() {
    let home = Home::new(POLICY);
    let token = home.token(&["new", "--client", "alice"]);
    let other = home.token(&["new", "--gateway", "gw"]);
    let program = home.run();
    let (mut client, _) = Peer::client(program.address, &token, 1).await;
    let (mut gateway, _) = Peer::gateway(program.address, &other, 2).await;
    home.token(&["revoke", token.split('.').nth(1).unwrap()]);
    assert_eq!(client.hear("disconnect").await["reason"], "token_expired");
    assert_eq!(client.closed().await, 1008);
    gateway.say("no_relays", json!({})).await;
    gateway.hear("relays_presence").await;
}

#[tokio::test]
async fn a_peer_that_does_not_join_is_sent_away_in_time() {
    let home = Home::new(POLICY);
    let token = home.token(&["new", "--client", "alice"]);
    let program = home.run();
    let path = format!("/client/v2/websocket?{}", query("device", 1));
    let mut client = Peer::connect(program.address, "client", &path, &token).await.unwrap();
    assert_eq!(client.closed().await, 1000);
}

#[tokio::test]
async fn sigterm_says_goodbye_and_the_next_process_goes_on_from_there() {
    let home = Home::new(POLICY);
    let client_token = home.token(&["new", "--client", "alice"]);
    let gateway_token = home.token(&["new", "--gateway", "gw"]);
    let mut program = home.run();
    let (mut gateway, _) = Peer::gateway(program.address, &gateway_token, 1).await;
    let (mut client, init) = Peer::client(program.address, &client_token, 2).await;
    authorize(&mut client, &mut gateway, &init).await;

    program.signal("TERM");
    assert_eq!(client.closed().await, 1012);
    assert_eq!(gateway.closed().await, 1012);
    assert!(program.wait().success());
    program.assert_content();

    // A second one, which is killed, and a third one.
    home.run().kill();
    let program = home.run();
    let (_gateway, gateway_init) = Peer::gateway(program.address, &gateway_token, 1).await;
    assert_eq!(gateway_init["authorizations"].as_array().map(Vec::len), Some(1));
    let (_client, again) = Peer::client(program.address, &client_token, 2).await;
    assert_eq!(again, init);
}

#[tokio::test]
async fn a_restarted_gateway_is_introduced_to_its_clients() {
    let home = Home::new(POLICY);
    let client_token = home.token(&["new", "--client", "alice"]);
    let gateway_token = home.token(&["new", "--gateway", "gw"]);
    let program = home.run();
    let (mut gateway, _) = Peer::gateway(program.address, &gateway_token, 1).await;
    let (mut client, init) = Peer::client(program.address, &client_token, 2).await;
    authorize(&mut client, &mut gateway, &init).await;
    drop(gateway);
    program.wait_for_log("disconnected");
    let (mut gateway, _) = Peer::gateway(program.address, &gateway_token, 9).await;
    let create = gateway.hear("create_authorization").await;
    gateway.say("authorization_created", json!({ "ref": create["ref"] })).await;
    let created = client.hear("authorization_created").await;
    assert_eq!(created["preshared_key"], create["client"]["preshared_key"]);
}

async fn authorize(client: &mut Peer, gateway: &mut Peer, init: &Value) {
    let resource = &init["resources"][0]["id"];
    let request = json!({ "resource_id": resource, "connected_gateway_ids": [] });
    client.say("request_authorization", request).await;
    let create = gateway.hear("create_authorization").await;
    gateway.say("authorization_created", json!({ "ref": create["ref"] })).await;
    client.hear("authorization_created").await;
}

#[tokio::test]
async fn wss_works_without_a_proxy() {
    let home = Home::new(POLICY);
    let token = home.token(&["new", "--client", "alice"]);
    let cert = rcgen::generate_simple_self_signed(["portal.test".to_owned()]).unwrap();
    let (cert_path, key_path) = (home.path("cert.pem"), home.path("key.pem"));
    std::fs::write(&cert_path, cert.cert.pem()).unwrap();
    std::fs::write(&key_path, cert.signing_key.serialize_pem()).unwrap();
    let program = home.run_with(&[
        "--tls-cert",
        cert_path.to_str().unwrap(),
        "--tls-key",
        key_path.to_str().unwrap(),
    ]);

    let mut roots = RootCertStore::empty();
    roots.add(cert.cert.der().clone()).unwrap();
    let config = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    let name = ServerName::try_from("portal.test").unwrap();
    let stream = TcpStream::connect(program.address).await.unwrap();
    let stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await.unwrap();
    let path = format!("/client/v2/websocket?{}", query("device", 1));
    let mut client = Peer::connect_over(stream, "client", &path, &token).await.unwrap();
    assert_eq!(client.join(Value::Null).await["resources"].as_array().map(Vec::len), Some(1));
}
