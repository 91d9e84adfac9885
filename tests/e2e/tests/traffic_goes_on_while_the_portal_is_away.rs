//! The portal is stopped and comes back while an application talks to a resource.
#![allow(clippy::unwrap_used, reason = "a test")]

use std::{thread, time::Duration};

use connlib_e2e::{Scenario, Setup, scenario::event};

const DEADLINE: Duration = Duration::from_secs(30);
/// What an application takes for no silence at all.
const NONE: Duration = Duration::from_millis(100);

#[test]
fn and_when_it_comes_back() {
    let mut scenario = Scenario::start(Setup::default()).unwrap();
    let echo = scenario.echo("10.20.0.10:7").unwrap();
    let probe = scenario.probe(&echo).unwrap();

    let portal = scenario.portal.take().unwrap();
    assert!(portal.terminate(DEADLINE).unwrap().success());
    for peer in [&scenario.client, &scenario.gateway] {
        peer.as_ref().unwrap().log().wait_for("portal is away", DEADLINE).unwrap();
    }
    // Long enough for a path that lives by the portal to be given up.
    thread::sleep(Duration::from_secs(3));
    scenario.start_portal().unwrap();
    for peer in [&scenario.client, &scenario.gateway] {
        let log = peer.as_ref().unwrap().log();
        connlib_e2e::wait::until("the second sign-in", DEADLINE, || {
            log.find_nth(event::SIGNED_IN, 1)
        })
        .unwrap();
    }
    probe.wait_for_answers(100, DEADLINE).unwrap();
    probe.stop().unwrap().assert_silence("portal away", NONE);

    // What the portal is needed for works again.
    scenario.fetch("http://web.office.example/").unwrap();
    scenario.finish().unwrap();
}
