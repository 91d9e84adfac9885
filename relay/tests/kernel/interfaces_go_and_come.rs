//! The relay relays with the program while its interface is there, and without while it is not.

use connlib_e2e::{Process, wait};
use nix::sys::socket::{setsockopt, sockopt::UdpGsoSegment};

use crate::client::Client;
use crate::network::{
    ATTACHED, GONE, Peer, REFUSED, flags, know_each_other, lay, lay_unfinished, mode, plug,
    plug_bridge, plug_wire, reach, relayed, wait_for_nth,
};
use crate::support::{Network, PEER, RELAY, SOON};

const CHANNEL: u16 = 0x4001;

/// A client with an allocation, that has bound a channel to a peer.
fn allocated(network: &Network) -> (Client, Peer, u16) {
    let mut client = Client::anna(&network.client, RELAY);
    let peer = Peer::new(network, true);
    let port = client.allocate();
    assert_eq!(client.bind(CHANNEL, peer.address), None);
    (client, peer, port)
}

/// A datagram goes there and back, in this way.
fn assert_relayed(network: &Network, datapath: &str, (client, peer, port): &(Client, Peer, u16)) {
    // Until all know where the others are.
    reach(client, CHANNEL, peer, *port);
    let before = relayed(network, datapath);
    reach(client, CHANNEL, peer, *port);
    wait::until(datapath, SOON, || (relayed(network, datapath) >= before + 2).then_some(()))
        .unwrap();
}

fn has_program(network: &Network) -> bool {
    network.relay.ip("link show dev eth0").unwrap().contains("prog/xdp")
}

/// With the relay's addresses, or where they are on another one, as where routers announce them.
#[test]
fn it_may_come_later() {
    for is_elsewhere in [false, true] {
        let Some((network, _)) = lay() else { return };
        network.relay.ip("link delete eth0").unwrap();
        if is_elsewhere {
            network.relay.address("lo", "203.0.113.5/32").unwrap();
            network.relay.address("lo", "2001:db8::5/128").unwrap();
        }
        let on_all = ["--bind-ip4-addr", "0.0.0.0", "--bind-ip6-addr", "::"];
        let mut relay = network.start(&[&flags("native")[..], &on_all].concat());
        relay.wait_for(GONE, SOON).unwrap();
        assert_eq!(mode(&network), "off");

        let _cable = plug(&network);
        relay.wait_for(ATTACHED, SOON).unwrap();
        assert_eq!(mode(&network), "native");
        assert_relayed_soon(&network, &allocated(&network));
    }
}

#[test]
fn another_one_with_its_name_takes_its_place() {
    let Some((network, mut cable)) = lay() else { return };
    let relay = network.start(&flags("native"));
    let standing = allocated(&network);
    assert_relayed(&network, "xdp", &standing);

    for count in 0..2 {
        drop(cable);
        network.relay.ip("link delete eth0").unwrap();
        wait_for_nth(&relay, GONE, count);
        assert_eq!(mode(&network), "off");
        cable = plug(&network);
        wait_for_nth(&relay, ATTACHED, count + 1);
        assert_eq!(mode(&network), "native");
        // What stood before does still.
        assert_relayed(&network, "xdp", &standing);
    }
}

/// Under another name it is another interface, though packets go on to come by it: user space relays them.
#[test]
fn what_changes_while_it_is_away_is_known_when_it_is_back() {
    let Some((network, _cable)) = lay() else { return };
    let relay = network.start(&flags("native"));
    let stays = allocated(&network);
    let mut goes = allocated(&network);
    assert_relayed(&network, "xdp", &stays);
    assert_relayed(&network, "xdp", &goes);

    network.relay.ip("link set eth0 name eth7").unwrap();
    wait_for_nth(&relay, GONE, 0);
    assert!(!network.relay.ip("link show dev eth7").unwrap().contains("prog/xdp"));
    assert_relayed(&network, "userspace", &stays);
    let comes = allocated(&network);
    assert_relayed(&network, "userspace", &comes);
    goes.0.end();

    network.relay.ip("link set eth7 name eth0").unwrap();
    wait_for_nth(&relay, ATTACHED, 1);
    assert_relayed(&network, "xdp", &stays);
    assert_relayed(&network, "xdp", &comes);
    let before = relayed(&network, "xdp");
    goes.0.send(CHANNEL, b"from a ghost", &[]);
    assert_eq!(goes.1.receive(), None);
    assert_eq!(relayed(&network, "xdp"), before);
}

#[test]
fn it_may_be_lent_to_another_namespace() {
    let Some((network, _cable)) = lay() else { return };
    let relay = network.start(&flags("native"));
    let standing = allocated(&network);
    assert_relayed(&network, "xdp", &standing);

    let shed = network.lab().namespace("shed").unwrap();
    network.relay.ip(&format!("link set eth0 netns {}", shed.full_name())).unwrap();
    wait_for_nth(&relay, GONE, 0);
    assert!(!shed.ip("link show dev eth0").unwrap().contains("prog/xdp"));
    shed.ip(&format!("link set eth0 netns {}", network.relay.full_name())).unwrap();
    network.relay.address("eth0", "203.0.113.5/24").unwrap();
    network.relay.address("eth0", "2001:db8::5/64").unwrap();
    network.relay.ip("link set eth0 up").unwrap();
    wait_for_nth(&relay, ATTACHED, 1);
    assert_relayed(&network, "xdp", &standing);
}

/// As behind a router that translates addresses: the public one is on no interface, and that of the machine may change.
#[test]
fn the_machine_may_get_another_address() {
    let Some((network, _cable)) = lay() else { return };
    network.relay.route("default", "203.0.113.6").unwrap();
    let users = network.users();
    let public = ["--public-ip4-addr", "192.0.2.1", "--bind-ip4-addr", "0.0.0.0"];
    let command = network.bare_command().args(public);
    let command = command.args(["--health-listen", "127.0.0.1:8080"]).args(flags("native"));
    let mut relay = command.arg("--user-file").arg(users).spawn_watched("relay").unwrap();
    relay.wait_for("relaying", SOON).unwrap();
    let through = |address: &str| {
        let mut client = Client::anna(&network.client, address);
        let peer = Peer::of(&network, PEER, address);
        let port = client.allocate_of_ipv4();
        assert_eq!(client.bind(CHANNEL, peer.address), None);
        (client, peer, port)
    };
    assert_relayed(&network, "xdp", &through("203.0.113.5"));

    network.relay.ip("address delete 203.0.113.5/24 dev eth0").unwrap();
    network.relay.address("eth0", "203.0.113.55/24").unwrap();
    network.relay.route("default", "203.0.113.6").unwrap();
    assert_relayed_soon(&network, &through("203.0.113.55"));
}

/// As soon as the program knows the relay's address.
fn assert_relayed_soon(network: &Network, (client, peer, port): &(Client, Peer, u16)) {
    wait::until("the program to know the address", SOON, || {
        reach(client, CHANNEL, peer, *port);
        let before = relayed(network, "xdp");
        reach(client, CHANNEL, peer, *port);
        (relayed(network, "xdp") >= before + 2).then_some(())
    })
    .unwrap();
}

/// In the driver of the first, behind that of the second. Of a bridge, the program sees what the kernel has made of packets
/// at its ports: it has joined datagrams, for sockets that take many at once.
#[test]
fn one_that_can_do_less_is_used_as_it_can() {
    let Some((network, _)) = lay() else { return };
    network.relay.ip("link delete eth0").unwrap();
    let wire = plug_wire(&network);
    let relay = network.start(&flags("auto"));
    assert_eq!(mode(&network), "native");
    let standing = allocated(&network);
    assert_relayed(&network, "xdp", &standing);

    drop(wire);
    wait_for_nth(&relay, GONE, 0);
    plug_bridge(&network);
    wait_for_nth(&relay, ATTACHED, 1);
    assert_eq!(mode(&network), "generic");
    assert_relayed(&network, "xdp", &standing);
    assert_runs_stay_apart(&standing);
    assert!(unfinished(&network) > 0, "joined, and left to user space");

    network.relay.ip("link delete eth0").unwrap();
    network.relay.ip("link delete card0").unwrap();
    wait_for_nth(&relay, GONE, 1);
    let _wire = plug_wire(&network);
    wait_for_nth(&relay, ATTACHED, 2);
    assert_eq!(mode(&network), "native");
    assert_relayed(&network, "xdp", &standing);
}

/// Between namespaces of one machine nobody finishes checksums, and runs of datagrams travel as one packet.
#[test]
fn what_is_not_finished_is_for_user_space() {
    for mode in ["generic", "native"] {
        let Some(network) = lay_unfinished() else { return };
        let _relay = network.start(&flags(mode));
        let standing = allocated(&network);
        assert_relayed(&network, "userspace", &standing);
        assert_runs_stay_apart(&standing);
        assert!(unfinished(&network) > 0, "{mode}");
        assert_eq!(relayed(&network, "xdp"), 0, "{mode}");
    }
}

fn unfinished(network: &Network) -> u64 {
    network.metric("connlib_relay_xdp_passed_total", "Unfinished")
}

/// How often a run of so many datagrams of one length comes from a peer.
const RUNS: u64 = 20;
const RUN: usize = 8;
const LENGTH: usize = 100;

fn assert_runs_stay_apart((client, peer, port): &(Client, Peer, u16)) {
    setsockopt(peer.socket(), UdpGsoSegment, &(LENGTH as i32)).unwrap();
    for _ in 0..RUNS {
        let run: Vec<u8> = (0..RUN).flat_map(|number| [number as u8; LENGTH]).collect();
        peer.send(*port, &run);
        for number in 0..RUN {
            assert_eq!(client.receive(), Some((CHANNEL, vec![number as u8; LENGTH])));
        }
    }
    setsockopt(peer.socket(), UdpGsoSegment, &0).unwrap();
}

/// The second relay of a machine works without, and takes over when the first one dies.
#[test]
fn two_relays_cannot_share_it() {
    let Some((network, _cable)) = lay() else { return };
    let first = network.start(&flags("native"));
    let users = network.users();
    let command = network.bare_command().args(["--public-ip4-addr", RELAY]);
    let command = command.args(["--user-file", users.to_str().unwrap()]).args(flags("native"));
    let ports = ["--listen-port", "3479", "--lowest-port", "40000", "--highest-port", "49151"];
    let mut second = command.args(ports).spawn_watched("second").unwrap();
    second.log().allow(REFUSED);
    second.wait_for("relaying", SOON).unwrap();
    let error = second.log().find(REFUSED).unwrap();
    assert!(error.text("error").unwrap().contains("eth0"), "{error}");
    let standing = allocated(&network);
    assert_relayed(&network, "xdp", &standing);

    // Nobody can take it away, by the older interface at least.
    let off = network.relay.ip("link set dev eth0 xdp off");
    off.unwrap_err();
    assert!(has_program(&network));

    // Killed: it has no time to let go of anything.
    Process::kill(first).unwrap();
    second.wait_for(ATTACHED, SOON).unwrap();
    assert!(has_program(&network));
    drop(standing);
    Process::kill(second).unwrap();
    wait::until("the program to go", SOON, || (!has_program(&network)).then_some(())).unwrap();
    know_each_other(&network);
}
