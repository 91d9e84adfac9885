//! After a reset there are no sockets to be had, for want of descriptors. Once there are, the session goes on.
#![allow(clippy::unwrap_used, reason = "a test")]

use std::process::Command;
use std::time::Duration;

use connlib_e2e::{Process, Scenario, Setup, scenario::event, wait};
use nix::sys::signal::Signal;

const DEADLINE: Duration = Duration::from_secs(20);

fn limit_descriptors(process: &Process, number: u32) {
    let id = process.id().to_string();
    let limit = format!("--nofile={number}:");
    assert!(Command::new("prlimit").args(["--pid", &id, &limit]).status().unwrap().success());
}

fn starve(choose: impl Fn(&Scenario) -> &Process) {
    let scenario = Scenario::start(Setup::default()).unwrap();
    let echo = scenario.echo("10.20.0.10:7").unwrap();
    let probe = scenario.probe(&echo).unwrap();

    let process = choose(&scenario);
    limit_descriptors(process, 3);
    process.signal(Signal::SIGHUP).unwrap();
    let refused = || process.log().find_nth("could not make new sockets, trying again", 2);
    wait::until("sockets to be refused twice", DEADLINE, refused).unwrap();
    limit_descriptors(process, 1024);
    probe.wait_for_answers(50, DEADLINE).unwrap();
    probe.stop().unwrap();
    assert_eq!(process.log().count(event::PATH_ESTABLISHED), 1, "the session did not last");
    scenario.finish().unwrap();
}

#[test]
fn by_a_client() {
    starve(|scenario| scenario.client.as_ref().unwrap());
}

#[test]
fn by_a_gateway() {
    starve(|scenario| scenario.gateway.as_ref().unwrap());
}
