//! The relays that are measured.

use std::{fmt, fs, os::unix::fs::PermissionsExt as _, time::Duration};

use anyhow::{Context as _, Result, ensure};
use connlib_e2e::{Lab, Process, process::Command, wait};
use connlib_interop::tools;

use super::{
    network::{Cores, Network, RELAY},
    turn::{PASSWORD, REALM},
};

/// Ours in the lab.
pub(super) const PACKAGE: &str = "connlib-relay";

/// Nobody may allocate more often than relays let one user.
const ALLOCATIONS_PER_USER: u32 = 50;
const USERS: u32 = 256;
/// Allocations that all users together may have.
pub(super) const MOST_ALLOCATIONS: u32 = USERS * ALLOCATIONS_PER_USER;

/// What ours says if it has attached its program.
const ATTACHED: &str = "relaying channels in the kernel";

const DEADLINE: Duration = Duration::from_secs(20);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Subject {
    Relay,
    RelayXdp,
    Coturn,
}

impl Subject {
    pub(super) const ALL: [Self; 3] = [Self::Relay, Self::RelayXdp, Self::Coturn];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Relay => "connlib-relay",
            Self::RelayXdp => "connlib-relay-xdp",
            Self::Coturn => "coturn",
        }
    }

    /// Its place in [`Subject::ALL`].
    pub(super) fn number(self) -> usize {
        self as usize
    }

    pub(super) fn is_ours(self) -> bool {
        self != Self::Coturn
    }

    /// What is special about it, for people.
    pub(super) fn description(self) -> &'static str {
        match self {
            Self::Relay => "ours in user space, as it is by default",
            Self::RelayXdp => "ours with the XDP program in the driver of both interfaces",
            Self::Coturn => "coturn as Debian has it, one relay thread: more only share the core",
        }
    }
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The name of the user that has the allocation of this number.
pub(super) fn user_of(allocation: u32) -> String {
    format!("user{}", allocation / ALLOCATIONS_PER_USER)
}

/// A relay that serves.
#[derive(Debug)]
pub(super) struct Standing {
    pub(super) subject: Subject,
    pub(super) network: Network,
    process: Process,
}

impl Standing {
    /// Starts a relay on a network of its own and waits until it listens.
    pub(super) fn set_up(lab: &Lab, subject: Subject, cores: &Cores) -> Result<Self> {
        let network = Network::lay(lab, subject, cores)?;
        let users: Vec<String> = (0..USERS).map(|user| format!("user{user}:{PASSWORD}")).collect();
        let command = match subject {
            Subject::Relay | Subject::RelayXdp => ours(lab, subject, &network, &users)?,
            Subject::Coturn => coturn(lab, &network, &users)?,
        };
        let mut process = cores.with_relays(|| command.spawn(subject.name()))?;
        wait_for_listener(&network, &mut process)?;
        if subject == Subject::RelayXdp {
            let attached = process.log().find(ATTACHED);
            attached.with_context(|| format!("no XDP program runs:\n{}", process.log().tail(5)))?;
        }
        Ok(Self { subject, network, process })
    }

    /// The process id of the relay.
    pub(super) fn process(&self) -> u32 {
        self.process.id()
    }

    /// What the relay said last, for errors.
    pub(super) fn last_words(&self) -> String {
        self.process.log().tail(5)
    }
}

fn ours(lab: &Lab, subject: Subject, network: &Network, users: &[String]) -> Result<Command> {
    let file = lab.directory().join(format!("{subject}-users"));
    fs::write(&file, users.join("\n"))?;
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600))?;
    let command = network
        .relay
        .command(PACKAGE)
        .env("CONNLIB_LOG_FORMAT", "json")
        .args(["--public-ip4-addr", &RELAY.ip().to_string(), "--realm", REALM, "--user-file"])
        .arg(file);
    Ok(match subject {
        Subject::RelayXdp => {
            let interfaces = network.interfaces.iter();
            interfaces.fold(command.args(["--xdp", "native"]), |command, interface| {
                command.args(["--xdp-interface", interface])
            })
        }
        _ => command.args(["--xdp", "off"]),
    })
}

fn coturn(lab: &Lab, network: &Network, users: &[String]) -> Result<Command> {
    tools::COTURN.ensure_present()?;
    let at = RELAY.ip().to_string();
    let command = network
        .relay
        .command("turnserver")
        .args(["-n", "--lt-cred-mech", "--realm", REALM, "--listening-ip", &at, "--relay-ip", &at])
        .args(["--no-tcp", "--no-tls", "--no-dtls", "--no-cli", "--relay-threads", "1"])
        .args(["--log-file", "stdout", "--simple-log"])
        .arg("--pidfile")
        .arg(lab.directory().join("coturn.pid"))
        .arg("--userdb")
        .arg(lab.directory().join("coturn.db"));
    Ok(users.iter().fold(command, |command, user| command.args(["--user", user])))
}

fn wait_for_listener(network: &Network, process: &mut Process) -> Result<()> {
    let filter = format!("sport = :{}", RELAY.port());
    wait::until("the relay to listen", DEADLINE, || {
        let ended = process.exit_status().is_ok_and(|status| status.is_some());
        let sockets = network.relay.command("ss").args(["-Hlun", &filter]).run();
        (ended || sockets.is_ok_and(|sockets| !sockets.trim().is_empty())).then_some(())
    })?;
    let status = process.exit_status()?;
    ensure!(status.is_none(), "it ended at once:\n{}", process.log().tail(5));
    Ok(())
}

/// Whether words of the command line mean this subject.
pub(super) fn select(words: &[String]) -> Result<Vec<Subject>> {
    let is_named = |subject: &Subject, word: &String| subject.name().contains(&word.to_lowercase());
    for word in words {
        let is_known =
            !word.is_empty() && Subject::ALL.iter().any(|subject| is_named(subject, word));
        let names = Subject::ALL.map(Subject::name).join(", ");
        is_known
            .then_some(())
            .with_context(|| format!("nothing is called {word:?}; there are {names}"))?;
    }
    let is_wanted =
        |subject: &Subject| words.is_empty() || words.iter().any(|word| is_named(subject, word));
    Ok(Subject::ALL.into_iter().filter(is_wanted).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn selected(words: &[&str]) -> Result<Vec<Subject>> {
        select(&words.iter().map(ToString::to_string).collect::<Vec<_>>())
    }

    #[test]
    fn words_select_by_parts_of_names() {
        assert_eq!(selected(&[]).unwrap(), Subject::ALL);
        assert_eq!(selected(&["xdp", "TURN"]).unwrap(), [Subject::RelayXdp, Subject::Coturn]);
        let error = selected(&["restund"]).unwrap_err().to_string();
        assert!(error.contains("restund") && error.contains("connlib-relay-xdp"), "{error}");
        assert!(selected(&[""]).is_err());
    }

    #[test]
    fn users_stay_below_what_one_may_have() {
        assert_eq!(user_of(0), user_of(ALLOCATIONS_PER_USER - 1));
        assert_ne!(user_of(0), user_of(ALLOCATIONS_PER_USER));
    }
}
