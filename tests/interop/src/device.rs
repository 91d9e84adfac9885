//! A WireGuard device of another program, configured by `wg`.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Result, ensure};
use connlib_e2e::{Namespace, Process, wait};

const INTERFACE: &str = "wg0";
const DEADLINE: Duration = Duration::from_secs(20);

/// A running program with its device.
#[derive(Debug)]
pub struct Device {
    namespace: Namespace,
    program: PathBuf,
    name: String,
    process: Process,
    private_key: String,
    public_key: String,
}

/// The other end of a tunnel, in the words of `wg set`.
#[derive(Debug, Clone, Copy)]
pub struct Peer<'a> {
    /// Its key, in base64.
    pub public_key: &'a str,
    /// The preshared key, in base64.
    pub preshared_key: Option<&'a str>,
    /// Where it is, as `address:port`.
    pub endpoint: &'a str,
    /// The networks that it speaks for.
    pub allowed: &'a str,
}

impl Device {
    /// Starts a user-space WireGuard with a new key; its log is called `name`.
    pub fn start(namespace: &Namespace, program: &Path, name: &str) -> Result<Self> {
        let private_key = namespace.command("wg").arg("genkey").run()?;
        let public_key = namespace.command("wg").arg("pubkey").stdin(&private_key).run()?;
        Ok(Self {
            namespace: namespace.clone(),
            program: program.to_owned(),
            name: name.to_owned(),
            process: start(namespace, program, name)?,
            private_key,
            public_key: public_key.trim().to_owned(),
        })
    }

    /// Kills the program and starts another one with the same key, which knows nothing else.
    pub fn restart(self) -> Result<Self> {
        let Self { namespace, program, name, process, .. } = self;
        process.kill()?;
        let process = start(&namespace, &program, &name)?;
        Ok(Self { namespace, program, name, process, ..self })
    }

    /// The key, in base64.
    pub fn public_key(&self) -> &str {
        &self.public_key
    }

    /// Takes its key and listens.
    pub fn listen(&self, port: u16) -> Result<()> {
        let port = port.to_string();
        self.set(&["private-key", "/dev/stdin", "listen-port", &port], &self.private_key)
    }

    /// Makes a peer known.
    pub fn add_peer(&self, peer: &Peer<'_>) -> Result<()> {
        let Peer { public_key, preshared_key, endpoint, allowed } = *peer;
        let words = ["peer", public_key, "allowed-ips", allowed, "endpoint", endpoint];
        match preshared_key {
            Some(key) => self.set(&[&words[..], &["preshared-key", "/dev/stdin"]].concat(), key),
            None => self.set(&words, ""),
        }
    }

    /// Gives the interface addresses with their prefix lengths, and has it carry packets.
    pub fn bring_up(&self, addresses: &[&str], mtu: u16) -> Result<()> {
        for address in addresses {
            self.namespace.address(INTERFACE, address)?;
        }
        self.namespace.ip(&format!("link set {INTERFACE} mtu {mtu} up"))?;
        Ok(())
    }

    /// The end of its log.
    pub fn last_words(&self) -> String {
        self.process.log().tail(5)
    }

    /// The program, when nothing is left to configure.
    pub fn into_process(self) -> Process {
        self.process
    }

    fn set(&self, words: &[&str], stdin: &str) -> Result<()> {
        wg(&self.namespace, &self.process, &[&["set", INTERFACE], words].concat(), stdin)?;
        Ok(())
    }
}

fn start(namespace: &Namespace, program: &Path, name: &str) -> Result<Process> {
    // The control sockets of all such programs lie in one directory, which namespaces of networks do not part.
    let script =
        "mkdir -p /run/wireguard && mount -t tmpfs none /run/wireguard && exec \"$0\" \"$@\"";
    let mut process = namespace
        .command("sh")
        .args(["-c", script])
        .arg(program)
        .args(["--foreground", INTERFACE])
        .env("WG_PROCESS_FOREGROUND", "1")
        // boringtun-cli would look for whoever called sudo.
        .env("WG_SUDO", "true")
        .spawn(name)?;
    let is_there = |process: &Process| wg(namespace, process, &["show", INTERFACE], "").is_ok();
    wait::until(&format!("{name} to make its device"), DEADLINE, || {
        let ended = process.exit_status().is_ok_and(|status| status.is_some());
        (ended || is_there(&process)).then_some(())
    })?;
    ensure!(process.exit_status()?.is_none(), "it ended at once: {}", process.log().tail(5));
    Ok(process)
}

/// Runs `wg` where it sees the control socket of `process`.
fn wg(at: &Namespace, process: &Process, arguments: &[&str], stdin: &str) -> Result<String> {
    let id = process.id().to_string();
    at.command("nsenter")
        .args(["--mount", "--target", &id, "wg"])
        .args(arguments)
        .stdin(stdin)
        .run()
}
