//! What the commands need from the system, and how it gets there.

use std::{
    env, fs, io,
    path::Path,
    process::{Command, Stdio},
};

use anyhow::{Result, bail, ensure};

use crate::cargo;

/// A program or file, and Debian's package that brings it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Need {
    program: &'static str,
    package: &'static str,
}

/// To build C libraries that crates bring along.
pub(crate) const COMPILER: Need = Need { program: "cc", package: "build-essential" };
/// To lay out networks and to fetch pages in them.
pub(crate) const LAB: [Need; 4] = [
    Need { program: "ip", package: "iproute2" },
    Need { program: "nft", package: "nftables" },
    Need { program: "ping", package: "iputils-ping" },
    Need { program: "curl", package: "curl" },
];
/// To make network cards of cables.
pub(crate) const ETHTOOL: Need = Need { program: "ethtool", package: "ethtool" };
/// To ask name servers in tests.
pub(crate) const DIG: Need = Need { program: "dig", package: "bind9-dnsutils" };
/// To measure.
pub(crate) const BENCH: [Need; 1] = [Need { program: "iperf3", package: "iperf3" }];
/// To measure relays: a relay of others, and what makes network cards of cables.
pub(crate) const BENCH_RELAY: [Need; 2] =
    [Need { program: "turnserver", package: "coturn" }, ETHTOOL];
/// TURN clients, peers and a relay of others.
pub(crate) const COTURN: Need = Need { program: "turnutils_uclient", package: "coturn" };
/// To configure WireGuards of others.
pub(crate) const WIREGUARD_TOOLS: Need = Need { program: "wg", package: "wireguard-tools" };
/// To trust servers on the internet.
pub(crate) const CERTIFICATES: Need =
    Need { program: "/etc/ssl/certs/ca-certificates.crt", package: "ca-certificates" };

/// Where Debian keeps programs for administrators, which not every user's `PATH` has.
const SYSTEM_DIRECTORIES: [&str; 2] = ["/usr/sbin", "/sbin"];

/// Installs what is missing where that is possible, and says so; else says what is missing.
pub(crate) fn ensure_present(needs: &[Need]) -> Result<()> {
    let missing: Vec<&Need> = needs.iter().filter(|need| !is_present(need.program)).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let packages: Vec<&str> = missing.iter().map(|need| need.package).collect();
    let names = packages.join(" ");
    if !is_present("apt-get") {
        let programs: Vec<&str> = missing.iter().map(|need| need.program).collect();
        bail!("please install {} (Debian's packages: {names})", programs.join(", "));
    }
    ensure!(
        is_root(),
        "some of the system's packages are missing; please run: sudo apt-get install {names}"
    );

    eprintln!("installing with apt-get: {names}");
    // A list that is out of date or not there yet is the usual reason for a failure.
    if apt_get(&["install"], &packages).is_err() {
        apt_get(&["update"], &[])?;
        apt_get(&["install"], &packages)?;
    }
    Ok(())
}

/// Whether this process is root's.
pub(crate) fn is_root() -> bool {
    fs::metadata("/proc/self").is_ok_and(|own| {
        use std::os::unix::fs::MetadataExt as _;
        own.uid() == 0
    })
}

fn apt_get(action: &[&str], packages: &[&str]) -> Result<()> {
    let mut command = Command::new("apt-get");
    command
        .args(["--yes", "--quiet=2", "--no-install-recommends"])
        // Somebody else may be installing just now.
        .args(["-o", "DPkg::Lock::Timeout=300"])
        .args(action)
        .args(packages)
        .env("DEBIAN_FRONTEND", "noninteractive")
        .stdin(Stdio::null())
        // Standard output is for what our commands have to say.
        .stdout(io::stderr());
    cargo::run(&mut command)
}

/// Whether a program can be run, or a file is there.
pub(crate) fn is_present(program: &str) -> bool {
    if program.starts_with('/') {
        return Path::new(program).exists();
    }
    let path = env::var_os("PATH").unwrap_or_default();
    let system = SYSTEM_DIRECTORIES.iter().map(|directory| directory.into());
    env::split_paths(&path).chain(system).any(|directory| directory.join(program).is_file())
}
