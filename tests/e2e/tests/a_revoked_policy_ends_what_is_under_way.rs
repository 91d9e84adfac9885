//! Access is taken back while a download runs, and given again.
#![allow(clippy::unwrap_used, reason = "a test")]

use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use connlib_e2e::{Namespace, Scenario, Setup, scenario::POLICY, wait};

const DEADLINE: Duration = Duration::from_secs(20);
/// Without a byte for so long, nothing comes any more: servers retransmit sooner.
const STOPPED: Duration = Duration::from_secs(2);

/// A download that does not end by itself.
struct Download {
    received: Arc<AtomicU64>,
}

impl Download {
    fn start(client: &Namespace, server: &str) -> Self {
        let mut stream = client.enter(|| TcpStream::connect(server)).unwrap().unwrap();
        stream.write_all(b"GET /bytes/1000000000000 HTTP/1.1\r\nHost: web\r\n\r\n").unwrap();
        let received = Arc::new(AtomicU64::new(0));
        let download = Self { received: Arc::clone(&received) };
        thread::spawn(move || {
            let mut buffer = vec![0; 1 << 16];
            while let Ok(count @ 1..) = stream.read(&mut buffer) {
                received.fetch_add(count as u64, Ordering::Relaxed);
            }
        });
        download.wait_for_bytes(1 << 20);
        download
    }

    fn received(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }

    fn wait_for_bytes(&self, count: u64) {
        let start = self.received();
        let has_come = || (self.received() > start + count).then_some(());
        wait::until("the download", DEADLINE, has_come).unwrap();
    }

    /// Nothing comes any more, apart from what is on its way to the application already.
    fn assert_stopped(&self) {
        let (mut before, mut since) = (self.received(), Instant::now());
        let has_stopped = || {
            let received = self.received();
            if received != before {
                (before, since) = (received, Instant::now());
            }
            (since.elapsed() >= STOPPED).then_some(())
        };
        wait::until("the download to stop", 2 * STOPPED, has_stopped).unwrap();
    }
}

/// The usual policy but for what lets the client reach anything.
fn nothing_allowed() -> String {
    POLICY.replace(
        "resources = [\"web server\", \"web server v6\", \"office names\"]",
        "resources = [\"database\"]",
    )
}

fn access_taken_back(scenario: &Scenario) {
    let gateway = scenario.gateway.as_ref().unwrap();
    gateway.log().wait_for("access taken back", DEADLINE).unwrap();
}

#[test]
fn by_address_and_by_name() {
    let scenario = Scenario::start(Setup::default()).unwrap();
    let client = &scenario.network.client;
    let urls = ["http://10.20.0.10/", "http://[fd20::10]/", "http://web.office.example/"];
    // Through the system's resolver, which gives a proxy address.
    let name = client.command("getent").args(["ahostsv4", "web.office.example"]).run().unwrap();
    let proxy = name.split_whitespace().next().unwrap();
    let downloads = ["10.20.0.10:80", "[fd20::10]:80", &format!("{proxy}:80")]
        .map(|server| Download::start(client, server));

    scenario.set_policy(&nothing_allowed()).unwrap();
    access_taken_back(&scenario);
    for download in &downloads {
        download.assert_stopped();
    }
    for url in urls {
        scenario.curl().args(["--connect-timeout", "2", url]).run().unwrap_err();
    }

    scenario.set_policy(POLICY).unwrap();
    for url in urls {
        wait::until(url, DEADLINE, || scenario.fetch(url).ok()).unwrap();
    }
    scenario.finish().unwrap();
}

#[test]
fn as_does_one_whose_time_is_over() {
    let policy = |expires: SystemTime| {
        let expires = humantime::format_rfc3339_seconds(expires);
        POLICY.replace(
            "clients = [\"client\"]",
            &format!("clients = [\"client\"]\nexpires = {expires}"),
        )
    };
    let end = SystemTime::now() + Duration::from_secs(6);
    let scenario = Scenario::start(Setup::with_policy(policy(end))).unwrap();
    let download = Download::start(&scenario.network.client, "10.20.0.10:80");
    assert!(SystemTime::now() < end, "too slow for this test");

    let left = end.duration_since(SystemTime::now()).unwrap_or_default();
    thread::sleep(left + Duration::from_secs(1));
    download.assert_stopped();
    let curl = || scenario.curl().args(["--connect-timeout", "2", "http://10.20.0.10/"]);
    curl().run().unwrap_err();

    let later = UNIX_EPOCH + Duration::from_secs(4_000_000_000);
    scenario.set_policy(&policy(later)).unwrap();
    wait::until("the page", DEADLINE, || curl().run().ok()).unwrap();
    scenario.finish().unwrap();
}

#[test]
fn but_a_session_that_may_be_renewed_goes_on() {
    let policy =
        POLICY.replace("clients = [\"client\"]", "clients = [\"client\"]\nmax_session = \"3s\"");
    let scenario = Scenario::start(Setup::with_policy(policy)).unwrap();
    let echo = scenario.echo("10.20.0.10:7").unwrap();
    let probe = scenario.probe(&echo).unwrap();
    let client = scenario.client.as_ref().unwrap();
    wait::until("two renewals", DEADLINE, || client.log().find_nth("authorized", 2)).unwrap();
    probe.wait_for_answers(50, DEADLINE).unwrap();
    probe.stop().unwrap().assert_silence("session renewed", Duration::from_secs(1));
    scenario.finish().unwrap();
}
