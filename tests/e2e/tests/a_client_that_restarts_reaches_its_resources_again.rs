//! The client ends and starts again; applications go on.
#![allow(clippy::unwrap_used, reason = "a test")]

use std::time::Duration;

use connlib_e2e::{Process, Scenario, Setup};

const DEADLINE: Duration = Duration::from_secs(60);

fn restart(end: impl FnOnce(Process)) {
    let mut scenario = Scenario::start(Setup::default()).unwrap();
    let echo = scenario.echo("10.20.0.10:7").unwrap();
    let probe = scenario.probe(&echo).unwrap();
    scenario.fetch("http://web.office.example/").unwrap();

    end(scenario.client.take().unwrap());
    scenario.start_client().unwrap();
    probe.wait_for_answers(100, DEADLINE).unwrap();
    probe.stop().unwrap().assert_silence("client restarted", Duration::from_secs(3));
    for url in ["http://web.office.example/", "http://[fd20::10]/"] {
        scenario.fetch(url).unwrap();
    }
    scenario.finish().unwrap();
}

#[test]
fn after_it_said_goodbye() {
    restart(|client| assert!(client.terminate(DEADLINE).unwrap().success()));
}

#[test]
fn after_it_was_killed() {
    restart(|client| client.kill().unwrap());
}
