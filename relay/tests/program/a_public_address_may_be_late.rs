//! A relay that starts with its machine: the public address comes by a lease, or is still looked for in the network.

use connlib_e2e::Process;

use super::support::{Network, RELAY, SOON, addresses, text};

const LISTENING: &str = "listening for TURN over UDP";

#[test]
fn a_start_waits_for_it() {
    let network = Network::new();
    network.relay.ip("address flush dev eth0").unwrap();
    let users = network.users();
    let command = network.command().args(["--user-file", text(&users)]);
    let mut relay = command.spawn_watched("relay").unwrap();
    relay.wait_for("waiting for a public address to come", SOON).unwrap();
    for address in addresses(5) {
        network.relay.ip(&format!("address add {address} dev eth0")).unwrap();
    }
    relay.wait_for("relaying", SOON).unwrap();
    for (nth, address) in ["203.0.113.5:3478", "[2001:db8::5]:3478"].into_iter().enumerate() {
        let line = relay.log().find_nth(LISTENING, nth).unwrap();
        assert_eq!(line.text("address"), Some(address));
    }
}

#[test]
fn without_it_the_relay_says_what_it_takes_the_machine_for() {
    const MISSING: &str = "this machine does not have the public address";
    let network = Network::new();
    let users = network.users();
    let start = |name: &str, more: &[&str]| {
        let alone = ["--public-ip4-addr", "198.51.100.1", "--user-file", text(&users)];
        let mut relay = network.bare_command().args(alone).args(more).spawn_watched(name).unwrap();
        relay.log().allow(MISSING);
        relay.wait_for("relaying", SOON).unwrap();
        relay
    };
    let warning = |relay: &Process| {
        relay.log().lines().into_iter().find(|line| line.message.starts_with(MISSING))
    };
    let relay = start("unsure", &[]);
    let line = warning(&relay).unwrap();
    assert_eq!(line.text("public"), Some("198.51.100.1"));
    let listening = relay.log().find(LISTENING).unwrap();
    assert_eq!(listening.text("address"), Some("0.0.0.0:3478"));
    relay.kill().unwrap();

    for bind in ["0.0.0.0", RELAY] {
        let relay = start("sure", &["--bind-ip4-addr", bind]);
        assert!(warning(&relay).is_none());
        let listening = relay.log().find(LISTENING).unwrap();
        assert_eq!(listening.text("address"), Some(format!("{bind}:3478").as_str()));
        relay.kill().unwrap();
    }
}
