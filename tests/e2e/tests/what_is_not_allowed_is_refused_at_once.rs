//! Refusals are answers: applications hear of them at once, and don't wait for a timeout.
#![allow(clippy::unwrap_used, reason = "a test")]

use std::{net::UdpSocket, time::Duration};

use connlib_e2e::{Scenario, Setup, scenario::POLICY};

/// `curl` could not connect: an ICMP error told it. It would be 28 after a timeout.
const COULD_NOT_CONNECT: i32 = 7;

fn assert_refused(scenario: &Scenario, url: &str) {
    let status = scenario.curl().arg(url).output().unwrap().status;
    assert_eq!(status.code(), Some(COULD_NOT_CONNECT), "{url}");
}

#[test]
fn by_a_filter() {
    let scenario = Scenario::start(Setup::default()).unwrap();
    for url in ["http://10.20.0.10:8080/", "http://[fd20::10]:8080/"] {
        assert_refused(&scenario, url);
    }
    // The ports beside stay open.
    scenario.fetch("http://10.20.0.10/").unwrap();
    scenario.finish().unwrap();
}

#[test]
fn by_a_filter_of_a_name() {
    let address = "address = \"*.office.example\"";
    let policy = POLICY.replace(address, &format!("{address}\nfilters = [\"tcp/443\", \"icmp\"]"));
    let scenario = Scenario::start(Setup::with_policy(policy)).unwrap();
    assert_refused(&scenario, "http://web.office.example/");
    let client = &scenario.network.client;
    client.command("ping").args(["-c", "1", "-W", "5", "web.office.example"]).run().unwrap();
    scenario.finish().unwrap();
}

#[test]
fn by_the_policy() {
    // The client is not told of the database: packets to it stay outside of the tunnel, where no way leads to it, even
    // if a resource is its neighbour.
    let policy = POLICY.replace("10.20.0.10/32", "10.20.0.0/28");
    let scenario = Scenario::start(Setup::with_policy(policy)).unwrap();
    scenario.fetch("http://10.20.0.10/").unwrap();
    assert_refused(&scenario, "http://10.20.0.20/");
    // By a name that leads there it is reached: the name is allowed, whatever it stands for.
    scenario.fetch("http://database.office.example/").unwrap();
    scenario.finish().unwrap();
}

/// A connection that began before the tunnel was there goes on with another source address, and can never be answered:
/// it must not wait for that until its retransmissions end.
#[test]
fn from_an_address_that_is_not_the_tunnels() {
    let scenario = Scenario::start(Setup::default()).unwrap();
    for (source, url) in [("192.168.77.2", "http://10.20.0.10/"), ("fd77::2", "http://[fd20::10]/")]
    {
        let curl = scenario.curl().args(["--interface", source, url]);
        assert_eq!(curl.output().unwrap().status.code(), Some(COULD_NOT_CONNECT), "{source}");
    }
    scenario.finish().unwrap();
}

#[test]
fn when_nothing_listens() {
    let scenario = Scenario::start(Setup::default()).unwrap();
    for server in ["10.20.0.10:9", "[fd20::10]:9"] {
        let server: std::net::SocketAddr = server.parse().unwrap();
        let any = if server.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
        let socket = scenario.network.client.enter(|| UdpSocket::bind(any)).unwrap().unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        socket.connect(server).unwrap();
        socket.send(b"anybody there?").unwrap();
        let error = socket.recv(&mut [0; 16]).unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionRefused, "{server}: {error}");
    }
    scenario.finish().unwrap();
}
