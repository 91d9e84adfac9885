//! The relay's place in a portal: being there is all it says.

use anyhow::{Context, Result};
use connlib_daemon::{Exit, Failure, TokenSource};
use connlib_portal_api::Secret;
use connlib_portal_api::client::{Config, Event, FatalError, Network, PortalClient, Retry};
use connlib_portal_api::login::{Params, UserAgent};
use connlib_portal_api::messages::relay::{Join, RelayRole};

use crate::options::{Options, token_variable};

/// Our place in a portal. To drop it is to leave.
pub(crate) struct Portal {
    client: PortalClient<RelayRole>,
}

/// What became of our place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Presence {
    /// The portal tells clients and gateways of us.
    Joined,
    /// The portal is away. It is tried again.
    Lost,
}

impl Portal {
    /// A place in the portal that the options name. `None`: they name none.
    ///
    /// # Errors
    /// If there is no usable token, or the options cannot be used.
    pub(crate) fn new(options: &Options, stamp_secret: Option<Secret>) -> Result<Option<Self>> {
        let (Some(url), Some(stamp_secret)) = (&options.portal.api_url, stamp_secret) else {
            return Ok(None);
        };
        let token = TokenSource {
            file: options.portal.token_file.clone(),
            credential: "connlib-relay-token".to_owned(),
            variable: token_variable(),
            default_file: "/etc/connlib/relay-token".into(),
        };
        let config = Config {
            url: url.clone(),
            token: Secret::token(token.load()?.expose()),
            params: Params {
                name: options.portal.name.clone(),
                ipv4: options.addresses.public_ip4_addr,
                ipv6: options.addresses.public_ip6_addr,
                port: Some(options.addresses.listen_port.get()),
                ..Params::default()
            },
            user_agent: UserAgent::of_this_machine("relay", env!("CARGO_PKG_VERSION")),
            join: Join { stamp_secret },
            retry: Retry { fail_fast: false, budget: Some(options.portal.max_partition_time) },
            extra_ca_file: options.portal.ca_file.clone(),
        };
        let client =
            PortalClient::new(config, Network::default()).context("cannot use the portal")?;
        Ok(Some(Self { client }))
    }

    /// What happens next. Cancel safe.
    ///
    /// # Errors
    /// If it is not tried any more.
    pub(crate) async fn next(&mut self) -> Result<Presence, FatalError> {
        loop {
            match self.client.next_event().await {
                Event::Connected => return Ok(Presence::Joined),
                Event::Message(message) => tracing::debug!(?message, "the portal says"),
                Event::Disconnected { error, retry_in } => {
                    let error = &error as &dyn std::error::Error;
                    tracing::info!(error, ?retry_in, "the portal is away");
                    return Ok(Presence::Lost);
                }
                Event::Fatal(error) => return Err(error),
            }
        }
    }
}

/// The end of a relay that the portal does not want, or has been away from for too long.
pub(crate) fn failure(error: FatalError) -> Failure {
    let exit = if error.requires_sign_in() { Exit::SignInRequired } else { Exit::Failure };
    Failure { exit, error: anyhow::Error::new(error).context("the portal is left") }
}
