//! What a client sets up on its machine.

use connlib_net::dns_control::{DnsControl, SearchDomain, Settings as DnsSettings};
use connlib_net::netlink::{ClientRoutes, Interface, Ipv6Support};
use connlib_net::retry::Retry;
use connlib_tunnel::client::TunConfig;

use crate::command::SessionError;
use crate::logged::{Chain, Logged};
use crate::system_dns::SystemDns;

/// What is set up on the machine.
pub(super) struct Host {
    pub(super) tun_name: String,
    interface: Interface,
    pub(super) routes: ClientRoutes,
    pub(super) dns: SystemDns,
    /// The interface as it should be.
    pub(super) config: Option<TunConfig>,
    /// Whether it was ever so.
    pub(super) is_ready: bool,
    pub(super) retry: Retry,
}

impl Host {
    /// Of a device that is there already. Undoes what a crashed predecessor left behind.
    pub(super) fn new(tun: &str, dns: DnsControl) -> Result<Self, SessionError> {
        Ok(Self {
            tun_name: tun.to_owned(),
            interface: Interface::open(tun)?,
            routes: ClientRoutes::install(tun)?,
            dns: SystemDns::new(dns),
            config: None,
            is_ready: false,
            retry: Retry::default(),
        })
    }

    /// What was refused while the interface is in use is tried again; what is in force goes on meanwhile.
    pub(super) fn go_on(&mut self, result: Result<(), SessionError>) -> Result<(), SessionError> {
        match result {
            Ok(()) => {}
            Err(error) if self.is_ready => {
                tracing::info!(error = %Chain(&error), "could not set up the interface");
                self.retry.later();
            }
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// Sets up the interface. The system's DNS settings follow.
    pub(super) fn set_up(&mut self) -> Result<(), SessionError> {
        let Some(config) = &self.config else { return Ok(()) };
        let support = self.interface.set_addresses(Some(config.ipv4), Some(config.ipv6))?;
        if support == Ipv6Support::Unavailable {
            tracing::info!("this machine has no IPv6: resources are reached by IPv4 only");
        }
        let _support = self.routes.set(config.routes.iter().copied())?;
        let search_domain = config.search_domain.as_deref().and_then(|domain| {
            domain.parse::<SearchDomain>().logged("skipped a malformed search domain")
        });
        let servers = config
            .dns_servers
            .iter()
            .copied()
            .filter(|ip| ip.is_ipv4() || support == Ipv6Support::Available)
            .collect();
        self.dns.set(DnsSettings { servers, search_domain });
        Ok(())
    }

    /// Sets up everything once more, after something was refused.
    pub(super) fn restore_order(&mut self) -> Result<(), SessionError> {
        let _support = self.routes.sync()?;
        self.set_up()
    }
}
