//! The client's network changes under an application that talks to a resource.
#![allow(clippy::unwrap_used, reason = "a test")]

use std::{thread, time::Duration};

use connlib_e2e::{Scenario, Setup, scenario::event};

const DEADLINE: Duration = Duration::from_secs(60);

fn change(what: &str, limit: Duration, change: impl FnOnce(&Scenario)) {
    let scenario = Scenario::start(Setup::default()).unwrap();
    let echo = scenario.echo("10.20.0.10:7").unwrap();
    let probe = scenario.probe(&echo).unwrap();

    change(&scenario);
    probe.wait_for_answers(100, DEADLINE).unwrap();
    // What comes late must not hide: another second of talk.
    thread::sleep(Duration::from_secs(1));
    probe.stop().unwrap().assert_silence(what, limit);

    scenario.fetch("http://web.office.example/").unwrap();
    let client = scenario.client.as_ref().unwrap();
    assert_eq!(client.log().count(event::PATH_ESTABLISHED), 1, "the session did not last");
    scenario.finish().unwrap();
}

#[test]
fn when_it_gets_another_address() {
    change("client gets another address", Duration::from_secs(1), |scenario| {
        let client = &scenario.network.client;
        for (old, new, router) in [
            ("192.168.77.2/24", "192.168.77.3/24", "192.168.77.1"),
            ("fd77::2/64", "fd77::3/64", "fd77::1"),
        ] {
            client.ip(&format!("address delete {old} dev eth0")).unwrap();
            client.address("eth0", new).unwrap();
            client.route("default", router).unwrap();
        }
    });
}

#[test]
fn when_it_joins_another_network() {
    change("client joins another network", Duration::from_secs(1), |scenario| {
        let (client, router) = (&scenario.network.client, &scenario.network.router);
        client.ip("address flush dev eth0 scope global").unwrap();
        for (outside, inside, gateway) in [
            ("192.168.99.1/24", "192.168.99.2/24", "192.168.99.1"),
            ("fd99::1/64", "fd99::2/64", "fd99::1"),
        ] {
            router.address("lan", outside).unwrap();
            client.address("eth0", inside).unwrap();
            client.route("default", gateway).unwrap();
        }
    });
}

#[test]
fn when_its_link_is_down_for_five_seconds() {
    change("client's link down for 5 s", Duration::from_millis(5200), |scenario| {
        scenario.network.unplug_client().unwrap();
        thread::sleep(Duration::from_secs(5));
        scenario.network.plug_client().unwrap();
    });
}
