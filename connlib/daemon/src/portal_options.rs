//! The options by which clients and gateways reach the portal.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Result;
use clap::Args;
use connlib::portal::PortalSettings;
use connlib::portal::client::Retry;
use connlib_portal_api::Secret;

use crate::identity::{device_name, external_id};
use crate::token::TokenSource;

/// Where the portal is, and who we are to it. A program gives `state_directory` its default.
#[derive(Debug, Args)]
pub struct PortalOptions {
    /// URL of the portal's API.
    #[arg(long, env = "CONNLIB_API_URL", value_name = "URL")]
    api_url: String,
    /// File with the token; only its owner may read it.
    #[arg(long, env = "CONNLIB_TOKEN_FILE", value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// Name that people see [default: the host name].
    #[arg(long, env = "CONNLIB_NAME")]
    name: Option<String>,
    /// What makes this the same one to the portal at every start [default: from the machine's id].
    #[arg(long, env = "CONNLIB_ID")]
    id: Option<String>,
    /// Directory for what must be remembered.
    #[arg(long, env = "CONNLIB_STATE_DIRECTORY", value_name = "DIR", required = false)]
    state_directory: PathBuf,
    /// Certificates (PEM) to trust beside the system's.
    #[arg(long, env = "CONNLIB_CA_FILE", value_name = "FILE")]
    ca_file: Option<PathBuf>,
    /// Give up after the portal has been away for so long, such as `24h` [default: never].
    #[arg(long, env = "CONNLIB_MAX_PARTITION_TIME", value_name = "TIME", value_parser = humantime::parse_duration)]
    max_partition_time: Option<Duration>,
}

impl PortalOptions {
    /// The settings of a `client` or `gateway`: the names of tokens and the machine's id differ by it.
    ///
    /// # Errors
    /// If there is no usable token, or nothing to know this machine by.
    pub fn settings(&self, role: &str) -> Result<PortalSettings> {
        let application = format!("connlib-{role}");
        let token = TokenSource {
            file: self.token_file.clone(),
            credential: format!("{application}-token"),
            variable: "CONNLIB_TOKEN",
            default_file: format!("/etc/connlib/{role}-token").into(),
        };
        Ok(PortalSettings {
            url: self.api_url.clone(),
            token: Secret::token(token.load()?.expose()),
            external_id: external_id(self.id.as_deref(), &self.state_directory, &application)?,
            name: device_name(self.name.as_deref()),
            retry: Retry { fail_fast: false, budget: self.max_partition_time },
            extra_ca_file: self.ca_file.clone(),
        })
    }
}
