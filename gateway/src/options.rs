//! The command line and the environment.

use anyhow::Result;
use clap::Parser;
use connlib::gateway::Settings;
use connlib_daemon::{PortalOptions, ProcessOptions};

/// Stands next to private resources and lets authorized clients reach them.
///
/// It makes a TUN device, forwards what clients may send, and masquerades it for its own address range; all of that is
/// taken back at the end. It needs the capability CAP_NET_ADMIN and nothing else.
///
/// The token is read from the file of --token-file, from a systemd credential named `connlib-gateway-token`, from the
/// environment (CONNLIB_TOKEN) or from /etc/connlib/gateway-token, in this order; never from the command line.
///
/// Exit status: 0 after SIGTERM or SIGINT, 2 if the command line is wrong, 77 if the token is not accepted (a new one is
/// needed), 78 if the settings or the machine do not allow a start, 1 otherwise. SIGHUP makes new sockets and calls the portal at once.
#[derive(Debug, Parser)]
#[command(
    version,
    name = "connlib-gateway",
    mut_arg("state_directory", |arg| arg.default_value("/var/lib/connlib-gateway"))
)]
pub(crate) struct Options {
    #[command(flatten)]
    portal: PortalOptions,
    /// Name of the TUN device.
    #[arg(long, env = "CONNLIB_TUN", value_name = "NAME", default_value = "tun-connlib")]
    tun: String,
    /// Leave forwarding and masquerade to the administrator.
    #[arg(long, env = "CONNLIB_NO_NAT")]
    no_nat: bool,
    #[command(flatten)]
    pub(crate) process: ProcessOptions,
}

impl Options {
    pub(crate) fn settings(&self) -> Result<Settings> {
        Ok(Settings {
            portal: self.portal.settings("gateway")?,
            tun: self.tun.clone(),
            manage_nat: !self.no_nat,
        })
    }
}
