//! Logs on standard error: for people, or one JSON object a line.

use std::io::{self, IsTerminal};

use anyhow::{Result, bail};
use clap::ValueEnum;
use tracing_subscriber::EnvFilter;

/// Shape of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogFormat {
    /// For people.
    Human,
    /// One JSON object a line.
    Json,
}

/// Libraries that complain about what is normal here (lost handshakes, networks that come and go): what matters of it
/// we say ourselves.
const QUIET_LIBRARIES: &str = "boringtun=off,is=error,str0m_proto=error,quinn_udp=error,netlink_packet_route=error,\
     netlink_proto=error,hickory_proto=error,hickory_net=error,hickory_resolver=error,\
     rustls=error,tungstenite=error,tokio_tungstenite=error,hyper=error";

/// Starts logging. `filter` is a list of directives like `info,connlib=debug`; it wins over the defaults for noisy
/// libraries where it names them.
pub(crate) fn init_logs(format: LogFormat, filter: &str) -> Result<()> {
    let Ok(filter) = EnvFilter::try_new(format!("{QUIET_LIBRARIES},{filter}")) else {
        bail!("the log filter {filter:?} is malformed: write it like `info,connlib_link=debug`");
    };
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr);
    match format {
        LogFormat::Human => builder.with_ansi(io::stderr().is_terminal()).init(),
        LogFormat::Json => builder.json().flatten_event(true).with_current_span(false).init(),
    }
    Ok(())
}
