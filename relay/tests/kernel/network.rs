//! The network of the other tests, where the relay's interface is one for XDP.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::path::Path;
use std::time::Duration;

use connlib_e2e::wire::Wire;
use connlib_e2e::{Impairment, Process, wait};
use connlib_relay_xdp::{Config, Preference, Xdp};

use crate::client::{Client, receive, socket};
use crate::support::{Network, PEER, PEER6, RELAY, RELAY6, SOON, addresses};

/// Where `cargo xtask ebpf` puts the program.
const PROGRAM: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/xdp/object/relay.o");

pub(super) const ATTACHED: &str = "relaying channels in the kernel";
pub(super) const GONE: &str = "no XDP program is attached: relaying in user space";
pub(super) const REFUSED: &str = "the XDP program does not run: relaying in user space";

/// On which interface, and in which mode.
pub(super) fn flags(mode: &str) -> [&str; 4] {
    ["--xdp-interface", "eth0", "--xdp", mode]
}

/// The network, and a cable that a program can send on in the driver, if there is a program.
pub(super) fn lay() -> Option<(Network, Cable)> {
    let network = lay_unfinished()?;
    let cable = Cable::of(&network);
    Some((network, cable))
}

/// The same with cables as the kernel makes them: it leaves checksums, and the cutting of runs, for the last one to do.
pub(super) fn lay_unfinished() -> Option<Network> {
    if !Path::new(PROGRAM).exists() {
        eprintln!("skipped: the relay has no XDP program, see `cargo xtask ebpf`");
        return None;
    }
    Some(Network::new())
}

/// The relay's cable, whose frames are as on a real one: with whole checksums.
#[derive(Debug)]
pub(super) struct Cable {
    /// In this kind of driver, what a program sends arrives only where another program is. This one lets all pass.
    _passing: Xdp,
}

impl Cable {
    fn of(network: &Network) -> Self {
        finish_checksums(network, "eth0");
        let attach = || {
            let (mut passing, _) = Xdp::load(&Config {
                interfaces: vec!["relay".to_owned()],
                preference: Preference::Native,
                listen_port: 0,
                v4: None,
                v6: None,
            })
            .unwrap();
            passing.tend().unwrap();
            passing
        };
        Self { _passing: network.internet.enter(attach).unwrap() }
    }
}

/// At both ends of the relay's cable.
fn finish_checksums(network: &Network, interface: &str) {
    for (at, interface) in [(&*network.internet, "relay"), (&network.relay, interface)] {
        at.command("ethtool").args(["-K", interface, "tx", "off"]).run().unwrap();
    }
}

/// Gives the relay its usual interface.
pub(super) fn plug(network: &Network) -> Cable {
    let addresses = addresses(5);
    let addresses = addresses.each_ref().map(String::as_str);
    network.internet.plug(&network.relay, "eth0", &addresses).unwrap();
    know_each_other(network);
    Cable::of(network)
}

/// Gives it one without programs in its driver: a bridge, of which the card is a part. That card joins datagrams.
pub(super) fn plug_bridge(network: &Network) {
    network.internet.plug(&network.relay, "card0", &[]).unwrap();
    network.relay.ip("link add eth0 type bridge forward_delay 0").unwrap();
    network.relay.ip("link set card0 master eth0").unwrap();
    for address in addresses(5) {
        network.relay.address("eth0", &address).unwrap();
    }
    network.relay.ip("link set eth0 up").unwrap();
    know_each_other(network);
    finish_checksums(network, "card0");
    network.relay.command("ethtool").args(["-K", "card0", "gro", "on"]).run().unwrap();
}

/// Gives it one whose driver has programs.
pub(super) fn plug_wire(network: &Network) -> Wire {
    let addresses = addresses(5);
    let addresses = addresses.each_ref().map(String::as_str);
    let perfect = Impairment::default();
    let wire = network.internet.plug_wire(&network.relay, "eth0", &addresses, perfect, 1).unwrap();
    know_each_other(network);
    wire
}

/// Neighbours remember the card that was there before.
pub(super) fn know_each_other(network: &Network) {
    for host in [&network.client, &network.peer] {
        host.ip("neighbour flush dev eth0").unwrap();
    }
}

/// Waits for a line after `count` others like it.
pub(super) fn wait_for_nth(relay: &Process, line: &str, count: usize) {
    let log = relay.log();
    wait::until(line, SOON, || log.find_nth(line, count)).unwrap();
}

/// What the metric says about the interface.
pub(super) fn mode(network: &Network) -> String {
    let metrics = network.get("/metrics");
    let start = "connlib_relay_xdp_attached{interface=\"eth0\",mode=\"";
    let mut lines = metrics.lines().filter_map(|line| line.strip_prefix(start));
    let (mode, value) = lines.next().unwrap().split_once("\"} ").unwrap();
    assert_eq!((lines.next(), value), (None, if mode == "off" { "0" } else { "1" }));
    mode.to_owned()
}

/// How many packets were relayed in this way.
pub(super) fn relayed(network: &Network, datapath: &str) -> u64 {
    let label = format!("datapath=\"{datapath}\"");
    network.metric("connlib_relay_relayed_packets_total", &label)
}

/// Somebody on the other side of the relay.
pub(super) struct Peer {
    socket: UdpSocket,
    pub(super) address: SocketAddr,
    relay: IpAddr,
}

impl Peer {
    pub(super) fn new(network: &Network, is_v4: bool) -> Self {
        let (ip, relay) = if is_v4 { (PEER, RELAY) } else { (PEER6, RELAY6) };
        Self::of(network, ip, relay)
    }

    /// At this address, and the relay at that one.
    pub(super) fn of(network: &Network, ip: &str, relay: &str) -> Self {
        let ip = ip.parse().unwrap();
        let socket = socket(&network.peer, SocketAddr::new(ip, 0));
        let address = SocketAddr::new(ip, socket.local_addr().unwrap().port());
        Self { socket, address, relay: relay.parse().unwrap() }
    }

    pub(super) fn socket(&self) -> &UdpSocket {
        &self.socket
    }

    pub(super) fn send(&self, allocation: u16, data: &[u8]) {
        drop(self.socket.send_to(data, SocketAddr::new(self.relay, allocation)));
    }

    /// The next datagram, and the port of the relay that it came from; nothing if there is none for a while.
    pub(super) fn receive(&self) -> Option<(u16, Vec<u8>)> {
        receive(&self.socket).map(|(data, from)| (from.port(), data))
    }
}

/// Sends there and back until both have arrived: at first, neighbours have to be found.
pub(super) fn reach(client: &Client, channel: u16, peer: &Peer, allocation: u16) {
    let mut attempts = 0_u8..;
    wait::until("an answer through the relay", Duration::from_secs(60), || {
        let attempt = [attempts.next()?];
        client.send(channel, &attempt, &[]);
        // Those before it may come late, but not later.
        while peer.receive()? != (allocation, attempt.to_vec()) {}
        peer.send(allocation, &attempt);
        while client.receive()? != (channel, attempt.to_vec()) {}
        Some(())
    })
    .unwrap();
}
