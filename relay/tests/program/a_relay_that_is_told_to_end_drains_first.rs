//! SIGTERM: nobody new, those who are there go on until they leave or the time is over.

use nix::sys::signal::Signal;

use super::support::{Network, PEER, RELAY, SOON, lost_nothing};

/// A client that is busy for some seconds, over TCP: its allocations end with its connections.
fn long_run() -> String {
    format!("-t -e {PEER} -c -m 2 -n 150 -z 20 {RELAY}")
}

const TCP: [&str; 2] = ["--listen-tcp", "0.0.0.0:3478"];

#[test]
fn allocations_are_served_until_they_end() {
    let network = Network::new();
    let _echo = network.echo();
    let mut relay = network.start(&TCP);
    assert!(network.is_ready());
    let mut client = network.uclient_command(&long_run()).spawn("client").unwrap();
    network.wait_for_metric_with("connlib_relay_channels", "", |channels| channels >= 2);

    relay.signal(Signal::SIGTERM).unwrap();
    relay.wait_for("draining", SOON).unwrap();
    assert!(!network.is_ready());
    assert_eq!(network.metric("connlib_relay_draining", ""), 1);
    let newcomer = network.uclient(&format!("-e {PEER} -c -n 1 {RELAY}"));
    assert!(newcomer.contains("508"), "{newcomer}");

    let status = relay.wait(SOON).unwrap();
    assert_eq!(status.code(), Some(0));
    client.wait(SOON).unwrap();
    assert!(lost_nothing(&client), "{}", client.log().tail(20));
}

/// Workers without allocations must not end first: the kernel would give their share of the datagrams to others.
#[test]
fn every_worker_serves_its_clients() {
    let network = Network::new();
    let _echo = network.echo();
    let mut relay = network.start(&["--workers", "8"]);
    let clients = format!("-e {PEER} -c -m 3 -n 150 -z 20 {RELAY}");
    let mut clients = network.uclient_command(&clients).spawn("clients").unwrap();
    network.wait_for_metric_with("connlib_relay_channels", "", |channels| channels >= 6);
    relay.signal(Signal::SIGTERM).unwrap();
    relay.wait_for("draining", SOON).unwrap();
    clients.wait(SOON).unwrap();
    assert!(lost_nothing(&clients), "{}", clients.log().tail(20));
    // They don't give back what they had.
    relay.signal(Signal::SIGTERM).unwrap();
    assert_eq!(relay.wait(SOON).unwrap().code(), Some(0));
}

#[test]
fn the_time_to_drain_is_limited() {
    let network = Network::new();
    let _echo = network.echo();
    let mut relay = network.start(&[&TCP[..], &["--drain-timeout", "1s"]].concat());
    let _client = network.uclient_command(&long_run()).spawn("client").unwrap();
    network.wait_for_metric_with("connlib_relay_channels", "", |channels| channels >= 2);
    relay.signal(Signal::SIGTERM).unwrap();
    relay.wait_for("the time to drain is over", SOON).unwrap();
    assert_eq!(relay.wait(SOON).unwrap().code(), Some(0));
}

#[test]
fn who_asks_twice_does_not_wait() {
    let network = Network::new();
    let _echo = network.echo();
    let mut relay = network.start(&[&TCP[..], &["--drain-timeout", "1h"]].concat());
    let _client = network.uclient_command(&long_run()).spawn("client").unwrap();
    network.wait_for_metric_with("connlib_relay_channels", "", |channels| channels >= 2);
    relay.signal(Signal::SIGTERM).unwrap();
    relay.wait_for("draining", SOON).unwrap();
    relay.signal(Signal::SIGTERM).unwrap();
    assert_eq!(relay.wait(SOON).unwrap().code(), Some(0));
}

#[test]
fn an_idle_relay_ends_at_once() {
    let network = Network::new();
    let relay = network.start(&["--drain-timeout", "1h"]);
    assert_eq!(relay.terminate(SOON).unwrap().code(), Some(0));
}
