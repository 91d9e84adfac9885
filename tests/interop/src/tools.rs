//! Programs of others: looked for, and installed where that can be done.

use std::{
    env,
    ffi::OsStr,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, ensure};

/// A program of the system, and Debian's package that brings it.
#[derive(Debug, Clone, Copy)]
pub struct SystemTool {
    program: &'static str,
    package: &'static str,
}

/// Measures throughput.
pub const IPERF3: SystemTool = SystemTool { program: "iperf3", package: "iperf3" };
/// Asks whether a host is there.
pub const PING: SystemTool = SystemTool { program: "ping", package: "iputils-ping" };
/// Lays out networks.
pub const IP: SystemTool = SystemTool { program: "ip", package: "iproute2" };
/// Sets up NAT.
pub const NFT: SystemTool = SystemTool { program: "nft", package: "nftables" };
/// Changes what network cards do.
pub const ETHTOOL: SystemTool = SystemTool { program: "ethtool", package: "ethtool" };
/// A TURN relay.
pub const COTURN: SystemTool = SystemTool { program: "turnserver", package: "coturn" };
/// Configures WireGuard devices.
pub const WG: SystemTool = SystemTool { program: "wg", package: "wireguard-tools" };

/// The commit of Tailscale's wireguard-go that we compare with, as `go install` names it.
const WIREGUARD_GO: &str = "v0.0.0-20260928213032-417aef361226";
const BORINGTUN: &str = "0.7.1";

/// Where programs for administrators lie, which not every user's `PATH` has.
const SYSTEM_DIRECTORIES: [&str; 2] = ["/usr/sbin", "/sbin"];

impl SystemTool {
    /// Installs the program by `apt-get`, unless it is there.
    pub fn ensure_present(self) -> Result<()> {
        if is_present(self.program) {
            return Ok(());
        }
        let advice = format!("{} is missing: install the package {}", self.program, self.package);
        ensure!(is_present("apt-get"), advice);
        // A list that is out of date or not there yet is the usual reason for a failure.
        if apt_get(&["install", self.package]).is_err() {
            apt_get(&["update"])?;
            apt_get(&["install", self.package]).context(advice)?;
        }
        Ok(())
    }
}

/// Tailscale's wireguard-go: the program's path.
pub fn wireguard_go() -> Result<PathBuf> {
    let directory = cache().join(format!("wireguard-go-{WIREGUARD_GO}"));
    let program = directory.join("wireguard-go");
    if !program.is_file() {
        ensure!(is_present("go"), "Go is not installed");
        let module = format!("github.com/tailscale/wireguard-go@{WIREGUARD_GO}");
        run(Command::new("go").args(["install", &module]).env("GOBIN", &directory))?;
    }
    Ok(program)
}

/// A client of TURN relays on pion's stack, which Go's WebRTC programs have: the program's path.
pub fn pion_client() -> Result<PathBuf> {
    ensure!(is_present("go"), "Go is not installed");
    let program = cache().join("pion-client");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("pion");
    // Go builds what has changed, and only that.
    run(Command::new("go").args(["build", "-o"]).arg(&program).arg(".").current_dir(source))?;
    Ok(program)
}

/// Cloudflare's boringtun-cli: the program's path.
pub fn boringtun() -> Result<PathBuf> {
    let directory = cache().join(format!("boringtun-cli-{BORINGTUN}"));
    let program = directory.join("bin/boringtun-cli");
    if !program.is_file() {
        let install = ["install", "boringtun-cli", "--locked", "--version", BORINGTUN, "--root"];
        run(cargo().args(install).arg(&directory))?;
    }
    Ok(program)
}

fn apt_get(arguments: &[&str]) -> Result<()> {
    let options = ["--yes", "--quiet=2", "--no-install-recommends"];
    // Somebody else may be installing just now.
    let patience = ["-o", "DPkg::Lock::Timeout=300"];
    let mut command = Command::new("apt-get");
    command.args(options).args(patience).args(arguments);
    run(command.env("DEBIAN_FRONTEND", "noninteractive"))
}

/// Runs a command, says so, and keeps its output off standard output, which is for figures.
pub fn run(command: &mut Command) -> Result<()> {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    let line = words.map(OsStr::to_string_lossy).collect::<Vec<_>>().join(" ");
    eprintln!("  $ {line}");
    let output = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .output()
        .with_context(|| format!("cannot start `{line}`"))?;
    ensure!(output.status.success(), "`{line}` failed with {}", output.status);
    Ok(())
}

fn is_present(program: &str) -> bool {
    let path = env::var_os("PATH").unwrap_or_default();
    let system = SYSTEM_DIRECTORIES.iter().map(PathBuf::from);
    env::split_paths(&path).chain(system).any(|directory| directory.join(program).is_file())
}

/// The Cargo that runs us, or the one that is there.
pub fn cargo() -> Command {
    Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
}

/// Where others' programs stay between runs.
fn cache() -> PathBuf {
    target_directory().join("bench-tools")
}

/// Where Cargo puts what it builds.
pub fn target_directory() -> PathBuf {
    // Relative paths of this variable count from where the user is.
    let target =
        env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from);
    std::path::absolute(&target).unwrap_or(target)
}

/// The root of the workspace.
pub fn root() -> &'static Path {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
    manifest.ancestors().nth(2).unwrap_or(manifest)
}
