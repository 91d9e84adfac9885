//! How the portal is reached.

use std::path::PathBuf;

use connlib_link::PREFERRED_PORT;
use connlib_portal_api::client::{Config, Retry};
use connlib_portal_api::login::{Params, UserAgent};
use connlib_portal_api::messages::Role;
use connlib_portal_api::{PublicKey, Secret};

pub use connlib_portal_api::client;

/// Where the portal is, and who we are to it.
#[derive(Debug, Clone)]
pub struct PortalSettings {
    /// The URL of its API, `wss://api.example`.
    pub url: String,
    /// The token that it knows us by.
    pub token: Secret,
    /// What makes this the same device at every start.
    pub external_id: String,
    /// The name that people see.
    pub name: String,
    /// For how long to try.
    pub retry: Retry,
    /// Certificates to trust beside the system's.
    pub extra_ca_file: Option<PathBuf>,
}

impl PortalSettings {
    /// `component` and `version` are part of the protocol: portals decide by them what they may ask of us.
    pub(crate) fn config<R: Role<Join = ()>>(
        &self,
        component: &str,
        version: &str,
        public_key: [u8; 32],
    ) -> Config<R> {
        Config {
            url: self.url.clone(),
            token: Secret::token(self.token.expose()),
            params: Params {
                external_id: Some(self.external_id.clone()),
                name: Some(self.name.clone()),
                public_key: Some(PublicKey(public_key)),
                ..Params::default()
            },
            user_agent: UserAgent::of_this_machine(component, version),
            join: (),
            retry: self.retry,
            extra_ca_file: self.extra_ca_file.clone(),
        }
    }
}

/// The options of the sockets that carry the tunnel.
pub(crate) fn socket_options(mark: Option<u32>) -> connlib_net::udp::Options {
    connlib_net::udp::Options { port: PREFERRED_PORT, mark, ..Default::default() }
}
