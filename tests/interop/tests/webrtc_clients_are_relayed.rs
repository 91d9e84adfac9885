//! pion, the TURN client of Go's WebRTC programs, at our relay: over UDP, TCP and TLS, over IPv4 and IPv6, to peers of both.
#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests")]

use std::{
    fs,
    io::ErrorKind,
    net::{IpAddr, SocketAddr, UdpSocket},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Output,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use connlib_e2e::{Lab, Process, wait};
use connlib_interop::{
    Site,
    site::{LEFT, RELAY, RIGHT},
    tools,
};
use serde_json::Value;

const SOON: Duration = Duration::from_secs(30);
const HEALTH: &str = "127.0.0.1:8080";
/// Where the peer listens, and where its second answers come from.
const PEER: [u16; 2] = [4000, 4001];
const NAP: Duration = Duration::from_millis(100);

#[test]
fn over_all_that_carries_turn() {
    let program = tools::pion_client().unwrap();
    let lab = Lab::new().unwrap();
    let site = Site::lay(&lab).unwrap();
    let relay = Relay::start(&lab, &site);
    let _peers = RIGHT.map(|ip| Peer::start(&site, ip));

    for (transport, port) in [("udp", 3478), ("tcp", 3478), ("tls", 443)] {
        for server in RELAY {
            for (peer, family) in RIGHT.into_iter().zip(["4", "6"]) {
                let server = SocketAddr::new(server, port);
                let what = format!("{transport} to {server}, peer {peer}");
                let [peer, other] = PEER.map(|port| SocketAddr::new(peer, port));
                let client = Client { program: &program, transport, server, family, peer, other };
                let output = client.run(&site, &relay, "secret");
                let errors = String::from_utf8_lossy(&output.stderr);
                assert!(output.status.success(), "{what}: {errors}");

                let seen: Value = serde_json::from_slice(&output.stdout).unwrap();
                let address = |name: &str| seen[name].as_str().unwrap().parse::<SocketAddr>();
                let own = LEFT.into_iter().find(|ip| ip.is_ipv4() == server.is_ipv4());
                assert_eq!(address("mapped").unwrap().ip(), own.unwrap(), "{what}: {seen}");
                let relayed = RELAY.into_iter().find(|ip| ip.is_ipv4() == peer.is_ipv4());
                assert_eq!(address("relayed").unwrap().ip(), relayed.unwrap(), "{what}: {seen}");
                let count = |name: &str| seen[name].as_u64().unwrap();
                let rounds = count("rounds");
                assert!(rounds >= 40, "{what}: {seen}");
                // The first message goes before there is a channel; the second answers never have one.
                for kind in ["channel_out", "channel_in", "indications_out"] {
                    assert!(count(kind) > 0, "{what}: {seen}");
                }
                assert!(count("indications_in") >= rounds, "{what}: {seen}");
                // It gives back what it had.
                relay.wait_until_empty(&what);
            }
        }
    }
    lab.finish().unwrap();
}

#[test]
fn without_the_password_nothing_is_relayed() {
    let program = tools::pion_client().unwrap();
    let lab = Lab::new().unwrap();
    let site = Site::lay(&lab).unwrap();
    let relay = Relay::start(&lab, &site);
    let [server, _] = RELAY;
    let server = SocketAddr::new(server, 3478);
    let [peer, other] = PEER.map(|port| SocketAddr::new(RIGHT[0], port));
    for transport in ["udp", "tcp"] {
        let client = Client { program: &program, transport, server, family: "4", peer, other };
        let output = client.run(&site, &relay, "guessed");
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && errors.contains("401"), "{errors}");
    }
    assert_eq!(relay.metric("connlib_relay_allocations_total"), 0);
    lab.finish().unwrap();
}

/// Our relay, for the user `anna`.
struct Relay<'a> {
    site: &'a Site,
    authority: PathBuf,
    _process: Process,
}

impl<'a> Relay<'a> {
    fn start(lab: &Lab, site: &'a Site) -> Self {
        let file = |name: &str, contents: &str| {
            let path = lab.directory().join(name);
            fs::write(&path, contents).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
            path
        };
        let made = rcgen::generate_simple_self_signed(["relay.test".to_owned()]).unwrap();
        let certificate = file("relay.crt", &made.cert.pem());
        let key = file("relay.key", &made.signing_key.serialize_pem());
        let [ip4, ip6] = RELAY.map(|ip| ip.to_string());
        let command = site.relay.command("connlib-relay").env("CONNLIB_LOG_FORMAT", "json");
        let mut process = command
            .args(["--public-ip4-addr", &ip4, "--public-ip6-addr", &ip6, "--health-listen", HEALTH])
            .args(["--listen-tcp", "0.0.0.0:3478,[::]:3478"])
            .args(["--listen-tls", "0.0.0.0:443,[::]:443"])
            .args(["--max-allocations", "100", "--max-streams", "100"])
            .arg("--tls-cert")
            .arg(&certificate)
            .arg("--tls-key")
            .arg(key)
            .arg("--user-file")
            .arg(file("users", "anna:secret\n"))
            .spawn_watched("relay")
            .unwrap();
        process.wait_for("relaying", SOON).unwrap();
        Self { site, authority: certificate, _process: process }
    }

    /// The sum of a metric's samples.
    fn metric(&self, name: &str) -> u64 {
        let url = format!("http://{HEALTH}/metrics");
        let text = self.site.relay.command("curl").args(["-q", "-sS", &url]).run().unwrap();
        let samples = text.lines().filter(|line| line.split(['{', ' ']).next() == Some(name));
        let values = samples.map(|line| line.rsplit(' ').next().unwrap().parse::<u64>().unwrap());
        values.reduce(|sum, value| sum + value).unwrap_or_else(|| panic!("no {name} in\n{text}"))
    }

    fn wait_until_empty(&self, what: &str) {
        for name in ["allocations", "channels", "streams"] {
            wait::until(&format!("no {name} after {what}"), SOON, || {
                (self.metric(&format!("connlib_relay_{name}")) == 0).then_some(())
            })
            .unwrap();
        }
    }
}

/// pion's, once.
struct Client<'a> {
    program: &'a Path,
    transport: &'a str,
    server: SocketAddr,
    family: &'a str,
    peer: SocketAddr,
    other: SocketAddr,
}

impl Client<'_> {
    fn run(&self, site: &Site, relay: &Relay<'_>, password: &str) -> Output {
        let [server, peer, other] = [self.server, self.peer, self.other].map(|at| at.to_string());
        site.left
            .command("timeout")
            .arg("60")
            .arg(self.program)
            .args(["-transport", self.transport, "-server", &server, "-name", "relay.test"])
            .arg("-authority")
            .arg(&relay.authority)
            .args(["-user", "anna", "-password", password, "-family", self.family])
            .args(["-peer", &peer, "-other", &other])
            .output()
            .unwrap()
    }
}

/// Sends everything back, from both of its ports.
struct Peer {
    is_over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Peer {
    fn start(site: &Site, ip: IpAddr) -> Self {
        let bind = move || PEER.map(|port| UdpSocket::bind((ip, port)).unwrap());
        let [socket, other] = site.right.enter(bind).unwrap();
        socket.set_read_timeout(Some(NAP)).unwrap();
        let is_over = Arc::new(AtomicBool::default());
        let seen = Arc::clone(&is_over);
        let thread = thread::spawn(move || {
            let mut buffer = [0; 2048];
            while !seen.load(Ordering::Relaxed) {
                match socket.recv_from(&mut buffer) {
                    Ok((length, from)) => {
                        for socket in [&socket, &other] {
                            socket.send_to(&buffer[..length], from).unwrap();
                        }
                    }
                    Err(error) => assert!(
                        matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut),
                        "{error}"
                    ),
                }
            }
        });
        Self { is_over, thread: Some(thread) }
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
    }
}
