//! What a gateway sets up on its machine.

use std::net::{Ipv4Addr, Ipv6Addr};

use connlib_net::netlink::{Interface, Ipv6Support, MAIN_TABLE};
use connlib_net::nft::{Forwarding, GatewayNat, Masquerade};
use connlib_net::retry::Retry;
use connlib_packet::plan;

use crate::command::SessionError;
use crate::logged::Logged;

/// What is set up on the machine.
pub(super) struct Host {
    pub(super) tun_name: String,
    manage_nat: bool,
    interface: Interface,
    nat: Option<GatewayNat>,
    forwarding: Option<Forwarding>,
    /// The interface as it should be.
    pub(super) config: Option<InterfaceConfig>,
    /// Whether it was ever so.
    pub(super) is_ready: bool,
    pub(super) retry: Retry,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct InterfaceConfig {
    pub(super) ipv4: Ipv4Addr,
    pub(super) ipv6: Ipv6Addr,
    pub(super) masquerade: Masquerade,
}

impl Host {
    /// Of a device that is there already.
    pub(super) fn new(tun: &str, manage_nat: bool) -> Result<Self, SessionError> {
        Ok(Self {
            tun_name: tun.to_owned(),
            manage_nat,
            interface: Interface::open(tun)?,
            nat: None,
            forwarding: None,
            config: None,
            is_ready: false,
            retry: Retry::default(),
        })
    }

    pub(super) fn set_up(
        &mut self,
        InterfaceConfig { ipv4, ipv6, masquerade }: InterfaceConfig,
    ) -> Result<Ipv6Support, SessionError> {
        let support = self.interface.set_addresses(Some(ipv4), Some(ipv6))?;
        if support == Ipv6Support::Unavailable {
            tracing::info!("this machine has no IPv6: clients reach it by IPv4 only");
        }
        let routes: [ipnet::IpNet; 2] = [plan::TUNNEL_V4.into(), plan::TUNNEL_V6.into()];
        let _support = self.interface.set_routes(MAIN_TABLE, routes)?;
        if !self.manage_nat {
            return Ok(support);
        }
        match &mut self.nat {
            Some(nat) => nat.update(masquerade)?,
            None => self.nat = Some(GatewayNat::install(&self.tun_name, masquerade)?),
        }
        if self.forwarding.is_none() {
            self.forwarding = Some(Forwarding::enable(&self.tun_name)?);
        }
        Ok(support)
    }

    /// Takes everything back.
    pub(super) fn restore(self) {
        let Self { nat, forwarding, interface, .. } = self;
        if let Some(nat) = nat {
            nat.remove().logged("could not remove the masquerade");
        }
        if let Some(forwarding) = forwarding {
            forwarding.restore().logged("could not restore the forwarding settings");
        }
        drop(interface);
    }
}
