//! What listens beside the relay is not for its clients.

use std::net::UdpSocket;

use connlib_e2e::wait;

use super::support::{Network, RELAY, SOON, text};

/// A service of the relay's machine, in the range of allocations.
fn service(network: &Network, ip: &str) -> UdpSocket {
    let service = network.relay.enter(|| UdpSocket::bind((ip, 50_505)).unwrap()).unwrap();
    service.set_nonblocking(true).unwrap();
    service
}

/// Sends to it through the relay, by channels.
fn knock(network: &Network, ip: &str) {
    network.uclient(&format!("-e {ip} -r 50505 -c -n 5 -z 5 {RELAY}"));
}

fn assert_untouched(network: &Network, service: &UdpSocket) {
    network.wait_for_metric_with("connlib_relay_drops_total", "forbidden_peer", |drops| drops > 0);
    service.recv(&mut [0; 100]).unwrap_err();
}

#[test]
fn a_port_of_the_public_address_is_an_allocation_s_or_nobody_s() {
    let network = Network::new();
    let service = service(&network, RELAY);
    let _relay = network.start(&[]);
    knock(&network, RELAY);
    assert_untouched(&network, &service);
}

/// There, what is for the public address is sent to loopback.
#[test]
fn behind_a_translated_address_as_well() {
    let network = Network::new();
    let service = service(&network, "127.0.0.1");
    let users = network.users();
    let public = ["--public-ip4-addr", "198.51.100.1", "--bind-ip4-addr", "0.0.0.0"];
    let command = network.bare_command().args(public).args(["--health-listen", "127.0.0.1:8080"]);
    let command = command.args(["--user-file", text(&users)]);
    let mut relay = command.spawn_watched("relay").unwrap();
    relay.wait_for("relaying", SOON).unwrap();
    knock(&network, "198.51.100.1");
    assert_untouched(&network, &service);
}

#[test]
fn an_address_that_comes_later_is_the_machine_s_too() {
    let network = Network::new();
    let mut relay = network.start(&[]);
    network.relay.ip("address add 172.17.0.1/32 dev lo").unwrap();
    let service = service(&network, "172.17.0.1");
    relay.wait_for("this machine has other addresses", SOON).unwrap();
    knock(&network, "172.17.0.1");
    let is_refused = || network.get("/metrics").contains("code=\"403\"").then_some(());
    wait::until("the peer to be refused", SOON, is_refused).unwrap();
    service.recv(&mut [0; 100]).unwrap_err();
}
