//! The portal gives each process its own username: an older allocation of it is what a NAT has left behind.

use std::time::SystemTime;

use data_encoding::BASE64_NOPAD;
use sha2::{Digest as _, Sha256};

use super::support::{Network, PEER, RELAY, SOON, text};

#[test]
fn the_newer_one_wins_whichever_worker_has_it() {
    let network = Network::new();
    let _echo = network.echo();
    let secret = network.file("secret", "a secret of the relay\n");
    let token = network.file("token", ".token\n");
    // It serves those who know the secret while the portal is away.
    let portal = ["--api-url", "ws://127.0.0.1:1", "--token-file", text(&token)];
    let command = network.command().args(portal).args([
        "--static-secret-file",
        text(&secret),
        "--workers",
        "8",
    ]);
    let mut relay = command.spawn_watched("relay").unwrap();
    relay.wait_for("relaying", SOON).unwrap();

    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
    let username = format!("{}:salt", now + 3600);
    let stamped = format!("{}:a secret of the relay:salt", now + 3600);
    let password = BASE64_NOPAD.encode(&Sha256::digest(stamped.as_bytes()));
    let client = |arguments: &str| {
        let command = network.client.command("timeout").args(["60", "turnutils_uclient"]);
        command.args(["-u", &username, "-w", &password]).args(arguments.split_whitespace())
    };

    let mut allocated = 0;
    for round in 0..8 {
        // From other ports than the last time, hence often to another worker.
        let client = client(&format!("-e {PEER} -c -n 3000 -z 20 {RELAY}"));
        let client = client.spawn(&format!("client-{round}")).unwrap();
        network
            .wait_for_metric_with("connlib_relay_allocations_total", "", |total| total > allocated);
        allocated = network.metric("connlib_relay_allocations_total", "");
        network.wait_for_metric("connlib_relay_allocations", 1);
        // It can't give its allocation back.
        client.kill().unwrap();
    }
    let workers = (0..8).map(|worker| format!("worker=\"{worker}\""));
    let received = |worker: &String| network.metric("connlib_relay_received_packets_total", worker);
    assert!(workers.filter(|worker| received(worker) > 0).count() > 1);
}
