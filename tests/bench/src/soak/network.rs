//! The network that a soaked relay stands on: strangers of any address on one side, peers on the other.
//!
//! ```text
//!  clients ──────────────── relay ──────────────── peers
//!   10.1.0.0/16          10.0.1.1  10.0.2.1        10.0.2.2, 10.0.2.3
//!   2001:db8:8::/48  2001:db8:1::1  2001:db8:2::1  2001:db8:2::2, 2001:db8:2::3
//! ```

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    time::Duration,
};

use anyhow::Result;
use connlib_e2e::{Lab, Namespace, Router, wait};
use rand::{RngExt as _, rngs::SmallRng};

/// The relay's addresses.
pub(super) const RELAY: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::new(10, 0, 1, 1)),
    IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, 1)),
];
/// Peers that clients talk to.
pub(super) const PEERS: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::new(10, 0, 2, 2)),
    IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 2, 0, 0, 0, 0, 2)),
];
/// Peers that no client has given a permission.
pub(super) const UNWANTED: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::new(10, 0, 2, 3)),
    IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 2, 0, 0, 0, 0, 3)),
];
/// The relay's interfaces.
pub(super) const INTERFACES: [&str; 2] = ["clients", "peers"];

const DEADLINE: Duration = Duration::from_secs(20);

const CLIENTS: [&str; 2] = ["10.1.0.0/16", "2001:db8:8::/48"];

#[derive(Debug)]
pub(super) struct Network {
    pub(super) clients: Namespace,
    pub(super) relay: Router,
    pub(super) peers: Namespace,
}

impl Network {
    pub(super) fn lay(lab: &Lab) -> Result<Self> {
        let clients = lab.namespace("clients")?;
        let relay = lab.router("relay")?;
        let peers = lab.namespace("peers")?;
        let [to_clients, to_peers] = INTERFACES;
        lab.cable(
            (&clients, "eth0", &["10.0.1.2/24", "2001:db8:1::2/64"]),
            (&relay, to_clients, &["10.0.1.1/24", "2001:db8:1::1/64"]),
        )?;
        lab.cable(
            (&relay, to_peers, &["10.0.2.1/24", "2001:db8:2::1/64"]),
            (
                &peers,
                "eth0",
                &["10.0.2.2/24", "10.0.2.3/24", "2001:db8:2::2/64", "2001:db8:2::3/64"],
            ),
        )?;
        // All of these addresses are the clients' own.
        clients.sysctl("net.ipv6.ip_nonlocal_bind", 1)?;
        for (network, (way, to_relay)) in
            CLIENTS.into_iter().zip([("10.0.1.2", "10.0.1.1"), ("2001:db8:1::2", "2001:db8:1::1")])
        {
            let family = if network.contains(':') { "-6" } else { "-4" };
            clients.ip(&format!("{family} route add local {network} dev lo"))?;
            clients.route("default", to_relay)?;
            relay.route(network, way)?;
        }
        peers.route("default", "10.0.2.1")?;
        peers.route("default", "2001:db8:2::1")?;

        // An XDP program sees what a cable carries: whole packets with their sums, as a network card has them.
        for (namespace, interface) in
            [(&clients, "eth0"), (&peers, "eth0"), (&relay, to_clients), (&relay, to_peers)]
        {
            let sums = if namespace.name() == relay.name() { "on" } else { "off" };
            namespace
                .command("ethtool")
                .args(["-K", interface, "tso", "off", "gso", "off", "tx-udp-segmentation", "off"])
                .args(["gro", "on", "tx", sums])
                .run()?;
        }
        // IPv6 takes a moment to make sure that nobody else has an address, and answers no question before.
        for (from, to) in [(&clients, RELAY), (&peers, RELAY), (&relay, PEERS), (&relay, UNWANTED)]
        {
            for to in to.map(|ip| ip.to_string()) {
                wait::until("the network", DEADLINE, || {
                    from.command("ping").args(["-q", "-c", "1", "-W", "1", &to]).run().ok()
                })?;
            }
        }
        Ok(Self { clients, relay, peers })
    }
}

/// The place in arrays of a family.
pub(super) fn place(is_v4: bool) -> usize {
    usize::from(!is_v4)
}

/// An address that hardly any client has had before.
pub(super) fn any_client(rng: &mut SmallRng, is_v4: bool) -> IpAddr {
    if is_v4 {
        Ipv4Addr::new(10, 1, rng.random(), rng.random_range(1..=254)).into()
    } else {
        let network = Ipv6Addr::new(0x2001, 0xdb8, 8, 0, 0, 0, 0, 0).to_bits();
        Ipv6Addr::from_bits(network | rng.random::<u128>() >> 48).into()
    }
}
