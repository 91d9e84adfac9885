//! The network changes under an application that talks to a resource.
#![allow(clippy::unwrap_used, reason = "a test")]

use std::{thread, time::Duration};

use connlib_e2e::{
    Impairment, Namespace, Nat, Scenario, Setup,
    probe::Probe,
    scenario::event,
    topology::{Options, Underlay},
};

const DEADLINE: Duration = Duration::from_secs(60);
const ANOTHER_ADDRESS: Duration = Duration::from_secs(1);
const OUTAGE: Duration = Duration::from_secs(5);
const AFTER_OUTAGE: Duration = Duration::from_millis(5200);

fn change(what: &str, options: Options, limit: Duration, change: impl FnOnce(&mut Scenario)) {
    let mut scenario = Scenario::start(Setup::on(options)).unwrap();
    let echo = scenario.echo("10.20.0.10:7").unwrap();
    let probe = scenario.probe(&echo).unwrap();

    change(&mut scenario);
    probe.wait_for_answers(100, DEADLINE).unwrap();
    // What comes late must not hide: another second of talk.
    thread::sleep(Duration::from_secs(1));
    probe.stop().unwrap().assert_silence(what, limit);

    if scenario.portal.is_some() {
        scenario.fetch("http://web.office.example/").unwrap();
    }
    let client = scenario.client.as_ref().unwrap();
    assert_eq!(client.log().count(event::PATH_ESTABLISHED), 1, "the session did not last");
    scenario.finish().unwrap();
}

/// Another address in the same network: how DHCP does it, or a phone that comes home.
fn move_client(client: &Namespace) {
    for (old, new, router) in [
        ("192.168.77.2/24", "192.168.77.3/24", "192.168.77.1"),
        ("fd77::2/64", "fd77::3/64", "fd77::1"),
    ] {
        // Not every network has both.
        if client.ip(&format!("address delete {old} dev eth0")).is_ok() {
            client.address("eth0", new).unwrap();
            client.route("default", router).unwrap();
        }
    }
}

#[test]
fn when_it_gets_another_address() {
    let options = Options::default();
    change("client gets another address", options, ANOTHER_ADDRESS, |scenario| {
        move_client(&scenario.network.client);
    });
}

#[test]
fn when_it_gets_another_address_while_the_portal_is_away() {
    let options = Options::default();
    change("client gets another address, no portal", options, ANOTHER_ADDRESS, |scenario| {
        scenario.portal.take().unwrap().kill().unwrap();
        move_client(&scenario.network.client);
    });
}

#[test]
fn when_it_gets_another_address_behind_a_symmetric_nat() {
    let options = Options { nat: Nat::Symmetric, underlay: Underlay::V4Only, ..Options::default() };
    change("client gets another address, symmetric NAT", options, ANOTHER_ADDRESS, |scenario| {
        move_client(&scenario.network.client);
    });
}

#[test]
fn when_it_joins_another_network() {
    let options = Options::default();
    change("client joins another network", options, ANOTHER_ADDRESS, |scenario| {
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
    change("client's link down for 5 s", Options::default(), AFTER_OUTAGE, |scenario| {
        // The kernel takes its time as well until anything passes: seen by an application without a tunnel.
        let network = &scenario.network;
        let public = "203.0.113.80:7".parse().unwrap();
        let bare = connlib_e2e::probe::Echo::start(&network.portal, public).unwrap();
        let bare = (Probe::start_answered(&network.client, public, DEADLINE).unwrap(), bare);

        network.unplug_client().unwrap();
        thread::sleep(OUTAGE);
        network.plug_client().unwrap();

        bare.0.wait_for_answers(10, DEADLINE).unwrap();
        bare.0.stop().unwrap().assert_silence("the same without a tunnel", AFTER_OUTAGE);
    });
}

#[test]
fn when_packets_vanish_for_five_seconds() {
    let access = Impairment { delay: Duration::from_millis(1), ..Impairment::default() };
    let options = Options { access: access.clone(), ..Options::default() };
    change("client's packets vanish for 5 s", options, AFTER_OUTAGE, |scenario| {
        let wire = scenario.network.access.as_mut().unwrap();
        wire.cut().unwrap();
        thread::sleep(OUTAGE);
        wire.set_impairment(access).unwrap();
    });
}

/// Longer than any session waits. What the client needs to come back is the portal, and neither end has told the other that
/// the connection is gone.
#[test]
fn or_come_back_after_packets_have_vanished_for_half_a_minute() {
    const OUTAGE: Duration = Duration::from_secs(30);

    let access = Impairment { delay: Duration::from_millis(1), ..Impairment::default() };
    let options = Options { access: access.clone(), ..Options::default() };
    let mut scenario = Scenario::start(Setup::on(options)).unwrap();
    let echo = scenario.echo("10.20.0.10:7").unwrap();
    let probe = scenario.probe(&echo).unwrap();
    let wire = scenario.network.access.as_mut().unwrap();
    wire.cut().unwrap();
    thread::sleep(OUTAGE);
    wire.set_impairment(access).unwrap();
    probe.wait_for_answers(100, DEADLINE).unwrap();
    let limit = OUTAGE + Duration::from_secs(5);
    probe.stop().unwrap().assert_silence("client's packets vanish for 30 s", limit);
    scenario.finish().unwrap();
}

#[test]
fn when_its_gateway_gets_another_address() {
    let options = Options::default();
    change("gateway gets another address", options, ANOTHER_ADDRESS, |scenario| {
        for (old, new) in
            [("203.0.113.10/24", "203.0.113.11/24"), ("2001:db8:113::10/64", "2001:db8:113::11/64")]
        {
            let gateway = &scenario.network.gateway;
            gateway.ip(&format!("address delete {old} dev wan")).unwrap();
            gateway.address("wan", new).unwrap();
        }
    });
}
