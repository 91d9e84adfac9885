//! Networks that let no datagrams through: relays are reached by TCP or TLS, until datagrams pass again.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test")]

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::Duration;

use connlib_e2e::{
    Capture, Lab, Nat, Router, Scenario, Setup, scenario,
    topology::{OFFICE_PAGE, Options, Underlay, relay_addresses},
    wait,
};

const DEADLINE: Duration = Duration::from_secs(30);
/// The longest time that an application may be without answers when its network begins to block datagrams: until the
/// relays are found to be out of reach, and a stream is there.
const STALL: Duration = Duration::from_secs(6);
/// Until it is noticed that datagrams pass again, and nobody is sent to the stream any more.
const RETURN: Duration = Duration::from_secs(90);

const TCP: [&str; 2] = ["--listen-tcp", "0.0.0.0:3478,[::]:3478"];
const TLS: [&str; 2] = ["--listen-tls", "0.0.0.0:443,[::]:443"];

/// Nothing but DNS, which the lab's machines need for other things.
const WALL: &str = "table inet wall {
    chain stop {
        type filter hook forward priority filter
        udp dport 53 accept
        udp sport 53 accept
        meta l4proto udp drop
    }
}";

fn hidden() -> Options {
    Options {
        nat: Nat::Symmetric,
        gateway_nat: Some(Nat::Symmetric),
        relays: 1,
        ..Options::default()
    }
}

fn build_wall(router: &Router) {
    router.nft(WALL).unwrap();
}

fn tear_wall_down(router: &Router) {
    router.nft("delete table inet wall").unwrap();
}

fn with_certificate(lab: &Lab, options: &[&str]) -> Vec<String> {
    let made = rcgen::generate_simple_self_signed(["relay.example".to_owned()]).unwrap();
    let (certificate, key) = (lab.directory().join("relay.crt"), lab.directory().join("relay.key"));
    fs::write(&certificate, made.cert.pem()).unwrap();
    fs::write(&key, made.signing_key.serialize_pem()).unwrap();
    fs::set_permissions(&key, Permissions::from_mode(0o600)).unwrap();
    let path = |path: &Path| path.to_str().unwrap().to_owned();
    let files = ["--tls-cert".into(), path(&certificate), "--tls-key".into(), path(&key)];
    options.iter().map(|option| (*option).to_owned()).chain(files).collect()
}

fn prepare(options: Options, relay_options: &[&str]) -> Scenario {
    let lab = Lab::new().unwrap();
    let relay_options = with_certificate(&lab, relay_options);
    Scenario::prepare(lab, Setup { relay_options, ..Setup::on(options) }).unwrap()
}

fn start(scenario: &mut Scenario) {
    scenario.start_portal().unwrap();
    scenario.start_relays().unwrap();
    scenario.start_gateway().unwrap();
    scenario.start_client().unwrap();
}

/// Connections from the client to the first relay.
fn streams(scenario: &Scenario) -> usize {
    let connections = scenario.network.client.command("ss").args(["-Htn", "state", "established"]);
    let connections = connections.run().unwrap();
    let addresses = relay_addresses(0).map(|ip| ip.to_string());
    connections.lines().filter(|line| addresses.iter().any(|ip| line.contains(ip))).count()
}

fn fetch(scenario: &Scenario) {
    for url in ["http://10.20.0.10/", "http://[fd20::10]/", "http://web.office.example/"] {
        let page = scenario.fetch(url);
        assert_eq!(page.unwrap_or_else(|e| panic!("{url}: {e:#}")).trim(), OFFICE_PAGE, "{url}");
    }
}

fn check(options: Options, relay_options: &[&str]) {
    let mut scenario = prepare(options, relay_options);
    build_wall(&scenario.network.router);
    start(&mut scenario);
    fetch(&scenario);
    let length = 3_000_000;
    let body = scenario.curl().arg(format!("http://10.20.0.10/bytes/{length}")).output().unwrap();
    assert_eq!(body.stdout.len(), length);
    assert_eq!(streams(&scenario), 1);
    scenario.finish().unwrap();
}

#[test]
fn by_tcp() {
    check(hidden(), &TCP);
}

#[test]
fn by_tls() {
    check(hidden(), &TLS);
}

#[test]
fn on_ipv6_alone() {
    check(Options { underlay: Underlay::V6Only, ..hidden() }, &[TCP, TLS].concat());
}

#[test]
fn from_ipv4_to_ipv6() {
    let options = Options { client: Underlay::V4Only, gateway: Underlay::V6Only, ..hidden() };
    check(options, &TLS);
}

#[test]
fn even_at_both_ends() {
    let mut scenario = prepare(hidden(), &TLS);
    build_wall(&scenario.network.router);
    build_wall(scenario.network.gateway_router.as_ref().unwrap());
    start(&mut scenario);
    fetch(&scenario);
    scenario.finish().unwrap();
}

#[test]
fn beside_a_program_in_the_kernel() {
    if !Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../relay/xdp/object/relay.o")).exists() {
        eprintln!("skipped: the relay has no XDP program, see `cargo xtask ebpf`");
        return;
    }
    let xdp = ["--xdp-interface", "eth0", "--xdp", "native"];
    let options = Options { relays_on_wires: true, ..hidden() };
    let mut scenario = prepare(options, &[&TCP[..], &xdp[..]].concat());
    build_wall(&scenario.network.router);
    let capture = Capture::start(&scenario.network.internet, &relay_addresses(0)).unwrap();
    start(&mut scenario);
    fetch(&scenario);
    assert_eq!(capture.stop().unwrap().wrong, [""; 0]);
    scenario.finish().unwrap();
}

#[test]
fn from_when_datagrams_do_not_pass_until_they_do_again() {
    let mut scenario = prepare(hidden(), &[TCP, TLS].concat());
    start(&mut scenario);
    let echo = scenario.echo("10.20.0.10:7").unwrap();
    let probe = scenario.probe(&echo).unwrap();
    assert_eq!(streams(&scenario), 0);

    build_wall(&scenario.network.router);
    wait::until("a stream", DEADLINE, || (streams(&scenario) == 1).then_some(())).unwrap();
    std::thread::sleep(STALL);
    probe.wait_for_answers(100, DEADLINE).unwrap();
    probe.stop().unwrap().assert_silence("datagrams are blocked", STALL);

    // Whatever is lost from here on the way back is a packet too many.
    let probe = scenario.probe(&echo).unwrap();
    tear_wall_down(&scenario.network.router);
    wait::until("no stream", RETURN, || (streams(&scenario) == 0).then_some(())).unwrap();
    probe.wait_for_answers(100, DEADLINE).unwrap();
    probe.stop().unwrap().assert_silence("datagrams pass again", Duration::from_millis(500));
    assert!(scenario::path_of(scenario.client.as_ref().unwrap()).is_some());
    scenario.finish().unwrap();
}

#[test]
fn and_again_after_the_relay_restarts() {
    let mut scenario = prepare(hidden(), &TCP);
    build_wall(&scenario.network.router);
    start(&mut scenario);
    let echo = scenario.echo("10.20.0.10:7").unwrap();
    let probe = scenario.probe(&echo).unwrap();
    drop(scenario.relays.pop());
    scenario.start_relays().unwrap();
    probe.wait_for_answers(100, DEADLINE).unwrap();
    wait::until("a stream", DEADLINE, || (streams(&scenario) == 1).then_some(())).unwrap();
    probe.wait_for_answers(100, DEADLINE).unwrap();
    scenario.finish().unwrap();
}
