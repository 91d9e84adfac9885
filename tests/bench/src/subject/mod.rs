//! What is measured. Each subject stands on a [`Network`] of its own, all of them alike:
//!
//! ```text
//!  client ──────────── gateway ──────────── server
//!    198.18.0.1  198.18.0.2   10.20.0.1  10.20.0.2
//! ```
//!
//! Whatever the subject, the client reaches 10.20.0.0/24 by it, over the one cable between client and gateway. So the
//! packets of all take the same hops, and what differs is the subject.

mod connlib;
mod network;
mod wireguard;

use std::{fmt, net::Ipv4Addr, path::PathBuf, process::Output, time::Duration};

use anyhow::{Context as _, Result, ensure};
use connlib_e2e::{Lab, Namespace, Process, process::Command, wait};
use connlib_interop::tools;

use self::{connlib::Connlib, network::Network};
pub(crate) use self::{connlib::PACKAGES, network::Place};

/// The MTU of what is carried, for all subjects.
pub(crate) const MTU: u16 = 1280;

/// The port of the server, TCP and UDP.
pub(crate) const PORT: u16 = 5201;

const DEADLINE: Duration = Duration::from_secs(20);

/// A way from client to server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Subject {
    Connlib,
    WireguardGo,
    Boringtun,
    Veth,
}

impl Subject {
    pub(crate) const ALL: [Self; 4] =
        [Self::Connlib, Self::WireguardGo, Self::Boringtun, Self::Veth];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Connlib => "connlib",
            Self::WireguardGo => "wireguard-go-tailscale",
            Self::Boringtun => "boringtun-cli",
            Self::Veth => "veth",
        }
    }

    /// The way of a packet, for people.
    pub(crate) fn path(self) -> &'static str {
        match self {
            Self::Connlib => {
                "our client and gateway, by a path that ICE found; each packet has to pass a filter of a portal's policy; \
                 the gateway tracks connections and masquerades what it forwards"
            }
            Self::WireguardGo => "a WireGuard device of Tailscale's wireguard-go at both ends",
            Self::Boringtun => "a WireGuard device of boringtun-cli at both ends",
            Self::Veth => "no tunnel, no encryption: the cable itself",
        }
    }
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The program that a subject needs, there to be run.
#[derive(Debug)]
pub(crate) enum Program {
    /// Our own, which the lab knows.
    Ours,
    /// A user-space WireGuard.
    Wireguard(PathBuf),
    /// None: the kernel does it.
    Kernel,
}

impl Program {
    /// Finds the program of a subject, or installs it. An error says why it cannot be had.
    pub(crate) fn of(subject: Subject) -> Result<Self> {
        match subject {
            Subject::Connlib => Ok(Self::Ours),
            Subject::Veth => Ok(Self::Kernel),
            Subject::WireguardGo | Subject::Boringtun => {
                tools::WG.ensure_present()?;
                let find = match subject {
                    Subject::Boringtun => tools::boringtun,
                    _ => tools::wireguard_go,
                };
                find().map(Self::Wireguard)
            }
        }
    }
}

/// A subject that packets can go through.
#[derive(Debug)]
pub(crate) struct Standing {
    /// Which.
    pub(crate) subject: Subject,
    network: Network,
    /// The processes that carry packets, the client's first. None for the bare link.
    tunnel: Vec<Process>,
    /// Everything else that has to run.
    _others: Vec<Process>,
}

impl Standing {
    /// Sets a subject up on a network of its own and waits until packets get through.
    pub(crate) fn set_up(
        lab: &Lab,
        subject: Subject,
        program: &Program,
        place: Place,
    ) -> Result<Self> {
        let network = Network::lay(lab, subject, place)?;
        let (tunnel, others) = match program {
            Program::Kernel => {
                network.join_directly()?;
                (Vec::new(), Vec::new())
            }
            Program::Wireguard(path) => {
                (wireguard::set_up(&network, subject.name(), path)?, Vec::new())
            }
            Program::Ours => {
                let Connlib { portal, gateway, client } = Connlib::set_up(lab, &network)?;
                (vec![client, gateway], vec![portal])
            }
        };
        if subject != Subject::Connlib && place == Place::BehindGateway {
            network.masquerade()?;
        }
        let standing = Self { subject, network, tunnel, _others: others };
        standing.wait_for_answer()?;
        Ok(standing)
    }

    /// A command in the namespace that connections come from.
    pub(crate) fn at_client(&self, program: &str) -> Command {
        self.network.client.command(program)
    }

    /// Where the server runs that is talked to.
    pub(crate) fn server(&self) -> &Namespace {
        self.network.target()
    }

    /// The address of the server.
    pub(crate) fn server_address(&self) -> Ipv4Addr {
        self.network.target_address()
    }

    /// The ids of the processes that carry packets, the client's first.
    pub(crate) fn processes(&self) -> impl Iterator<Item = u32> {
        self.tunnel.iter().map(Process::id)
    }

    /// Pings the server through the subject. An error only if `ping` cannot be run.
    pub(crate) fn ping(&self, arguments: &[&str]) -> Result<Output> {
        let address = self.server_address().to_string();
        self.at_client("ping").args(["-n"]).args(arguments).arg(address).output()
    }

    fn wait_for_answer(&self) -> Result<()> {
        let mut complaint = None;
        let answered = wait::until("an answer to a ping", DEADLINE, || {
            match self.ping(&["-c", "1", "-W", "1"]) {
                Ok(output) => output.status.success().then_some(()),
                Err(error) => {
                    complaint = Some(error);
                    None
                }
            }
        });
        if let Some(error) = complaint {
            return Err(error);
        }
        answered.with_context(|| {
            let logs = self.tunnel.iter().map(|process| process.log().tail(3));
            logs.collect::<Vec<_>>().join("\n")
        })
    }
}

/// Waits until something listens on a TCP port in a namespace.
pub(crate) fn wait_for_listener(at: &Namespace, port: u16, process: &mut Process) -> Result<()> {
    let filter = format!("sport = :{port}");
    let is_there = || {
        let sockets = at.command("ss").args(["-Hltn", &filter]).run();
        sockets.is_ok_and(|sockets| !sockets.trim().is_empty())
    };
    wait::until(&format!("port {port} to be listened on"), DEADLINE, || {
        let ended = process.exit_status().is_ok_and(|status| status.is_some());
        (ended || is_there()).then_some(())
    })?;
    ensure!(process.exit_status()?.is_none(), "it ended at once:\n{}", process.log().tail(5));
    Ok(())
}
