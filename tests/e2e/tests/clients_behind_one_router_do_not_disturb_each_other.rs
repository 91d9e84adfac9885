//! Two clients in one home: one router, one outer address, the same port of choice.
#![allow(clippy::unwrap_used, reason = "a test")]

use std::{net::IpAddr, time::Duration};

use connlib_e2e::{
    Namespace, Scenario, Setup,
    probe::Probe,
    scenario::{POLICY, event},
    topology::OFFICE_PAGE,
};

const DEADLINE: Duration = Duration::from_secs(20);

/// Another machine on another port of the client's router.
fn laptop(scenario: &Scenario) -> Namespace {
    let laptop = scenario.lab().namespace("laptop").unwrap();
    let router = &*scenario.network.router;
    let inside: &[&str] = &["192.168.78.2/24", "fd78::2/64"];
    let outside: &[&str] = &["192.168.78.1/24", "fd78::1/64"];
    scenario.lab().cable((&laptop, "eth0", inside), (router, "lan2", outside)).unwrap();
    for gateway in ["192.168.78.1", "fd78::1"] {
        laptop.route("default", gateway).unwrap();
    }
    laptop.set_resolvers(&["203.0.113.53".parse::<IpAddr>().unwrap()]).unwrap();
    laptop
}

#[test]
fn with_different_rights() {
    // The laptop may reach the web server by name, and nothing else.
    let policy = format!(
        "{POLICY}\n[[client]]\nname = \"laptop\"\n\n[[policy]]\nname = \"the laptop browses\"\n\
         clients = [\"laptop\"]\nresources = [\"office names\"]\n"
    );
    let mut scenario = Scenario::start(Setup::with_policy(policy)).unwrap();
    let laptop = laptop(&scenario);
    let mut second = scenario.spawn_client(&laptop, "laptop").unwrap();
    second.wait_for("ready", DEADLINE).unwrap();
    let fetch = |url: &str| {
        let curl = laptop.command("curl").args(["-q", "-sS", "--fail", "--max-time", "10"]);
        curl.arg(url).run()
    };

    let echo = scenario.echo("10.20.0.10:7").unwrap();
    let probe = scenario.probe(&echo).unwrap();
    assert_eq!(fetch("http://web.office.example/").unwrap().trim(), OFFICE_PAGE);
    assert_eq!(scenario.fetch("http://web.office.example/").unwrap().trim(), OFFICE_PAGE);
    fetch("http://10.20.0.10/").unwrap_err();

    // One leaves, the other does not notice.
    assert!(second.terminate(DEADLINE).unwrap().success());
    let gateway = scenario.gateway.as_mut().unwrap();
    gateway.wait_for("client gone", DEADLINE).unwrap();
    probe.wait_for_answers(100, DEADLINE).unwrap();
    probe
        .stop()
        .unwrap()
        .assert_silence("another client comes and goes", Duration::from_millis(250));
    assert_eq!(gateway.log().count(event::PATH_ESTABLISHED), 2);
    // And comes back.
    let mut again = scenario.spawn_client(&laptop, "laptop").unwrap();
    again.wait_for("ready", DEADLINE).unwrap();
    assert_eq!(fetch("http://web.office.example/").unwrap().trim(), OFFICE_PAGE);
    Probe::start_answered(&scenario.network.client, echo.address(), DEADLINE).unwrap();
    scenario.finish().unwrap();
}
