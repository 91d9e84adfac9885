//! Two gateways lead to the same site; the one in use goes.
#![allow(clippy::unwrap_used, reason = "a test")]

use std::{mem, net::IpAddr, time::Duration};

use connlib_e2e::{
    Namespace, Process, Scenario, Setup,
    scenario::{POLICY, event},
};

const DEADLINE: Duration = Duration::from_secs(60);

/// Another way into the office.
fn second_gateway(scenario: &Scenario) -> Namespace {
    let second = scenario.lab().namespace("second").unwrap();
    let network = &scenario.network;
    network.internet.plug(&second, "wan", &["203.0.113.12/24", "2001:db8:113::12/64"]).unwrap();
    network.office.plug(&second, "lan", &["10.20.0.2/24", "fd20::2/64"]).unwrap();
    second.set_resolvers(&["10.20.0.53".parse::<IpAddr>().unwrap()]).unwrap();
    second
}

fn take_over(what: &str, limit: Duration, end: impl FnOnce(Process)) {
    let policy = format!("{POLICY}\n[[gateway]]\nname = \"second\"\nsite = \"office\"\n");
    let mut scenario = Scenario::start(Setup::with_policy(policy)).unwrap();
    let mut second = scenario.spawn_gateway(&second_gateway(&scenario), "second").unwrap();
    second.wait_for(event::READY, DEADLINE).unwrap();
    let echo = scenario.echo("10.20.0.10:7").unwrap();
    let probe = scenario.probe(&echo).unwrap();

    let mut other = scenario.gateway.take().unwrap();
    if second.log().find(event::PATH_ESTABLISHED).is_some() {
        mem::swap(&mut second, &mut other);
    }
    assert!(second.log().find(event::PATH_ESTABLISHED).is_none());
    end(other);
    probe.wait_for_answers(100, DEADLINE).unwrap();
    probe.stop().unwrap().assert_silence(what, limit);
    second.wait_for(event::PATH_ESTABLISHED, DEADLINE).unwrap();
    scenario.fetch("http://web.office.example/").unwrap();
    scenario.finish().unwrap();
}

#[test]
fn when_it_says_goodbye() {
    take_over("another gateway takes over", Duration::from_millis(500), |gateway| {
        assert!(gateway.terminate(DEADLINE).unwrap().success());
    });
}

#[test]
fn when_it_is_killed() {
    // Nobody tells the client, which asks the portal about a gateway that has been silent for two seconds.
    take_over("another gateway takes over a killed one", Duration::from_secs(5), |gateway| {
        gateway.kill().unwrap();
    });
}
