//! Downloads and uploads through the tunnel, on good networks and bad ones.
#![allow(clippy::unwrap_used, reason = "a test")]

use std::{fs, time::Duration};

use connlib_e2e::{
    Impairment, Scenario, Setup,
    payload::{Hash, Payload},
    process::Command,
    topology::Options,
};

/// By IPv4, by IPv6 and by name.
const SERVERS: [&str; 3] = ["10.20.0.10", "[fd20::10]", "web.office.example"];

fn patient(curl: Command) -> Command {
    curl.args(["--max-time", "120"])
}

fn download(scenario: &Scenario, server: &str, length: u64) {
    let url = format!("http://{server}/bytes/{length}");
    let output = patient(scenario.curl()).arg(url).output().unwrap();
    assert!(output.status.success(), "{server}: {}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(output.stdout.len() as u64, length, "{server}");
    let mut hash = Hash::default();
    hash.update(&output.stdout);
    assert_eq!(hash.finish(), Payload::sha256(length), "{server}");
}

fn upload(scenario: &Scenario, server: &str, length: u64) {
    let file = scenario.lab().directory().join("upload");
    std::io::copy(&mut Payload::new(length), &mut fs::File::create(&file).unwrap()).unwrap();
    let curl = patient(scenario.curl()).arg("-T").arg(file);
    let sum = curl.arg(format!("http://{server}/")).run().unwrap();
    assert_eq!(sum.trim(), Payload::sha256(length), "{server}");
}

#[test]
fn by_address_and_by_name() {
    const LENGTH: u64 = 20_000_003;

    let scenario = Scenario::start(Setup::default()).unwrap();
    for server in SERVERS {
        download(&scenario, server, LENGTH);
        upload(&scenario, server, LENGTH);
    }
    scenario.finish().unwrap();
}

#[test]
fn with_five_percent_of_packets_lost() {
    const LENGTH: u64 = 3_000_001;

    let access =
        Impairment { loss: 0.05, delay: Duration::from_millis(5), ..Impairment::default() };
    let scenario = Scenario::start(Setup::on(Options { access, ..Options::default() })).unwrap();
    for server in SERVERS {
        download(&scenario, server, LENGTH);
        upload(&scenario, server, LENGTH);
    }
    scenario.finish().unwrap();
}

#[test]
fn with_packets_that_overtake_each_other() {
    const LENGTH: u64 = 10_000_001;

    let access = Impairment {
        reordering: 0.02,
        delay: Duration::from_millis(2),
        jitter: Duration::from_millis(2),
        ..Impairment::default()
    };
    let scenario = Scenario::start(Setup::on(Options { access, ..Options::default() })).unwrap();
    for server in SERVERS {
        download(&scenario, server, LENGTH);
        upload(&scenario, server, LENGTH);
    }
    scenario.finish().unwrap();
}
