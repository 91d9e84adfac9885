//! The relay's XDP program carries what the relay would.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test")]

use std::path::Path;

use connlib_e2e::{
    Nat, Scenario, Setup, scenario,
    topology::{OFFICE_PAGE, Options, Underlay},
};

/// Where `cargo xtask ebpf` puts the program.
const PROGRAM: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../relay/xdp/object/relay.o");
/// Bytes up and down, several times what control messages need.
const LENGTH: u64 = 1_000_000;

fn check(mode: &str, options: Options) {
    if !Path::new(PROGRAM).exists() {
        eprintln!("skipped: the relay has no XDP program, see `cargo xtask ebpf`");
        return;
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
    let scenario = Scenario::start(Setup { relay_options, ..Setup::on(options) }).unwrap();
    assert_eq!(scenario.fetch("http://web.office.example/").unwrap().trim(), OFFICE_PAGE);
    assert_eq!(scenario.fetch("http://[fd20::10]/").unwrap().trim(), OFFICE_PAGE);
    let url = format!("http://10.20.0.10/bytes/{LENGTH}");
    let body = scenario.curl().arg(url).output().unwrap();
    assert_eq!(body.stdout.len() as u64, LENGTH);

    let path = scenario::path_of(scenario.client.as_ref().unwrap()).unwrap();
    let relay = scenario::relay_of(&path).unwrap_or_else(|| panic!("{path}"));
    let bytes = |datapath| {
        let metrics = scenario.network.relays[usize::from(relay)].command("curl");
        let metrics = metrics.args(["-q", "-sS", "http://127.0.0.1:8082/metrics"]).run().unwrap();
        let name = format!("connlib_relay_relayed_bytes_total{{datapath=\"{datapath}\"");
        let lines = metrics.lines().filter(|line| line.starts_with(&name));
        lines.map(|line| line.rsplit(' ').next().unwrap().parse::<u64>().unwrap()).sum::<u64>()
    };
    assert!(bytes("xdp") > LENGTH, "{} by XDP", bytes("xdp"));
    assert!(bytes("userspace") < LENGTH / 10, "{} in user space", bytes("userspace"));
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
    check("native", Options { client, gateway, ..Options::default() });
}

#[test]
fn from_ipv6_to_ipv4() {
    let (client, gateway) = (Underlay::V6Only, Underlay::V4Only);
    check("native", Options { client, gateway, ..Options::default() });
}
