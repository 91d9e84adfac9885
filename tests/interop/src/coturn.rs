//! coturn between the hosts of a [`Site`].

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Result, ensure};
use connlib_e2e::{Lab, Process, wait};
use connlib_link::RelayCredentials;

use crate::relayed::RELAY_PORT;
use crate::site::{RELAY, Site};
use crate::tools;

/// Not the one that our relay has.
const REALM: &str = "coturn.example";
const PASSWORD: &str = "secret";
const USERS: [&str; 2] = ["left", "right"];
const DEADLINE: Duration = Duration::from_secs(20);

/// A coturn that serves.
#[derive(Debug)]
pub struct Coturn<'a> {
    site: &'a Site,
    directory: PathBuf,
    options: Vec<String>,
    process: Process,
}

impl<'a> Coturn<'a> {
    /// Starts one on both of the relay's addresses, with these options, and waits until it listens.
    pub fn start(lab: &Lab, site: &'a Site, options: &[&str]) -> Result<Self> {
        tools::COTURN.ensure_present()?;
        let options: Vec<String> = options.iter().map(ToString::to_string).collect();
        let directory = lab.directory().to_owned();
        let process = start(site, &directory, &options)?;
        Ok(Self { site, directory, options, process })
    }

    /// Kills it and starts another one, which knows nothing of what the first one granted.
    pub fn restart(self) -> Result<Self> {
        let Self { site, directory, options, process } = self;
        process.kill()?;
        let process = start(site, &directory, &options)?;
        Ok(Self { site, directory, options, process })
    }

    /// What it said last.
    pub fn last_words(&self) -> String {
        self.process.log().tail(20)
    }
}

/// Who may allocate: the left one, the right one.
pub fn users() -> [RelayCredentials; 2] {
    USERS.map(|user| RelayCredentials { username: user.into(), password: PASSWORD.into() })
}

fn start(site: &Site, directory: &Path, options: &[String]) -> Result<Process> {
    let mut command = site
        .relay
        .command("turnserver")
        .args(["-n", "--lt-cred-mech", "--realm", REALM, "--no-tls", "--no-dtls", "--no-cli"])
        .args(["--log-file", "stdout", "--simple-log", "--verbose", "--no-rfc5780"])
        .arg("--pidfile")
        .arg(directory.join("coturn.pid"))
        .arg("--userdb")
        .arg(directory.join("coturn.db"))
        .args(options);
    for ip in RELAY.map(|ip| ip.to_string()) {
        command = command.args(["--listening-ip", &ip, "--relay-ip", &ip]);
    }
    for user in USERS {
        command = command.args(["--user", &format!("{user}:{PASSWORD}")]);
    }
    let mut process = command.spawn("coturn")?;
    let filter = format!("sport = :{RELAY_PORT}");
    wait::until("coturn to listen", DEADLINE, || {
        let ended = process.exit_status().is_ok_and(|status| status.is_some());
        let sockets = ["-Hlun", "-Hltn"]
            .map(|kind| site.relay.command("ss").args([kind, &filter]).run().unwrap_or_default());
        let listens = |sockets: &String| RELAY.iter().all(|ip| sockets.contains(&ip.to_string()));
        (ended || sockets.iter().all(listens)).then_some(())
    })?;
    ensure!(process.exit_status()?.is_none(), "coturn ended at once:\n{}", process.log().tail(5));
    Ok(process)
}
