//! ICMP echo, and the ICMP errors that names of one family deserve.
#![allow(clippy::unwrap_used, reason = "a test")]

use std::process::Output;

use connlib_e2e::{Scenario, Setup};

fn ping(scenario: &Scenario, family: &str, target: &str) -> Output {
    let ping = scenario.network.client.command("ping");
    ping.args([family, "-c", "3", "-i", "0.1", "-W", "5", target]).output().unwrap()
}

#[test]
fn in_both_families() {
    let scenario = Scenario::start(Setup::default()).unwrap();
    for (family, target) in [
        ("-4", "10.20.0.10"),
        ("-6", "fd20::10"),
        ("-4", "web.office.example"),
        ("-6", "web.office.example"),
    ] {
        let output = ping(&scenario, family, target);
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && text.contains(" 0% packet loss"), "{target}: {text}");
    }
    scenario.finish().unwrap();
}

#[test]
fn or_unreachable_in_the_family_that_a_name_lacks() {
    let scenario = Scenario::start(Setup::default()).unwrap();
    for (name, has, lacks, told) in [
        ("v4.office.example", "-4", "-6", "Destination unreachable: Address unreachable"),
        ("v6.office.example", "-6", "-4", "Destination Net Unreachable"),
    ] {
        assert!(ping(&scenario, has, name).status.success(), "{name} {has}");
        let output = ping(&scenario, lacks, name);
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(!output.status.success() && text.contains(told), "{name} {lacks}: {text}");
        // Applications that try both families get there.
        scenario.fetch(&format!("http://{name}/")).unwrap();
    }
    scenario.finish().unwrap();
}
