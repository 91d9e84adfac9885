//! The command line and the environment.

use anyhow::Result;
use clap::Parser;
use connlib::client::{DnsMethod, Settings};
use connlib_daemon::{PortalOptions, ProcessOptions};

/// Brings the packets of this machine's applications to private resources, and nothing else.
///
/// It makes a TUN device, routes and rules for what the policy lets this machine reach, and becomes its DNS server; all of
/// that is taken back at the end, and at the next start after a crash. It needs the capability CAP_NET_ADMIN.
///
/// The token is read from the file of --token-file, from a systemd credential named `connlib-client-token`, from the
/// environment (CONNLIB_TOKEN) or from /etc/connlib/client-token, in this order; never from the command line.
///
/// Exit status: 0 after SIGTERM or SIGINT, 2 if the command line is wrong, 77 if the token is not accepted (a new one is
/// needed), 78 if the settings or the machine do not allow a start, 1 otherwise. SIGHUP makes new sockets and calls the portal at once.
#[derive(Debug, Parser)]
#[command(
    version,
    name = "connlib-client",
    mut_arg("state_directory", |arg| arg.default_value("/var/lib/connlib-client"))
)]
pub(crate) struct Options {
    #[command(flatten)]
    portal: PortalOptions,
    /// Name of the TUN device.
    #[arg(long, env = "CONNLIB_TUN", value_name = "NAME", default_value = "tun-connlib")]
    tun: String,
    /// How the machine's DNS is pointed at us: systemd-resolved, etc-resolv-conf or disabled.
    #[arg(
        long,
        env = "CONNLIB_DNS_CONTROL",
        value_name = "METHOD",
        default_value = "systemd-resolved"
    )]
    dns_control: DnsMethod,
    /// Send everything that no resource covers through the internet resource.
    #[arg(long, env = "CONNLIB_INTERNET_RESOURCE")]
    internet_resource: bool,
    #[command(flatten)]
    pub(crate) process: ProcessOptions,
}

impl Options {
    pub(crate) fn settings(&self) -> Result<Settings> {
        Ok(Settings {
            portal: self.portal.settings("client")?,
            tun: self.tun.clone(),
            dns: self.dns_control,
            internet_resource_active: self.internet_resource,
        })
    }
}
