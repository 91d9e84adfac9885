//! Client and gateway each behind a router that lets nothing in and gives every destination another port.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test")]

use std::time::Duration;

use connlib_e2e::{
    Lab, Nat, Scenario, Setup, scenario,
    topology::{OFFICE_PAGE, Options, Underlay},
};

const DEADLINE: Duration = Duration::from_secs(30);
/// The longest time that an application may be without answers when its relay dies.
const STALL: Duration = Duration::from_secs(3);

fn hidden(relays: u8) -> Options {
    Options { nat: Nat::Symmetric, gateway_nat: Some(Nat::Symmetric), relays, ..Options::default() }
}

/// The relay that the client's packets take at present.
fn used(scenario: &Scenario) -> Option<u8> {
    scenario::relay_of(&scenario::path_of(scenario.client.as_ref()?)?)
}

fn check(options: Options) {
    let scenario = Scenario::start(Setup::on(options)).unwrap();
    for url in ["http://10.20.0.10/", "http://[fd20::10]/", "http://web.office.example/"] {
        let page = scenario.fetch(url);
        assert_eq!(page.unwrap_or_else(|e| panic!("{url}: {e:#}")).trim(), OFFICE_PAGE, "{url}");
    }
    assert!(
        used(&scenario).is_some(),
        "{:?}",
        scenario::path_of(scenario.client.as_ref().unwrap())
    );
    scenario.finish().unwrap();
}

#[test]
fn through_one() {
    check(hidden(1));
}

#[test]
fn through_one_of_two() {
    check(hidden(2));
}

#[test]
fn on_ipv4_alone() {
    check(Options { underlay: Underlay::V4Only, ..hidden(1) });
}

#[test]
fn on_ipv6_alone() {
    check(Options { underlay: Underlay::V6Only, ..hidden(1) });
}

#[test]
fn from_ipv4_to_ipv6() {
    check(Options { client: Underlay::V4Only, gateway: Underlay::V6Only, ..hidden(1) });
}

#[test]
fn from_ipv6_to_ipv4() {
    check(Options { client: Underlay::V6Only, gateway: Underlay::V4Only, ..hidden(2) });
}

#[test]
fn even_if_it_comes_late() {
    let mut scenario = Scenario::prepare(Lab::new().unwrap(), Setup::on(hidden(1))).unwrap();
    scenario.start_portal().unwrap();
    scenario.start_gateway().unwrap();
    scenario.start_client().unwrap();
    scenario.curl().args(["--max-time", "2", "http://10.20.0.10/"]).output().unwrap();
    scenario.start_relays().unwrap();
    let page =
        scenario.curl().args(["--retry", "5", "--retry-all-errors", "http://10.20.0.10/"]).run();
    assert_eq!(page.unwrap().trim(), OFFICE_PAGE);
    scenario.finish().unwrap();
}

#[test]
fn and_another_takes_over_when_it_dies() {
    let mut scenario = Scenario::start(Setup::on(hidden(2))).unwrap();
    let echo = scenario.echo("10.20.0.10:7").unwrap();
    let probe = scenario.probe(&echo).unwrap();
    let first = used(&scenario).unwrap();

    drop(scenario.relays.remove(usize::from(first)));
    std::thread::sleep(2 * STALL);
    probe.wait_for_answers(100, DEADLINE).unwrap();
    probe.stop().unwrap().assert_silence("a relay of two dies", STALL);
    assert_eq!(used(&scenario), Some(1 - first));

    scenario.finish().unwrap();
}

#[test]
fn and_carries_on_after_a_restart() {
    let mut scenario = Scenario::start(Setup::on(hidden(1))).unwrap();
    let echo = scenario.echo("10.20.0.10:7").unwrap();
    let probe = scenario.probe(&echo).unwrap();

    drop(scenario.relays.pop());
    scenario.start_relays().unwrap();
    probe.wait_for_answers(100, DEADLINE).unwrap();
    probe.stop().unwrap().assert_silence("the only relay restarts", STALL);
    scenario.finish().unwrap();
}

#[test]
fn until_there_is_a_direct_one() {
    let options = Options { gateway_nat: Some(Nat::Masquerade), relays: 1, ..Options::default() };
    let mut scenario = Scenario::prepare(Lab::new().unwrap(), Setup::on(options)).unwrap();
    let router = scenario.network.gateway_router.as_ref().unwrap();
    router
        .nft(
            "table inet wall {
                 chain stop {
                     type filter hook prerouting priority raw
                     ip saddr 203.0.113.20 drop
                     ip6 saddr 2001:db8:113::20 drop
                 }
             }",
        )
        .unwrap();
    scenario.start_portal().unwrap();
    scenario.start_relays().unwrap();
    scenario.start_gateway().unwrap();
    scenario.start_client().unwrap();
    let echo = scenario.echo("10.20.0.10:7").unwrap();
    let probe = scenario.probe(&echo).unwrap();
    assert!(used(&scenario).is_some());

    scenario.network.gateway_router.as_ref().unwrap().nft("delete table inet wall").unwrap();
    connlib_e2e::wait::until("a direct path", Duration::from_secs(60), || {
        used(&scenario).is_none().then_some(())
    })
    .unwrap();
    probe.wait_for_answers(100, DEADLINE).unwrap();
    let report = probe.stop().unwrap();
    // The last ones may still be under way, as some were when the probe began to count.
    assert!(report.answered + 2 >= report.sent, "{report:?}");
    scenario.finish().unwrap();
}
