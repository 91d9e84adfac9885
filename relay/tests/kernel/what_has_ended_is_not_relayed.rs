//! What the relay does not allow, the program does not do: neither what was never allowed nor what has ended since.

use std::time::SystemTime;

use data_encoding::BASE64_NOPAD;
use nix::sys::signal::Signal;
use sha2::{Digest as _, Sha256};

use crate::client::Client;
use crate::network::{ATTACHED, Peer, flags, lay, reach, relayed};
use crate::support::{Network, RELAY, RELAY6, SOON, text};

const CHANNEL: u16 = 0x4001;
const DROPS: &str = "connlib_relay_drops_total";

/// Two channels of one allocation, one to a peer of each family, in use.
struct Standing {
    client: Client,
    peers: [Peer; 2],
    port: u16,
}

impl Standing {
    fn new(network: &Network, mut client: Client) -> Self {
        let peers = [true, false].map(|is_v4| Peer::new(network, is_v4));
        let port = client.allocate();
        for (channel, peer) in (CHANNEL..).zip(&peers) {
            assert_eq!(client.bind(channel, peer.address), None);
            reach(&client, channel, peer, port);
            let before = relayed(network, "xdp");
            reach(&client, channel, peer, port);
            assert!(relayed(network, "xdp") >= before + 2, "the program carries them");
        }
        Self { client, peers, port }
    }

    /// Both ways of one of its channels lead nowhere.
    fn assert_dead(&self, network: &Network, number: u16, reason: &str) {
        let peer = &self.peers[usize::from(number)];
        let (before, dropped) = (relayed(network, "xdp"), network.metric(DROPS, reason));
        self.client.send(CHANNEL + number, b"from a ghost", &[]);
        peer.send(self.port, b"to a ghost");
        network.wait_for_metric_with(DROPS, reason, |drops| drops > dropped);
        assert_eq!((peer.receive(), self.client.receive()), (None, None));
        assert_eq!(relayed(network, "xdp"), before);
    }
}

#[test]
fn an_allocation_that_its_client_gives_back() {
    let Some((network, _cable)) = lay() else { return };
    let _relay = network.start(&flags("native"));
    let mut gone = Standing::new(&network, Client::anna(&network.client, RELAY));
    let stays = Standing::new(&network, Client::anna(&network.client, RELAY6));
    gone.client.end();
    network.wait_for_metric("connlib_relay_allocations", 1);
    for number in [0, 1] {
        gone.assert_dead(&network, number, "no_allocation");
        reach(&stays.client, CHANNEL + number, &stays.peers[usize::from(number)], stays.port);
    }
}

#[test]
fn a_family_that_its_client_gives_back() {
    let Some((network, _cable)) = lay() else { return };
    let _relay = network.start(&flags("native"));
    let mut standing = Standing::new(&network, Client::anna(&network.client, RELAY));
    standing.client.end_family(false);
    network.wait_for_metric("connlib_relay_channels", 1);
    standing.assert_dead(&network, 1, "no_channel");
    reach(&standing.client, CHANNEL, &standing.peers[0], standing.port);
}

/// The portal gives each process a username of its own: the newer allocation takes the older one's place, in whichever
/// worker they are.
#[test]
fn an_allocation_that_another_one_replaces() {
    let Some((network, _cable)) = lay() else { return };
    let secret = network.file("secret", "a secret of the relay\n");
    let token = network.file("token", ".token\n");
    // It serves those who know the secret while the portal is away.
    let portal = ["--api-url", "ws://127.0.0.1:1", "--token-file", text(&token)];
    let command = network.command().args(portal).args(flags("native"));
    let command = command.args(["--static-secret-file", text(&secret), "--workers", "4"]);
    let mut relay = command.spawn_watched("relay").unwrap();
    relay.wait_for("relaying", SOON).unwrap();

    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
    let username = format!("{}:salt", now + 3600);
    let stamped = format!("{}:a secret of the relay:salt", now + 3600);
    let password = BASE64_NOPAD.encode(&Sha256::digest(stamped.as_bytes()));
    let client = || Client::new(&network.client, RELAY, &username, &password);

    let mut standing = Standing::new(&network, client());
    for _ in 0..4 {
        // From another port, hence often with another worker.
        let next = Standing::new(&network, client());
        network.wait_for_metric("connlib_relay_allocations", 1);
        standing.assert_dead(&network, 0, "no_allocation");
        standing = next;
    }
}

#[test]
fn peers_that_nobody_may_have() {
    let Some((network, _cable)) = lay() else { return };
    let denied = ["--denied-peers", "203.0.113.7/32"];
    let _relay = network.start(&[&flags("native")[..], &denied].concat());
    let mut client = Client::anna(&network.client, RELAY);
    let [denied, allowed] = [true, false].map(|is_v4| Peer::new(&network, is_v4));
    let port = client.allocate();
    assert_eq!(client.bind(CHANNEL, allowed.address), None);
    reach(&client, CHANNEL, &allowed, port);

    let services = ["127.0.0.1:8080", "203.0.113.5:8080"].map(|address| address.parse().unwrap());
    for (channel, peer) in (CHANNEL + 1..).zip([denied.address].into_iter().chain(services)) {
        assert_eq!(client.bind(channel, peer), Some(403), "{peer}");
        let dropped = network.metric(DROPS, "no_channel");
        client.send(channel, b"to whom nobody may send", &[]);
        network.wait_for_metric_with(DROPS, "no_channel", |drops| drops > dropped);
    }
    denied.send(port, b"from whom nobody may hear");
    network.wait_for_metric_with(DROPS, "no_permission", |drops| drops > 0);
    assert_eq!((denied.receive(), client.receive()), (None, None));
    reach(&client, CHANNEL, &allowed, port);
}

/// A permission is for an address, a channel for an address and its port: what has the one alone comes as an indication,
/// which user space makes.
#[test]
fn neighbours_of_a_peer() {
    let Some((network, _cable)) = lay() else { return };
    let _relay = network.start(&flags("native"));
    let standing = Standing::new(&network, Client::anna(&network.client, RELAY));
    let neighbour = Peer::new(&network, true);
    assert_ne!(neighbour.address, standing.peers[0].address);
    let before = relayed(&network, "xdp");
    neighbour.send(standing.port, b"by permission, not by channel");
    network.wait_for_metric_with("connlib_relay_relayed_packets_total", "userspace", |packets| {
        packets > 0
    });
    assert_eq!(relayed(&network, "xdp"), before);
}

#[test]
fn anything_after_the_relay_has_drained() {
    let Some((network, _cable)) = lay() else { return };
    let mut relay = network.start(&flags("native"));
    relay.wait_for(ATTACHED, SOON).unwrap();
    let mut standing = Standing::new(&network, Client::anna(&network.client, RELAY));
    relay.signal(Signal::SIGTERM).unwrap();
    relay.wait_for("draining", SOON).unwrap();
    let before = relayed(&network, "xdp");
    reach(&standing.client, CHANNEL, &standing.peers[0], standing.port);
    assert!(relayed(&network, "xdp") >= before + 2, "those who are there are served");

    standing.client.end();
    assert_eq!(relay.wait(SOON).unwrap().code(), Some(0));
    assert!(!network.relay.ip("link show dev eth0").unwrap().contains("xdp"));
}
