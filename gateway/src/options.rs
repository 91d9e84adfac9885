//! The command line and the environment.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Result;
use clap::Parser;
use connlib::gateway::Settings;
use connlib::portal::PortalSettings;
use connlib::portal::client::Retry;
use connlib_daemon::{LogFormat, TokenSource};
use connlib_portal_api::Secret;

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
#[command(version, name = "connlib-gateway")]
pub(crate) struct Options {
    /// URL of the portal's API.
    #[arg(long, env = "CONNLIB_API_URL", value_name = "URL")]
    api_url: String,
    /// File with the token; only its owner may read it.
    #[arg(long, env = "CONNLIB_TOKEN_FILE", value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// Name that people see [default: the host name].
    #[arg(long, env = "CONNLIB_NAME")]
    name: Option<String>,
    /// What makes this the same gateway at every start [default: from the machine's id].
    #[arg(long, env = "CONNLIB_ID")]
    id: Option<String>,
    /// Directory for what must be remembered.
    #[arg(
        long,
        env = "CONNLIB_STATE_DIRECTORY",
        value_name = "DIR",
        default_value = "/var/lib/connlib-gateway"
    )]
    state_directory: PathBuf,
    /// Name of the TUN device.
    #[arg(long, env = "CONNLIB_TUN", value_name = "NAME", default_value = "tun-connlib")]
    tun: String,
    /// Leave forwarding and masquerade to the administrator.
    #[arg(long, env = "CONNLIB_NO_NAT")]
    no_nat: bool,
    /// Certificates (PEM) to trust beside the system's.
    #[arg(long, env = "CONNLIB_CA_FILE", value_name = "FILE")]
    ca_file: Option<PathBuf>,
    /// Give up after the portal has been away for so long, such as `24h` [default: never].
    #[arg(long, env = "CONNLIB_MAX_PARTITION_TIME", value_name = "TIME", value_parser = humantime::parse_duration)]
    max_partition_time: Option<Duration>,
    /// Where to answer /healthz and /readyz, such as 127.0.0.1:8080 [default: nowhere].
    #[arg(long, env = "CONNLIB_HEALTH_LISTEN", value_name = "ADDRESS")]
    pub(crate) health_listen: Option<SocketAddr>,
    /// Shape of the log on standard error.
    #[arg(long, env = "CONNLIB_LOG_FORMAT", value_enum, default_value = "human")]
    pub(crate) log_format: LogFormat,
    /// What is logged: directives like `info,connlib_tunnel=debug`.
    #[arg(long, env = "CONNLIB_LOG", value_name = "FILTER", default_value = "info")]
    pub(crate) log_filter: String,
}

impl Options {
    pub(crate) fn settings(&self) -> Result<Settings> {
        let token = TokenSource {
            file: self.token_file.clone(),
            credential: "connlib-gateway-token",
            variable: "CONNLIB_TOKEN",
            default_file: "/etc/connlib/gateway-token".into(),
        };
        Ok(Settings {
            portal: PortalSettings {
                url: self.api_url.clone(),
                token: Secret::token(token.load()?.expose()),
                external_id: connlib_daemon::external_id(
                    self.id.as_deref(),
                    &self.state_directory,
                    "connlib-gateway",
                )?,
                name: connlib_daemon::device_name(self.name.as_deref()),
                retry: Retry { fail_fast: false, budget: self.max_partition_time },
                extra_ca_file: self.ca_file.clone(),
            },
            tun: self.tun.clone(),
            manage_nat: !self.no_nat,
        })
    }
}
