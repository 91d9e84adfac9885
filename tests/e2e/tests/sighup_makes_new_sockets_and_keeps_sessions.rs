//! SIGHUP: sockets and the call to the portal begin anew; sessions and traffic go on.
#![allow(clippy::unwrap_used, reason = "a test")]

use std::time::Duration;

use connlib_e2e::{Process, Scenario, Setup, scenario::event, wait};
use nix::sys::signal::Signal;

const DEADLINE: Duration = Duration::from_secs(20);

fn hang_up(what: &str, choose: impl Fn(&Scenario) -> &Process) {
    let scenario = Scenario::start(Setup::default()).unwrap();
    let echo = scenario.echo("10.20.0.10:7").unwrap();
    let probe = scenario.probe(&echo).unwrap();

    let process = choose(&scenario);
    for count in 1..=2 {
        process.signal(Signal::SIGHUP).unwrap();
        let signed_in = || process.log().find_nth(event::SIGNED_IN, count);
        wait::until("another sign-in", DEADLINE, signed_in).unwrap();
        probe.wait_for_answers(50, DEADLINE).unwrap();
    }
    probe.stop().unwrap().assert_silence(what, Duration::from_secs(1));
    assert_eq!(process.log().count(event::PATH_ESTABLISHED), 1, "the session did not last");
    scenario.fetch("http://web.office.example/").unwrap();
    scenario.finish().unwrap();
}

#[test]
fn of_a_client() {
    hang_up("SIGHUP to the client", |scenario| scenario.client.as_ref().unwrap());
}

#[test]
fn of_a_gateway() {
    hang_up("SIGHUP to the gateway", |scenario| scenario.gateway.as_ref().unwrap());
}
