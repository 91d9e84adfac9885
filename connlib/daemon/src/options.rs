//! The options that all programs have in common.

use std::net::SocketAddr;

use anyhow::Result;
use clap::Args;

use crate::logs::{LogFormat, init_logs};

/// What people see of the process.
#[derive(Debug, Args)]
pub struct ProcessOptions {
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

impl ProcessOptions {
    /// Starts logging as the options say.
    ///
    /// # Errors
    /// If the filter is malformed.
    pub fn init_logs(&self) -> Result<()> {
        init_logs(self.log_format, &self.log_filter)
    }

    /// Where to answer health checks, if anywhere.
    pub fn health_listen(&self) -> Option<SocketAddr> {
        self.health_listen
    }
}
