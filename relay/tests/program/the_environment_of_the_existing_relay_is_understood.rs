//! A deployment of the existing relay starts this one with the variables that it has.

use super::support::{Network, RELAY, SOON};

#[test]
fn its_variables_are_read() {
    let network = Network::new();
    let command = network
        .relay
        .command("connlib-relay")
        .env("PUBLIC_IP4_ADDR", RELAY)
        .env("LISTEN_PORT", "4000")
        .env("LOWEST_PORT", "50000")
        .env("HIGHEST_PORT", "50010")
        .env("FIREZONE_API_URL", "ws://127.0.0.1:1")
        .env("FIREZONE_TOKEN", ".token")
        .env("FIREZONE_NAME", "frankfurt")
        .env("HEALTH_CHECK_ADDR", "127.0.0.1:8080")
        .env("LOG_FORMAT", "json")
        .env("CONNLIB_MAX_ALLOCATIONS", "10");
    let mut relay = command.spawn_watched("relay").unwrap();
    relay.wait_for("relaying", SOON).unwrap();
    let listening = relay.wait_for("listening for TURN over UDP", SOON).unwrap();
    assert_eq!(listening.text("address"), Some("203.0.113.5:4000"));
    relay.wait_for("the portal is away", SOON).unwrap();
    assert!(network.get("/healthz").starts_with("HTTP/1.1 200"));
    assert!(!network.is_ready(), "the portal is configured, and away");
}
