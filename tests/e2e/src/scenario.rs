//! Portal, gateway, client and relays, the real binaries, on a [`Direct`] network.

use std::{
    fs::{self, Permissions},
    net::{SocketAddr, TcpStream},
    os::unix::fs::PermissionsExt as _,
    path::PathBuf,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};

use crate::{
    Lab, Namespace, Process,
    log::Line,
    probe::{Echo, Probe},
    process::Command,
    topology::{Direct, MAX_RELAYS, Options, relay_addresses},
    wait,
};

/// What the binaries log at the moments that matter.
pub mod event {
    /// Gateway and client: the portal has accepted the token and sent its first message.
    pub const SIGNED_IN: &str = "signed in";
    /// Gateway and client: what the portal said about the interface is set up.
    pub const READY: &str = "ready";
    /// Relay: the portal has accepted the token, and tells others of it.
    pub const RELAY_READY: &str = "ready: joined the portal";
    /// Client: a packet or a query wants a resource, and the portal is asked.
    pub const AUTHORIZATION_REQUESTED: &str = "authorization requested";
    /// Gateway and client: a resource may be used. Fields: `resource`.
    pub const AUTHORIZED: &str = "authorized";
    /// Gateway and client: packets may flow to the peer. Fields: `local`, `remote`.
    pub const PATH_ESTABLISHED: &str = "path established";
    /// Gateway and client: packets take another path from now on. Fields: `local`, `remote`.
    pub const PATH_CHANGED: &str = "path changed";
}

/// Who may reach what, unless a test says otherwise.
pub const POLICY: &str = r#"account = "lab"

[[site]]
name = "office"

[[gateway]]
name = "gateway"
site = "office"

[[client]]
name = "client"

[[resource]]
name = "web server"
type = "cidr"
address = "10.20.0.10/32"
filters = ["tcp/80", "udp", "icmp"]
sites = ["office"]

[[resource]]
name = "web server v6"
type = "cidr"
address = "fd20::10/128"
filters = ["tcp/80", "udp", "icmp"]
sites = ["office"]

[[resource]]
name = "office names"
type = "dns"
address = "*.office.example"
sites = ["office"]

# There is such a thing, but no policy lets anybody reach it.
[[resource]]
name = "database"
type = "cidr"
address = "10.20.0.20/32"
sites = ["office"]

[[policy]]
name = "the client works"
clients = ["client"]
resources = ["web server", "web server v6", "office names"]
"#;

const PORTAL_URL: &str = "ws://portal.example:8080";
const DEADLINE: Duration = Duration::from_secs(20);

/// What a scenario starts with.
#[derive(Debug, Clone)]
pub struct Setup {
    /// The network.
    pub network: Options,
    /// The portal's policy file.
    pub policy: String,
    /// What the client does with `/etc/resolv.conf`.
    pub dns_control: String,
    /// More arguments of each relay.
    pub relay_options: Vec<String>,
}

impl Setup {
    /// The usual policy on another network.
    pub fn on(network: Options) -> Self {
        Self { network, ..Self::default() }
    }

    /// The usual network with another policy.
    pub fn with_policy(policy: impl Into<String>) -> Self {
        Self { policy: policy.into(), ..Self::default() }
    }
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            network: Options::default(),
            policy: POLICY.to_owned(),
            dns_control: "etc-resolv-conf".to_owned(),
            relay_options: Vec::new(),
        }
    }
}

/// The three programs, running. They can be stopped and started by themselves.
#[derive(Debug)]
pub struct Scenario {
    /// The network that they run on.
    pub network: Direct,
    /// The portal, while it runs.
    pub portal: Option<Process>,
    /// The gateway, while it runs.
    pub gateway: Option<Process>,
    /// The client, while it runs.
    pub client: Option<Process>,
    /// The relays that run.
    pub relays: Vec<Process>,
    setup: Setup,
    // The last to go: everything above lives in it.
    lab: Lab,
}

impl Scenario {
    /// Starts all of them and waits until both ends are ready.
    pub fn start(setup: Setup) -> Result<Self> {
        let mut scenario = Self::prepare(Lab::new()?, setup)?;
        scenario.start_portal()?;
        scenario.start_relays()?;
        scenario.start_gateway()?;
        scenario.start_client()?;
        Ok(scenario)
    }

    /// Lays the network and starts none of them.
    pub fn prepare(lab: Lab, setup: Setup) -> Result<Self> {
        let network = Direct::lay(&lab, &setup.network)?;
        let relays = Vec::new();
        let scenario =
            Self { network, portal: None, gateway: None, client: None, relays, setup, lab };
        scenario.set_policy(&scenario.setup.policy)?;
        Ok(scenario)
    }

    /// The lab that it runs in.
    pub fn lab(&self) -> &Lab {
        &self.lab
    }

    /// Writes the policy file anew, as a whole. A running portal notices by itself.
    pub fn set_policy(&self, policy: &str) -> Result<()> {
        let (new, path) = (self.file("policy.toml.new"), self.file("policy.toml"));
        fs::write(&new, policy)?;
        fs::set_permissions(&new, Permissions::from_mode(0o600))?;
        fs::rename(new, path)?;
        Ok(())
    }

    /// Starts the portal and waits until it listens.
    pub fn start_portal(&mut self) -> Result<&mut Process> {
        let portal = &self.network.portal;
        let process = portal
            .command("connlib-portal")
            .args(["run", "--listen", "[::]:8080", "--log-format", "json"])
            .arg("--config")
            .arg(self.file("policy.toml"))
            .arg("--database")
            .arg(self.file("portal.db"))
            .spawn_watched("portal")?;
        let process = self.portal.insert(process);
        let connect =
            || TcpStream::connect("[::1]:8080").or_else(|_| TcpStream::connect("127.0.0.1:8080"));
        wait::until("the portal to listen", DEADLINE, || {
            let ended = process.exit_status().is_ok_and(|status| status.is_some());
            (ended || portal.enter(connect).is_ok_and(|stream| stream.is_ok())).then_some(())
        })?;
        ensure!(
            process.exit_status()?.is_none(),
            "the portal ended at once:\n{}",
            process.log().tail(5)
        );
        Ok(process)
    }

    /// Starts a relay on each of the network's hosts for them, and waits until the portal knows them.
    pub fn start_relays(&mut self) -> Result<()> {
        for index in 0..self.setup.network.relays {
            let relay = self.spawn_relay(index)?;
            self.relays.push(relay);
        }
        Ok(())
    }

    /// Starts the relay on one of the network's hosts for them, and waits until the portal knows it.
    pub fn spawn_relay(&self, index: u8) -> Result<Process> {
        let at = self.network.relays.get(usize::from(index)).context("no such host")?;
        let name = format!("relay{}", index + 1);
        let mut command = at
            .command("connlib-relay")
            .args(["--api-url", PORTAL_URL, "--name", &name, "--log-format", "json"])
            .args(["--max-allocations", "64", "--max-streams", "64"])
            .args(&self.setup.relay_options)
            .arg("--token-file")
            .arg(self.token("relay", &name)?);
        for address in relay_addresses(index) {
            if self.setup.network.underlay.has(&address.to_string()) {
                let flag =
                    if address.is_ipv4() { "--public-ip4-addr" } else { "--public-ip6-addr" };
                command = command.args([flag, &address.to_string()]);
            }
        }
        let mut process = command.spawn_watched(&name)?;
        process.wait_for(event::RELAY_READY, DEADLINE)?;
        Ok(process)
    }

    /// Starts the gateway and waits until its interface is set up.
    pub fn start_gateway(&mut self) -> Result<&mut Process> {
        let process = self.spawn_gateway(&self.network.gateway, "gateway")?;
        let process = self.gateway.insert(process);
        process.wait_for(event::READY, DEADLINE)?;
        Ok(process)
    }

    /// Starts the client and waits until its interface and DNS are set up.
    pub fn start_client(&mut self) -> Result<&mut Process> {
        let process = self.spawn_client(&self.network.client, "client")?;
        let process = self.client.insert(process);
        process.wait_for(event::READY, DEADLINE)?;
        Ok(process)
    }

    /// Starts a gateway at `at` that signs in as `name`, which the policy must know.
    pub fn spawn_gateway(&self, at: &Namespace, name: &str) -> Result<Process> {
        let command = self.member(at, "gateway", name)?;
        command.args(["--health-listen", "127.0.0.1:8081"]).spawn_watched(name)
    }

    /// Starts a client at `at` that signs in as `name`, which the policy must know.
    pub fn spawn_client(&self, at: &Namespace, name: &str) -> Result<Process> {
        let command = self.member(at, "client", name)?;
        command.args(["--dns-control", &self.setup.dns_control]).spawn_watched(name)
    }

    /// Fetches a page from the client's namespace. An error if there is none, whatever the reason.
    pub fn fetch(&self, url: &str) -> Result<String> {
        self.curl().arg(url).run()
    }

    /// `curl` in the client's namespace: quiet, failing on errors, giving up after 20 s.
    pub fn curl(&self) -> Command {
        self.network.client.command("curl").args([
            "-q",
            "--silent",
            "--show-error",
            "--fail",
            "--max-time",
            "20",
        ])
    }

    /// A service in the office's web server that answers UDP datagrams at `address`.
    pub fn echo(&self, address: &str) -> Result<Echo> {
        Echo::start(&self.network.web, address.parse()?)
    }

    /// An application on the client that talks to `echo`, once it has got answers.
    pub fn probe(&self, echo: &Echo) -> Result<Probe> {
        Probe::start_answered(&self.network.client, echo.address(), DEADLINE)
    }

    /// Takes everything down and fails if a program complained.
    pub fn finish(self) -> Result<()> {
        let Self { lab, .. } = self;
        lab.finish()
    }

    /// Leaves everything running after this process has ended; see [`Lab::keep`].
    pub fn keep(self) -> Result<()> {
        let Self { lab, .. } = self;
        lab.keep()
    }

    /// A command line of a `role` that signs in to the portal under a name of the policy's.
    fn member(&self, at: &Namespace, role: &str, name: &str) -> Result<Command> {
        let token = self.token(role, name)?;
        let state = self.file(&format!("{name}-state"));
        fs::create_dir_all(&state)?;
        Ok(at
            .command(&format!("connlib-{role}"))
            .args(["--api-url", PORTAL_URL, "--name", name, "--log-format", "json"])
            .arg("--token-file")
            .arg(token)
            .arg("--state-directory")
            .arg(state))
    }

    /// The file with the token of a role and name, made at first use.
    pub fn token(&self, role: &str, name: &str) -> Result<PathBuf> {
        let path = self.file(&format!("{name}.token"));
        if !path.exists() {
            let token = self
                .token_command("new")
                .arg(format!("--{role}"))
                // A relay's token is anybody's who runs one.
                .args((role != "relay").then_some(name))
                .arg("--config")
                .arg(self.file("policy.toml"))
                .run()
                .with_context(|| format!("cannot make a token for {name}"))?;
            fs::write(&path, token)?;
            fs::set_permissions(&path, Permissions::from_mode(0o600))?;
        }
        Ok(path)
    }

    /// `connlib-portal token` on the portal's database: `new`, `list` or `revoke`.
    pub fn token_command(&self, action: &str) -> Command {
        let command = self.network.portal.command("connlib-portal");
        command.args(["token", action]).arg("--database").arg(self.file("portal.db"))
    }

    fn file(&self, name: &str) -> PathBuf {
        self.lab.directory().join(name)
    }
}

/// The path that a gateway or a client said last its packets take.
pub fn path_of(peer: &Process) -> Option<Line> {
    let log = peer.log();
    let last = log.count(event::PATH_CHANGED).checked_sub(1);
    last.and_then(|last| log.find_nth(event::PATH_CHANGED, last))
        .or_else(|| log.find(event::PATH_ESTABLISHED))
}

/// The relay that a path leads through, counted from 0: the first whose address one of its ends has.
pub fn relay_of(path: &Line) -> Option<u8> {
    let end = |field| Some(path.text(field)?.parse::<SocketAddr>().ok()?.ip());
    let ends = [end("local"), end("remote")];
    (0..MAX_RELAYS).find(|index| relay_addresses(*index).iter().any(|ip| ends.contains(&Some(*ip))))
}

/// The binaries that a scenario starts, by package.
pub const PACKAGES: [&str; 5] =
    ["connlib-portal", "connlib-gateway", "connlib-client", "connlib-relay", "connlib-e2e"];
