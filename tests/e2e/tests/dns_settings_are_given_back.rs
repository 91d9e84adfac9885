//! The machine's resolvers after the client has ended, in whatever way.
#![allow(clippy::unwrap_used, reason = "a test")]

use std::{fs, time::Duration};

use connlib_e2e::{Scenario, Setup, topology::PUBLIC_PAGE};

const DEADLINE: Duration = Duration::from_secs(20);
const SENTINEL: &str = "100.100.111.1";

fn resolv_conf(scenario: &Scenario) -> String {
    fs::read_to_string(scenario.network.client.resolv_conf()).unwrap()
}

/// Puts a file there that has more to keep than resolvers.
fn start() -> (Scenario, String) {
    let mut scenario = Scenario::start(Setup::default()).unwrap();
    assert!(scenario.client.take().unwrap().terminate(DEADLINE).unwrap().success());
    let original = format!("# by hand\nsearch example\n{}options edns0\n", resolv_conf(&scenario));
    fs::write(scenario.network.client.resolv_conf(), &original).unwrap();
    scenario.start_client().unwrap();
    scenario.fetch("http://web.office.example/").unwrap();
    assert!(resolv_conf(&scenario).contains(SENTINEL), "{}", resolv_conf(&scenario));
    (scenario, original)
}

#[test]
fn after_sigterm() {
    let (mut scenario, original) = start();
    assert!(scenario.client.take().unwrap().terminate(DEADLINE).unwrap().success());
    assert_eq!(resolv_conf(&scenario), original);
    assert_eq!(scenario.fetch("http://public.example/").unwrap().trim(), PUBLIC_PAGE);
    scenario.finish().unwrap();
}

#[test]
fn after_a_crash_and_the_next_start() {
    let (mut scenario, original) = start();
    scenario.client.take().unwrap().kill().unwrap();
    assert!(resolv_conf(&scenario).contains(SENTINEL), "who has restored it?");

    // The one that comes next finds the resolvers that were there, and gives them back in its turn.
    scenario.start_client().unwrap();
    scenario.fetch("http://web.office.example/").unwrap();
    assert_eq!(scenario.fetch("http://public.example/").unwrap().trim(), PUBLIC_PAGE);
    assert!(scenario.client.take().unwrap().terminate(DEADLINE).unwrap().success());
    assert_eq!(resolv_conf(&scenario), original);
    scenario.finish().unwrap();
}
