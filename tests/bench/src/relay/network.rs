//! The network that every relay gets one of, and who works on which processor.
//!
//! ```text
//!  clients ──────────────────── relay ──────────────────── peers
//!    10.1.0.0/16   10.0.1.2  10.0.1.1  10.0.2.1  10.0.2.2
//! ```
//!
//! A load of frames uses the clients' cable alone: most relays have one network card. Its peers are at one of the clients'
//! addresses.
//!
//! The cables behave as network cards do, not as veth pairs: datagrams cross them one by one, already cut, and what is
//! received is worked on in a thread of its interface (threaded NAPI), where the kernel may join datagrams again (GRO) for
//! who asked for that. So the kernel's work for the relay can be told from that for the load.

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr, SocketAddrV4},
    path::Path,
    process::{self, Command as System},
};

use anyhow::{Context as _, Result, ensure};
use connlib_e2e::{Lab, Namespace, Router, process::Command};
use nix::{
    mount::{MsFlags, mount},
    sched::{CpuSet, sched_getaffinity, sched_setaffinity},
    unistd::Pid,
};

use super::subject::Subject;

/// Where the relay is, for clients and peers.
pub(super) const RELAY: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(10, 0, 1, 1), 3478);
/// Of the peers.
pub(super) const PEERS: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 2);
const CLIENTS: &str = "10.1.0.0/16";
/// Of peers on the clients' cable.
pub(super) const PEERS_BESIDE_CLIENTS: Ipv4Addr = Ipv4Addr::new(10, 1, 255, 1);

/// Where a peer sends to, to reach an allocation. Relays behind a router would announce another address.
pub(super) fn reached_at(relayed: SocketAddr) -> SocketAddrV4 {
    SocketAddrV4::new(*RELAY.ip(), relayed.port())
}

/// Clients on one side, peers on the other, the relay between them.
#[derive(Debug)]
pub(super) struct Network {
    pub(super) clients: Namespace,
    pub(super) relay: Router,
    pub(super) peers: Namespace,
    /// The clients' interface.
    pub(super) at_clients: String,
    /// The relay's interfaces: towards the clients, towards the peers.
    pub(super) interfaces: [String; 2],
    /// The kernel's threads that receive at these interfaces.
    pub(super) kernel_threads: Vec<u32>,
}

impl Network {
    pub(super) fn lay(lab: &Lab, subject: Subject, cores: &Cores) -> Result<Self> {
        let name = |role: &str| format!("{subject}-{role}");
        let clients = lab.namespace(&name("clients"))?;
        let relay = lab.router(&name("relay"))?;
        let peers = lab.namespace(&name("peers"))?;
        // Kernel threads have their interface's name, which has to be nobody else's on this machine.
        let interface = |end: char| format!("{end}{}-{}", subject.number(), process::id());
        let [at_clients, to_clients, to_peers, at_peers] = ['a', 'b', 'c', 'd'].map(interface);
        lab.cable(
            (&clients, &at_clients, &["10.0.1.2/24"]),
            (&relay, &to_clients, &["10.0.1.1/24"]),
        )?;
        lab.cable((&relay, &to_peers, &["10.0.2.1/24"]), (&peers, &at_peers, &["10.0.2.2/24"]))?;
        // All of these addresses are the clients' own.
        clients.ip(&format!("route add local {CLIENTS} dev lo"))?;
        relay.route(CLIENTS, "10.0.1.2")?;
        clients.route("default", "10.0.1.1")?;
        peers.route("default", "10.0.2.1")?;

        let mut kernel_threads = Vec::new();
        for (namespace, interface) in [
            (&*relay, &to_clients),
            (&*relay, &to_peers),
            (&clients, &at_clients),
            (&peers, &at_peers),
        ] {
            let is_relay = namespace.name() == relay.name();
            make_card(namespace, interface, is_relay || subject != Subject::RelayXdp)?;
            for thread in napi_threads(interface)? {
                let cores = if is_relay { &cores.relay } else { &cores.load };
                sched_setaffinity(Pid::from_raw(thread.cast_signed()), cores)
                    .with_context(|| format!("cannot move the kernel's thread of {interface}"))?;
                go_first(namespace.command("chrt"), thread)?;
                if is_relay {
                    kernel_threads.push(thread);
                }
            }
        }
        let interfaces = [to_clients, to_peers];
        Ok(Self { clients, relay, peers, at_clients, interfaces, kernel_threads })
    }
}

/// Has one end of a veth pair behave as a network card.
fn make_card(namespace: &Namespace, interface: &str, sums_up: bool) -> Result<()> {
    // Without offload of checksums the sender sums up, so that a program between the ends sees whole packets.
    let checksums = if sums_up { "on" } else { "off" };
    namespace
        .command("ethtool")
        .args(["-K", interface, "tso", "off", "gso", "off", "tx-udp-segmentation", "off"])
        .args(["gro", "on", "tx", checksums])
        .run()?;
    namespace
        .enter(|| {
            // What is mounted here shows the interfaces of this namespace, to this thread alone.
            mount(Some("sysfs"), "/sys", Some("sysfs"), MsFlags::empty(), None::<&str>)?;
            fs::write(Path::new("/sys/class/net").join(interface).join("threaded"), "1")
        })?
        .context("cannot have the kernel receive in threads")
}

/// Has this process, and relays that it starts, go before all else that runs here: figures are to be theirs.
pub(super) fn go_before_others() -> Result<()> {
    let mut command = System::new("renice");
    let command = command.args(["-n", "-20", "-p", &process::id().to_string()]);
    let output = command.output().context("cannot start renice")?;
    ensure!(output.status.success(), "cannot have a higher priority");
    Ok(())
}

/// As soft interrupts do that threads stand for here.
fn go_first(chrt: Command, thread: u32) -> Result<()> {
    chrt.args(["--fifo", "--pid", "1", &thread.to_string()]).run().map(drop)
}

fn napi_threads(interface: &str) -> Result<Vec<u32>> {
    let prefix = format!("napi/{interface}-");
    let mut threads = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let Some(id) = entry?.file_name().to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        // Processes end while we look.
        let name = fs::read_to_string(format!("/proc/{id}/comm")).unwrap_or_default();
        if name.starts_with(&prefix) {
            threads.push(id);
        }
    }
    ensure!(!threads.is_empty(), "this kernel does not receive in threads at {interface}");
    Ok(threads)
}

/// Who works where.
#[derive(Debug)]
pub(super) struct Cores {
    /// One that a relay has for itself, with what the kernel receives for it.
    pub(super) relay: CpuSet,
    /// All others: clients, peers, and what the kernel receives for them.
    pub(super) load: CpuSet,
}

impl Cores {
    /// Parts the processors that we may use.
    pub(super) fn part() -> Result<Self> {
        let ours = sched_getaffinity(Pid::from_raw(0))?;
        let mut own: Vec<usize> =
            (0..CpuSet::count()).filter(|core| ours.is_set(*core).unwrap_or(false)).collect();
        let last = own.pop().filter(|_| !own.is_empty());
        let last =
            last.context("two processors are needed: one for the relay, one for the load")?;
        let set = |cores: &[usize]| -> Result<CpuSet> {
            let mut set = CpuSet::new();
            cores.iter().try_for_each(|core| set.set(*core))?;
            Ok(set)
        };
        Ok(Self { relay: set(&[last])?, load: set(&own)? })
    }

    /// Has this thread, and what it starts from now on, work on the cores for the load.
    pub(super) fn make_load(&self) -> Result<()> {
        Ok(sched_setaffinity(Pid::from_raw(0), &self.load)?)
    }

    /// Runs `start`: what it starts works on the relay's core.
    pub(super) fn with_relays<T>(&self, start: impl FnOnce() -> Result<T>) -> Result<T> {
        sched_setaffinity(Pid::from_raw(0), &self.relay)?;
        let result = start();
        self.make_load()?;
        result
    }
}
