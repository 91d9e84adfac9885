//! The relay's XDP program carries what the relay would, and leaves it to the relay where it does not run.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test")]

use std::{path::Path, time::Duration};

use connlib_e2e::{
    Capture, Nat, Scenario, Setup, scenario,
    topology::{OFFICE_PAGE, Options, Underlay, relay_addresses},
    wait,
};

/// Where `cargo xtask ebpf` puts the program.
const PROGRAM: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../relay/xdp/object/relay.o");
/// Bytes up and down, several times what control messages need.
const LENGTH: u64 = 1_000_000;
/// Packets that this takes at least: none is longer than this.
const LONGEST: u64 = 1500;

const DEADLINE: Duration = Duration::from_secs(30);
/// The longest time that an application may be without answers when its relay dies.
const STALL: Duration = Duration::from_secs(3);

/// Client and gateway behind routers that let nothing in, on a network with relays that attach in this mode.
fn start(mode: &str, options: Options) -> Option<Scenario> {
    if mode != "off" && !Path::new(PROGRAM).exists() {
        eprintln!("skipped: the relay has no XDP program, see `cargo xtask ebpf`");
        return None;
    }
    let options = Options {
        nat: Nat::Symmetric,
        gateway_nat: Some(Nat::Symmetric),
        relays: options.relays.max(1),
        relays_on_wires: true,
        ..options
    };
    let flags = ["--xdp-interface", "eth0", "--xdp", mode, "--health-listen", "127.0.0.1:8082"];
    let relay_options = flags.map(str::to_owned).to_vec();
    Some(Scenario::start(Setup { relay_options, ..Setup::on(options) }).unwrap())
}

/// The relay that the client's packets take at present.
fn used(scenario: &Scenario) -> u8 {
    let path = scenario::path_of(scenario.client.as_ref().unwrap()).unwrap();
    scenario::relay_of(&path).unwrap_or_else(|| panic!("{path}"))
}

/// Payload that a relay has relayed, in user space or by XDP.
fn relayed(scenario: &Scenario, relay: u8, datapath: &str) -> u64 {
    let metrics = scenario.network.relays[usize::from(relay)].command("curl");
    let metrics = metrics.args(["-q", "-sS", "http://127.0.0.1:8082/metrics"]).run().unwrap();
    let name = format!("connlib_relay_relayed_bytes_total{{datapath=\"{datapath}\"");
    let lines = metrics.lines().filter(|line| line.starts_with(&name));
    lines.map(|line| line.rsplit(' ').next().unwrap().parse::<u64>().unwrap()).sum()
}

fn download(scenario: &Scenario) {
    let body = scenario.curl().arg(format!("http://10.20.0.10/bytes/{LENGTH}")).output().unwrap();
    assert_eq!(body.stdout.len() as u64, LENGTH);
}

fn check(mode: &str, options: Options) {
    let Some(scenario) = start(mode, options) else { return };
    let relays = scenario.network.relays.len() as u8;
    let addresses: Vec<_> = (0..relays).flat_map(relay_addresses).collect();
    let capture = Capture::start(&scenario.network.internet, &addresses).unwrap();
    assert_eq!(scenario.fetch("http://web.office.example/").unwrap().trim(), OFFICE_PAGE);
    assert_eq!(scenario.fetch("http://[fd20::10]/").unwrap().trim(), OFFICE_PAGE);
    download(&scenario);

    let seen = capture.stop().unwrap();
    assert_eq!(seen.wrong, [""; 0]);
    assert!(seen.datagrams as u64 > LENGTH / LONGEST, "{seen:?}");
    let [much, little] = if mode == "off" { ["userspace", "xdp"] } else { ["xdp", "userspace"] };
    // Workers tell their numbers once a second.
    wait::until("what was relayed to be counted", DEADLINE, || {
        (relayed(&scenario, used(&scenario), much) > LENGTH).then_some(())
    })
    .unwrap();
    let little = relayed(&scenario, used(&scenario), little);
    assert!(little < LENGTH / 10, "{little} bytes did not go by {much}");
    scenario.finish().unwrap();
}

#[test]
fn in_the_driver() {
    check("native", Options::default());
}

#[test]
fn behind_the_driver() {
    check("generic", Options::default());
}

#[test]
fn or_not_at_all() {
    check("off", Options::default());
}

#[test]
fn between_two_relays() {
    check("native", Options { relays: 2, ..Options::default() });
}

#[test]
fn on_ipv4_alone() {
    check("native", Options { underlay: Underlay::V4Only, ..Options::default() });
}

#[test]
fn on_ipv6_alone() {
    check("native", Options { underlay: Underlay::V6Only, ..Options::default() });
}

#[test]
fn from_ipv4_to_ipv6() {
    let (client, gateway) = (Underlay::V4Only, Underlay::V6Only);
    for mode in ["native", "generic", "off"] {
        check(mode, Options { client, gateway, ..Options::default() });
    }
}

#[test]
fn from_ipv6_to_ipv4() {
    let (client, gateway) = (Underlay::V6Only, Underlay::V4Only);
    for mode in ["native", "generic", "off"] {
        check(mode, Options { client, gateway, ..Options::default() });
    }
}

#[test]
fn and_another_takes_over_when_it_dies() {
    let Some(mut scenario) = start("native", Options { relays: 2, ..Options::default() }) else {
        return;
    };
    let echo = scenario.echo("10.20.0.10:7").unwrap();
    let probe = scenario.probe(&echo).unwrap();
    let first = used(&scenario);

    // Killed, as by a crash: nobody lets go of anything.
    drop(scenario.relays.remove(usize::from(first)));
    probe.wait_for_answers(100, DEADLINE).unwrap();
    probe.stop().unwrap().assert_silence("a relay of two dies", STALL);
    let other = used(&scenario);
    assert_eq!(other, 1 - first);
    let before = relayed(&scenario, other, "xdp");
    download(&scenario);
    assert!(relayed(&scenario, other, "xdp") > before + LENGTH);
    scenario.finish().unwrap();
}

#[test]
fn and_carries_on_after_a_restart() {
    let Some(mut scenario) = start("native", Options::default()) else { return };
    let echo = scenario.echo("10.20.0.10:7").unwrap();
    let probe = scenario.probe(&echo).unwrap();
    drop(scenario.relays.pop());
    scenario.start_relays().unwrap();
    probe.wait_for_answers(100, DEADLINE).unwrap();
    probe.stop().unwrap().assert_silence("the only relay restarts", STALL);
    download(&scenario);
    assert!(relayed(&scenario, 0, "xdp") > LENGTH);
    scenario.finish().unwrap();
}

/// The cable's end at the relay is another interface each time, as after a reset of the card.
#[test]
fn and_is_back_when_the_interface_is() {
    let Some(mut scenario) = start("native", Options::default()) else { return };
    download(&scenario);
    scenario.network.unplug_relay(0).unwrap();
    scenario.relays[0]
        .wait_for("no XDP program is attached: relaying in user space", DEADLINE)
        .unwrap();
    scenario.network.plug_relay(0).unwrap();
    let log = scenario.relays[0].log().clone();
    wait::until("the program to be attached again", DEADLINE, || {
        log.find_nth("relaying channels in the kernel", 1)
    })
    .unwrap();
    let echo = scenario.echo("10.20.0.10:7").unwrap();
    let probe = scenario.probe(&echo).unwrap();
    probe.wait_for_answers(100, DEADLINE).unwrap();
    probe.stop().unwrap();
    let before = relayed(&scenario, 0, "xdp");
    download(&scenario);
    assert!(relayed(&scenario, 0, "xdp") > before + LENGTH);
    scenario.finish().unwrap();
}
