//! Client and gateway may be there before the portal, and the client before the gateway.
#![allow(clippy::unwrap_used, reason = "a test")]

use std::time::Duration;

use connlib_e2e::{Lab, Scenario, Setup, scenario::event, topology::OFFICE_PAGE, wait};

const DEADLINE: Duration = Duration::from_secs(30);

#[test]
fn of_portal_and_peers() {
    let mut scenario = Scenario::prepare(Lab::new().unwrap(), Setup::default()).unwrap();
    let mut gateway = scenario.spawn_gateway(&scenario.network.gateway, "gateway").unwrap();
    let mut client = scenario.spawn_client(&scenario.network.client, "client").unwrap();
    for peer in [&mut gateway, &mut client] {
        peer.wait_for("portal is away", DEADLINE).unwrap();
    }
    scenario.start_portal().unwrap();
    for peer in [&mut gateway, &mut client] {
        peer.wait_for(event::READY, DEADLINE).unwrap();
    }
    assert_eq!(scenario.fetch("http://web.office.example/").unwrap().trim(), OFFICE_PAGE);
    scenario.finish().unwrap();
}

#[test]
fn of_client_and_gateway() {
    let mut scenario = Scenario::prepare(Lab::new().unwrap(), Setup::default()).unwrap();
    scenario.start_portal().unwrap();
    scenario.start_client().unwrap();
    // Nobody is there who could reach it: the application is told so.
    scenario.fetch("http://10.20.0.10/").unwrap_err();
    let client = scenario.client.as_ref().unwrap();
    assert!(client.log().find("no access").is_some(), "{}", client.log().tail(5));

    scenario.start_gateway().unwrap();
    let page = || scenario.fetch("http://10.20.0.10/").ok();
    assert_eq!(wait::until("the page", DEADLINE, page).unwrap().trim(), OFFICE_PAGE);
    scenario.finish().unwrap();
}
