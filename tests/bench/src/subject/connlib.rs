//! Our client and gateway, and the portal that they sign in to.

use std::{
    fs::{self, Permissions},
    os::unix::fs::PermissionsExt as _,
    path::PathBuf,
};

use anyhow::{Context as _, Result};
use connlib_e2e::{Lab, Namespace, Process, scenario::event};

use super::{
    DEADLINE, PORT,
    network::{Network, RESOURCES},
    wait_for_listener,
};

/// The packages whose programs are measured.
pub(crate) const PACKAGES: [&str; 3] = ["connlib-portal", "connlib-gateway", "connlib-client"];

const PORTAL_PORT: u16 = 8080;
/// The portal as the client reaches it, and the client's end of that cable.
const TO_CLIENT: (&str, &str) = ("198.18.1.1", "198.18.1.2");
const TO_GATEWAY: (&str, &str) = ("198.18.2.1", "198.18.2.2");

/// The three programs, running.
#[derive(Debug)]
pub(crate) struct Connlib {
    pub(super) portal: Process,
    pub(super) gateway: Process,
    pub(super) client: Process,
}

impl Connlib {
    /// Starts the portal in a place of its own and signs client and gateway in to it.
    pub(super) fn set_up(lab: &Lab, network: &Network) -> Result<Self> {
        let place = lab.namespace("portal")?;
        join(lab, &place, "client", &network.client, TO_CLIENT)?;
        join(lab, &place, "gateway", &network.gateway, TO_GATEWAY)?;

        fs::write(policy_file(lab), policy())?;
        fs::set_permissions(policy_file(lab), Permissions::from_mode(0o600))?;
        let mut portal = with_files(lab, place.command("connlib-portal").arg("run"))
            .args(["--listen", &format!("0.0.0.0:{PORTAL_PORT}"), "--log-format", "json"])
            .spawn_watched("portal")?;
        wait_for_listener(&place, PORTAL_PORT, &mut portal).context("the portal")?;

        let health = ["--health-listen", "127.0.0.1:8081"];
        let gateway = start(lab, &place, &network.gateway, "gateway", TO_GATEWAY.0, &health)?;
        let no_dns = ["--dns-control", "disabled"];
        let client = start(lab, &place, &network.client, "client", TO_CLIENT.0, &no_dns)?;
        Ok(Self { portal, gateway, client })
    }
}

/// Whoever uses it may reach what the benches use, and nothing else: each packet has to pass a filter.
fn policy() -> String {
    format!(
        r#"account = "bench"

[[site]]
name = "office"

[[gateway]]
name = "gateway"
site = "office"

[[client]]
name = "client"

[[resource]]
name = "servers"
type = "cidr"
address = "{RESOURCES}"
filters = ["tcp/{PORT}", "udp/{PORT}", "icmp"]
sites = ["office"]

[[policy]]
name = "the client measures"
clients = ["client"]
resources = ["servers"]
"#
    )
}

/// A cable between the portal and another place.
fn join(
    lab: &Lab,
    portal: &Namespace,
    role: &str,
    other: &Namespace,
    (near, far): (&str, &str),
) -> Result<()> {
    let [near, far] = [near, far].map(|address| format!("{address}/24"));
    lab.cable((portal, role, &[&near]), (other, "portal", &[&far]))
}

fn start(
    lab: &Lab,
    portal: &Namespace,
    at: &Namespace,
    role: &str,
    portal_address: &str,
    more: &[&str],
) -> Result<Process> {
    let token = with_files(lab, portal.command("connlib-portal").args(["token", "new"]))
        .args([&format!("--{role}"), role])
        .run()
        .with_context(|| format!("cannot make a token for the {role}"))?;
    let token_file = lab.directory().join(format!("{role}.token"));
    fs::write(&token_file, token)?;
    fs::set_permissions(&token_file, Permissions::from_mode(0o600))?;
    let state = lab.directory().join(format!("{role}-state"));
    fs::create_dir_all(&state)?;

    let url = format!("ws://{portal_address}:{PORTAL_PORT}");
    let mut process = at
        .command(&format!("connlib-{role}"))
        .args(["--api-url", &url, "--name", role, "--log-format", "json"])
        .arg("--token-file")
        .arg(token_file)
        .arg("--state-directory")
        .arg(state)
        .args(more)
        .spawn_watched(role)?;
    process.wait_for(event::SIGNED_IN, DEADLINE)?;
    Ok(process)
}

fn with_files(lab: &Lab, command: connlib_e2e::process::Command) -> connlib_e2e::process::Command {
    let database = lab.directory().join("portal.db");
    command.arg("--config").arg(policy_file(lab)).arg("--database").arg(database)
}

fn policy_file(lab: &Lab) -> PathBuf {
    lab.directory().join("policy.toml")
}
