//! A gateway ends and starts again while an application talks to a resource behind it.
#![allow(clippy::unwrap_used, reason = "a test")]

use std::{thread, time::Duration};

use connlib_e2e::{Process, Scenario, Setup};

const DEADLINE: Duration = Duration::from_secs(60);
const PAUSE: Duration = Duration::from_secs(1);

fn restart(what: &str, pause: Duration, limit: Duration, end: impl FnOnce(Process)) {
    let mut scenario = Scenario::start(Setup::default()).unwrap();
    let echo = scenario.echo("10.20.0.10:7").unwrap();
    let probe = scenario.probe(&echo).unwrap();
    scenario.fetch("http://web.office.example/").unwrap();

    end(scenario.gateway.take().unwrap());
    thread::sleep(pause);
    scenario.start_gateway().unwrap();
    probe.wait_for_answers(100, DEADLINE).unwrap();
    probe.stop().unwrap().assert_silence(what, limit);

    for url in ["http://web.office.example/", "http://[fd20::10]/"] {
        scenario.fetch(url).unwrap();
    }
    scenario.finish().unwrap();
}

#[test]
fn that_said_goodbye() {
    let limit = Duration::from_millis(1500);
    restart("gateway restarted after SIGTERM", PAUSE, limit, |gateway| {
        assert!(gateway.terminate(DEADLINE).unwrap().success());
    });
}

#[test]
fn that_was_killed() {
    restart("gateway restarted after SIGKILL", PAUSE, Duration::from_secs(3), |gateway| {
        gateway.kill().unwrap();
    });
}

#[test]
fn that_was_killed_and_is_back_at_once() {
    let limit = Duration::from_secs(1);
    restart("gateway restarted at once after SIGKILL", Duration::ZERO, limit, |gateway| {
        gateway.kill().unwrap();
    });
}
