//! A small network with a relay, a client and a peer in it.
#![allow(dead_code, reason = "each program of tests has its part")]

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use connlib_e2e::link::Switch;
use connlib_e2e::process::Command;
use connlib_e2e::{Lab, Namespace, Process, wait};

pub(crate) const RELAY: &str = "203.0.113.5";
pub(crate) const RELAY6: &str = "2001:db8::5";
pub(crate) const PEER: &str = "203.0.113.7";
pub(crate) const PEER6: &str = "2001:db8::7";

/// Long enough for a machine under load.
pub(crate) const SOON: Duration = Duration::from_secs(30);

const HEALTH: &str = "127.0.0.1:8080";

pub(crate) struct Network {
    pub(crate) relay: Namespace,
    pub(crate) client: Namespace,
    pub(crate) peer: Namespace,
    pub(crate) internet: Switch,
    // Last: what runs in it goes first.
    lab: Lab,
}

impl Network {
    pub(crate) fn new() -> Self {
        let lab = Lab::new().unwrap();
        let internet = lab.switch("internet").unwrap();
        let [relay, client, peer] =
            ["relay", "client", "peer"].map(|name| lab.namespace(name).unwrap());
        for (namespace, host) in [(&relay, 5), (&client, 6), (&peer, 7)] {
            let addresses = addresses(host);
            internet.plug(namespace, "eth0", &addresses.each_ref().map(String::as_str)).unwrap();
        }
        Self { relay, client, peer, internet, lab }
    }

    pub(crate) fn lab(&self) -> &Lab {
        &self.lab
    }

    /// A file that only its owner may read.
    pub(crate) fn file(&self, name: &str, contents: &str) -> PathBuf {
        let path = self.lab.directory().join(name);
        fs::write(&path, contents).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        path
    }

    /// The user `anna` with the password `secret`.
    pub(crate) fn users(&self) -> PathBuf {
        self.file("users", "anna:secret\n")
    }

    /// The relay's command with its addresses, and few enough allocations for any limit of open files.
    pub(crate) fn command(&self) -> Command {
        self.bare_command()
            .args(["--public-ip4-addr", RELAY, "--public-ip6-addr", RELAY6])
            .args(["--health-listen", HEALTH])
    }

    pub(crate) fn bare_command(&self) -> Command {
        self.relay
            .command("connlib-relay")
            .env("CONNLIB_LOG_FORMAT", "json")
            .env("CONNLIB_LOG", "info,connlib_relay=debug")
            .env("CONNLIB_MAX_ALLOCATIONS", "200")
            .env("CONNLIB_MAX_STREAMS", "50")
    }

    /// A relay for `anna` that works alone.
    pub(crate) fn start(&self, more: &[&str]) -> Process {
        let command = self.command().arg("--user-file").arg(self.users()).args(more);
        let mut relay = command.spawn_watched("relay").unwrap();
        relay.wait_for("relaying", SOON).unwrap();
        relay
    }

    /// Runs coturn's client to its end. It prints what was lost.
    pub(crate) fn uclient(&self, arguments: &str) -> String {
        let output = self.uclient_command(arguments).output().unwrap();
        String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()
    }

    pub(crate) fn uclient_command(&self, arguments: &str) -> Command {
        // A client that goes wrong tries for ever.
        let command = self.client.command("timeout").args(["60", "turnutils_uclient"]);
        command.args(["-u", "anna", "-w", "secret"]).args(arguments.split_whitespace())
    }

    /// coturn's peer: it sends back what it gets.
    pub(crate) fn echo(&self) -> Process {
        let peer = self.peer.command("turnutils_peer").args(["-L", PEER, "-L", PEER6]);
        let peer = peer.spawn("echo").unwrap();
        wait::until("the peer to listen", SOON, || {
            let sockets = self.peer.command("ss").args(["-Hlun"]).run().unwrap();
            (sockets.matches(":3480").count() >= 2).then_some(())
        })
        .unwrap();
        peer
    }

    /// What a path of the relay's HTTP server answers: head and body.
    pub(crate) fn get(&self, path: &str) -> String {
        let answer = self.relay.enter(|| {
            let mut stream = TcpStream::connect(HEALTH)?;
            write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\n\r\n")?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer).map(|_| answer)
        });
        answer.unwrap().unwrap()
    }

    /// The sum of a metric's samples, of those that contain `label`.
    pub(crate) fn metric(&self, name: &str, label: &str) -> u64 {
        let text = self.get("/metrics");
        let of_metric = |line: &&str| line.split(['{', ' ']).next() == Some(name);
        let samples: Vec<&str> = text.lines().filter(of_metric).collect();
        assert!(!samples.is_empty(), "there is no {name} in\n{text}");
        let values = samples.iter().filter(|line| line.contains(label));
        values.map(|line| line.rsplit(' ').next().unwrap().parse::<u64>().unwrap()).sum()
    }

    /// Workers tell their numbers once a second.
    pub(crate) fn wait_for_metric(&self, name: &str, wanted: u64) {
        self.wait_for_metric_with(name, "", |value| value == wanted);
    }

    pub(crate) fn wait_for_metric_with(
        &self,
        name: &str,
        label: &str,
        is_wanted: impl Fn(u64) -> bool,
    ) {
        let what = format!("{name} with {label:?}");
        wait::until(&what, SOON, || is_wanted(self.metric(name, label)).then_some(())).unwrap();
    }

    pub(crate) fn is_ready(&self) -> bool {
        self.get("/readyz").starts_with("HTTP/1.1 200")
    }

    /// Makes a certificate for `relay.test` with its key.
    pub(crate) fn certificate(&self, name: &str) -> Certificate {
        let made = rcgen::generate_simple_self_signed(["relay.test".to_owned()]).unwrap();
        let der = made.cert.der().clone();
        let certificate = self.file(&format!("{name}.crt"), &made.cert.pem());
        let key = self.file(&format!("{name}.key"), &made.signing_key.serialize_pem());
        Certificate { certificate, key, der }
    }
}

pub(crate) struct Certificate {
    pub(crate) certificate: PathBuf,
    pub(crate) key: PathBuf,
    pub(crate) der: rustls::pki_types::CertificateDer<'static>,
}

/// Whether coturn's client says that it got back all that it sent.
pub(crate) fn lost_nothing(client: &Process) -> bool {
    client.log().lines().iter().any(|line| line.message.contains("Total lost packets 0 "))
}

/// Of a host on the internet.
pub(crate) fn addresses(host: u8) -> [String; 2] {
    [format!("203.0.113.{host}/24"), format!("2001:db8::{host}/64")]
}

/// For arguments that are strings.
pub(crate) fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}
