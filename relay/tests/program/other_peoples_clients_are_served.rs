//! coturn's client, over all that carries TURN, to a peer of each family and to itself.

use std::thread;
use std::time::Duration;

use nix::sys::signal::Signal;

use super::support::{Network, PEER, PEER6, RELAY, RELAY6, SOON, lost_nothing, text};

fn assert_nothing_lost(output: &str, what: &str) {
    assert!(output.contains("Total lost packets 0 (0.000000%)"), "{what}:\n{output}");
    let last = output.lines().rfind(|line| line.contains("tot_recv_bytes")).unwrap();
    assert!(!last.ends_with("tot_recv_bytes ~ 0"), "{what}:\n{output}");
}

#[test]
fn over_udp_tcp_and_tls_in_both_families() {
    let network = Network::new();
    let tls = network.certificate("relay");
    let listen = ["--listen-tcp", "0.0.0.0:3478,[::]:3478", "--listen-tls", "0.0.0.0:443,[::]:443"];
    let files = ["--tls-cert", text(&tls.certificate), "--tls-key", text(&tls.key)];
    let _relay = network.start(&[&listen[..], &files].concat());
    let _echo = network.echo();

    for transport in ["", "-t", "-t -S -p 443"] {
        // By channels, and with -s by indications.
        for arguments in [
            format!("-e {PEER} {RELAY}"),
            format!("-s -x -e {PEER6} {RELAY}"),
            format!("-s -X -e {PEER} {RELAY6}"),
            format!("-x -e {PEER6} {RELAY6}"),
        ] {
            let arguments = format!("{transport} -c -m 2 -n 10 -z 5 {arguments}");
            assert_nothing_lost(&network.uclient(&arguments), &arguments);
        }
    }
    let relayed = "connlib_relay_relayed_packets_total";
    network.wait_for_metric_with(relayed, "to_client", |packets| packets >= 12 * 20);
}

/// coturn's client takes what it reads at once from TLS for one message.
#[test]
fn messages_that_come_together_are_told_apart_by_their_records() {
    let network = Network::new();
    let tls = network.certificate("relay");
    let files = ["--tls-cert", text(&tls.certificate), "--tls-key", text(&tls.key)];
    let relay = network.start(&[&["--listen-tls", "0.0.0.0:443"][..], &files].concat());
    let _echo = network.echo();
    let client = format!("-t -S -p 443 -c -m 2 -n 400 -z 5 -e {PEER} {RELAY}");
    let mut client = network.uclient_command(&client).spawn("client").unwrap();
    network.wait_for_metric_with("connlib_relay_channels", "", |channels| channels >= 2);
    // What peers say meanwhile is read in one turn.
    for _ in 0..40 {
        relay.signal(Signal::SIGSTOP).unwrap();
        thread::sleep(Duration::from_millis(40));
        relay.signal(Signal::SIGCONT).unwrap();
        thread::sleep(Duration::from_millis(10));
    }
    client.wait(SOON).unwrap();
    assert!(lost_nothing(&client), "{}", client.log().tail(20));
}

/// The allocations are on several workers, so that their datagrams cross over.
#[test]
fn two_clients_of_one_relay_reach_each_other() {
    let network = Network::new();
    let _relay = network.start(&["--workers", "4", "--listen-tcp", "0.0.0.0:3478"]);
    for transport in ["", "-t"] {
        let arguments = format!("{transport} -y -c -m 8 -n 10 -z 5 {RELAY}");
        assert_nothing_lost(&network.uclient(&arguments), &arguments);
    }
    let workers = (0..4).map(|worker| format!("worker=\"{worker}\""));
    let received = |worker: &String| network.metric("connlib_relay_received_packets_total", worker);
    let busy = workers.filter(|worker| received(worker) > 0).count();
    assert!(busy > 1, "the kernel spreads senders over the workers");
}

/// `-W` makes name and password as a service for WebRTC does.
#[test]
fn a_service_that_shares_a_secret_lets_clients_in() {
    let network = Network::new();
    let _echo = network.echo();
    let secrets =
        network.file("secrets", "# the one that goes\nthe-older-secret\nthe-newer-secret\n");
    let mut relay = network.command().args(["--static-secret-file", text(&secrets)]);
    relay = relay.args(["--realm", "example.com"]);
    let mut relay = relay.spawn_watched("relay").unwrap();
    relay.wait_for("relaying", SOON).unwrap();
    let run = |secret: &str| {
        let command =
            network.client.command("timeout").args(["30", "turnutils_uclient", "-u", "anna"]);
        let command =
            command.args(["-W", secret, "-e", PEER, "-c", "-m", "2", "-n", "5", "-z", "5", RELAY]);
        let output = command.output().unwrap();
        String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()
    };
    for secret in ["the-older-secret", "the-newer-secret"] {
        assert_nothing_lost(&run(secret), secret);
    }
    let refused = run("other-secret");
    assert!(!refused.contains("Total lost packets"), "{refused}");
}

/// As at providers that translate: the public address is on no interface, and never comes back from outside.
#[test]
fn two_clients_of_one_relay_reach_each_other_behind_a_translated_address() {
    let network = Network::new();
    let users = network.users();
    // The client finds the relay by its own address, and its peers by a public one that leads nowhere.
    let command = network.bare_command().args([
        "--public-ip4-addr",
        "198.51.100.1",
        "--bind-ip4-addr",
        "0.0.0.0",
        "--user-file",
        text(&users),
    ]);
    let mut relay = command.spawn_watched("relay").unwrap();
    relay.wait_for("relaying", SOON).unwrap();
    let arguments = format!("-y -c -m 4 -n 10 -z 5 {RELAY}");
    assert_nothing_lost(&network.uclient(&arguments), &arguments);
}

#[test]
fn two_relays_stand_side_by_side_and_a_restarted_one_serves_again() {
    let network = Network::new();
    let _echo = network.echo();
    let users = network.users();
    let other = network
        .bare_command()
        .args(["--public-ip4-addr", RELAY, "--listen-port", "3479", "--user-file", text(&users)])
        .args(["--lowest-port", "40000", "--highest-port", "40999"]);
    let mut other = other.spawn_watched("other").unwrap();
    other.wait_for("relaying", SOON).unwrap();

    let run =
        |port: u16| network.uclient(&format!("-p {port} -e {PEER} -c -m 2 -n 10 -z 5 {RELAY}"));
    for _ in 0..2 {
        let relay = network.start(&[]);
        assert_nothing_lost(&run(3478), "the one");
        assert_nothing_lost(&run(3479), "the other");
        relay.kill().unwrap();
    }
    assert_nothing_lost(&run(3479), "the other, alone");
}
