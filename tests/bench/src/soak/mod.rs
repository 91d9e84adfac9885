//! A relay under churn for an hour: what it takes must not grow, and nothing may be left behind.
//!
//! Clients come by UDP, TCP and TLS, over IPv4 and IPv6, each from an address of its own; talk to peers that send back
//! what they get; give back what they had, vanish, or come again. Strangers send garbage, guess passwords and open
//! connections that come to nothing. Now and then the certificate is renewed. At the end all go, and the relay is to be
//! as it was at its start.
//!
//! - [`network`]: where it happens; [`certificate`]
//! - [`link`], [`client`]: how a client speaks; [`payload`]: what it says; [`echo`]: its peers
//! - [`session`], [`strangers`]: what clients and others do; [`load`]: all of them; [`tally`]: what they saw
//! - [`sample`]: figures of the relay; [`verdict`]: what must hold of them

mod certificate;
mod client;
mod echo;
mod link;
mod load;
mod network;
mod payload;
mod sample;
mod session;
mod strangers;
mod tally;
mod verdict;

use std::{
    fs,
    io::Write as _,
    os::unix::fs::PermissionsExt as _,
    path::PathBuf,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use connlib_e2e::{Lab, Process};
use connlib_interop::tools;
use nix::sys::{
    resource::{Resource, getrlimit, setrlimit},
    signal::Signal,
};

use self::{
    certificate::Authority,
    load::{Load, PASSWORD, SECRET, Threads, USERS},
    network::{INTERFACES, Network, RELAY},
    sample::{HEADINGS, HEALTH, Sample, mib},
    verdict::Course,
};
use crate::{lab, machine};

const PACKAGE: &str = "connlib-relay";
/// What the relay says if it has attached its program.
const ATTACHED: &str = "relaying channels in the kernel";
const ALLOCATIONS: u64 = 6000;
const DEADLINE: Duration = Duration::from_secs(20);
/// Everything is given back by then, and workers have told their numbers.
const PATIENCE: Duration = Duration::from_secs(120);
const RENEWAL: Duration = Duration::from_secs(20);

#[derive(Debug, clap::Subcommand)]
pub(crate) enum Soak {
    /// Our relay: clients by UDP, TCP and TLS that come and go, and strangers
    Relay(Arguments),
}

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Print one JSON object a line instead of a table
    #[arg(long)]
    json: bool,
    /// How long clients come
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..))]
    minutes: u64,
    /// Relay channels by the XDP program, in the driver
    #[arg(long)]
    xdp: bool,
    /// Between two looks at the relay
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=60))]
    seconds: u64,
}

pub(crate) fn run(soak: &Soak) -> Result<()> {
    let Soak::Relay(arguments) = soak;
    for tool in [tools::IP, tools::ETHTOOL, tools::PING] {
        tool.ensure_present()?;
    }
    // Two for each allocation of the relay.
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    let needed = 2 * ALLOCATIONS + 1024;
    if soft < needed {
        setrlimit(Resource::RLIMIT_NOFILE, needed, hard.max(needed))
            .context("more files need to be open at once")?;
    }
    let lab = lab::open(&[PACKAGE])?;
    let result = soak_in(&lab, arguments);
    lab::close(lab, !matches!(&result, Ok(faults) if faults.is_empty()))?;
    let faults = result?;
    for fault in &faults {
        eprintln!("fault: {fault}");
    }
    if !faults.is_empty() {
        bail!("faults: {}", faults.len());
    }
    eprintln!("all holds");
    Ok(())
}

/// Returns what does not hold.
fn soak_in(lab: &Lab, arguments: &Arguments) -> Result<Vec<String>> {
    let network = Network::lay(lab)?;
    let authority = Authority::new(lab.directory())?;
    let relay = start(lab, &network, &authority, arguments.xdp)?;
    let load = Arc::new(Load::new(authority.client()?));
    let begin = Instant::now();
    let look = || Sample::take(&network.relay, relay.id(), &load.tally, begin.elapsed());

    explain(arguments);
    // The first look opens what later ones share.
    look()?;
    let start = look()?;
    tell(&start, None, arguments.json)?;
    let threads = Threads::start(&network, &load)?;
    let end = begin + Duration::from_secs(60 * arguments.minutes);
    let result = watch(arguments, end, look, || {
        authority.renew()?;
        relay.signal(Signal::SIGHUP)?;
        load.tally.renewals.add(1);
        Ok(())
    });
    let finished = threads.finish(&network);
    let samples = result.with_context(|| format!("the relay said:\n{}", relay.log().tail(5)))?;
    finished?;

    let end = settle(&start, look)?;
    tell(&end, samples.last(), arguments.json)?;
    for (example, count) in load.tally.examples() {
        eprintln!("failed {count} times: {example}");
    }
    let complaints = relay.log().complaints();
    let course = Course {
        start: &start,
        samples: &samples,
        end: &end,
        complaints: &complaints,
        by_xdp: arguments.xdp,
    };
    conclude(&course);
    Ok(course.faults())
}

/// Looks at the relay at equal distances, and renews its certificate now and then.
fn watch(
    arguments: &Arguments,
    end: Instant,
    look: impl Fn() -> Result<Sample>,
    renew: impl Fn() -> Result<()>,
) -> Result<Vec<Sample>> {
    let mut samples: Vec<Sample> = Vec::new();
    let mut next = Instant::now();
    let mut renewal = next + RENEWAL;
    loop {
        next += Duration::from_secs(arguments.seconds);
        thread::sleep(next.saturating_duration_since(Instant::now()));
        if next >= end {
            return Ok(samples);
        }
        let sample = look()?;
        tell(&sample, samples.last(), arguments.json)?;
        samples.push(sample);
        if renewal <= Instant::now() {
            renew()?;
            renewal += RENEWAL;
        }
    }
}

/// Waits until the relay is as it was, or for as long as that may take.
fn settle(start: &Sample, look: impl Fn() -> Result<Sample>) -> Result<Sample> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let sample = look()?;
        let is_over = sample.is_empty() && sample.open_files <= start.open_files;
        if is_over || Instant::now() > deadline {
            return Ok(sample);
        }
        thread::sleep(Duration::from_millis(500));
    }
}

fn start(lab: &Lab, network: &Network, authority: &Authority, by_xdp: bool) -> Result<Process> {
    let users: String = (0..USERS).map(|user| format!("user{user}:{PASSWORD}\n")).collect();
    let users = secret_file(lab, "users", &users)?;
    let secrets = secret_file(lab, "secrets", SECRET)?;
    let [ip4, ip6] = RELAY.map(|ip| ip.to_string());
    let mut command = network
        .relay
        .command(PACKAGE)
        .env("CONNLIB_LOG_FORMAT", "json")
        .env("CONNLIB_MAX_ALLOCATIONS", ALLOCATIONS.to_string())
        .args(["--public-ip4-addr", &ip4, "--public-ip6-addr", &ip6, "--health-listen", HEALTH])
        .args(["--listen-tcp", "0.0.0.0:3478,[::]:3478", "--listen-tls", "0.0.0.0:443,[::]:443"])
        .arg("--tls-cert")
        .arg(&authority.certificate)
        .arg("--tls-key")
        .arg(&authority.key)
        .arg("--user-file")
        .arg(users)
        .arg("--static-secret-file")
        .arg(secrets);
    command = if by_xdp {
        INTERFACES.iter().fold(command.args(["--xdp", "native"]), |command, interface| {
            command.args(["--xdp-interface", interface])
        })
    } else {
        command.args(["--xdp", "off"])
    };
    let mut relay = command.spawn_watched("relay")?;
    relay.wait_for("relaying", DEADLINE)?;
    if by_xdp {
        let attached = relay.log().find(ATTACHED);
        attached.with_context(|| format!("no XDP program runs:\n{}", relay.log().tail(5)))?;
    }
    Ok(relay)
}

/// A file that only its owner may read.
fn secret_file(lab: &Lab, name: &str, contents: &str) -> Result<PathBuf> {
    let path = lab.directory().join(name);
    fs::write(&path, contents)?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600))?;
    Ok(path)
}

fn explain(arguments: &Arguments) {
    if !arguments.json {
        println!("{}", machine::description());
        println!(
            "Clients by UDP, TCP and TLS for {} minutes, over IPv4 and IPv6. echoes/s: datagrams that clients got back from\n\
             peers; missing: those that they did not, the ones under way included. strangers: what they sent or opened.\n\n{HEADINGS}",
            arguments.minutes
        );
    }
}

fn tell(sample: &Sample, before: Option<&Sample>, as_json: bool) -> Result<()> {
    let line = if as_json { serde_json::to_string(sample)? } else { sample.line(before) };
    println!("{line}");
    Ok(std::io::stdout().flush()?)
}

fn conclude(course: &Course<'_>) {
    let Course { start, end, .. } = course;
    let [first, second, last] = course.thirds().map(|bytes| mib(bytes as u64));
    eprintln!(
        "RSS: {:.2} MiB at the start; medians of the thirds {first:.2}, {second:.2}, {last:.2}; {:.2} at the end, {:.2} at most",
        mib(start.rss_bytes),
        mib(end.rss_bytes),
        mib(end.peak_bytes),
    );
    eprintln!(
        "open files: {} at the start, {} at the end; left: {} allocations, {} channels, {} streams",
        start.open_files, end.open_files, end.allocations, end.channels, end.streams
    );
    eprintln!(
        "{} clients, of whom {} vanished and {} of these came again under their names; {} things from strangers; {} new certificates",
        end.sessions, end.vanished, end.returns, end.strangers, end.renewals
    );
    eprintln!(
        "{} datagrams sent, {} missing, {} damaged; {} failures; {} relayed by XDP",
        end.sent,
        end.sent - end.received,
        end.damaged,
        end.failures,
        end.xdp_packets
    );
    eprintln!("dropped by the relay, what strangers sent above all: {:?}", end.drops);
}
