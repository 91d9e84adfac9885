//! The gateways that give access to something.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use connlib_link::PeerId;
use connlib_packet::plan::GATEWAY_DNS_PORT;

use crate::ids::{GatewayId, SiteId};

/// A gateway, as the portal describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gateway {
    /// Its id.
    pub id: GatewayId,
    /// Its WireGuard key, a new one at each of its starts.
    pub public_key: [u8; 32],
    /// Its address in the tunnel.
    pub ipv4: Ipv4Addr,
    /// Its address in the tunnel.
    pub ipv6: Ipv6Addr,
    /// Its site.
    pub site: SiteId,
}

impl Gateway {
    pub(super) fn has_address(&self, ip: IpAddr) -> bool {
        ip == self.ipv4 || ip == self.ipv6
    }

    /// Where it answers DNS queries that came to this sentinel.
    pub(super) fn dns_server(&self, sentinel: IpAddr) -> SocketAddr {
        let ip: IpAddr = if sentinel.is_ipv4() { self.ipv4.into() } else { self.ipv6.into() };
        SocketAddr::new(ip, GATEWAY_DNS_PORT)
    }
}

/// The gateways with a link, connected or not.
#[derive(Debug, Default)]
pub(super) struct Gateways {
    by_id: BTreeMap<GatewayId, Known>,
    by_address: HashMap<IpAddr, GatewayId>,
    slots: usize,
    /// Most packets come from the gateway that the one before came from.
    last: Option<(PeerId, usize)>,
    /// Gateways that were of use, the latest last: the portal may prefer them.
    familiar: Vec<GatewayId>,
}

#[derive(Debug)]
struct Known {
    gateway: Gateway,
    is_connected: bool,
    /// Tells the flows of gateways apart; never given twice.
    slot: usize,
}

/// How many gateways the portal is told of.
const MAX_FAMILIAR: usize = 16;

impl Gateways {
    /// Adds or replaces a gateway, as not connected if its link is new.
    pub(super) fn upsert(&mut self, gateway: Gateway, is_link_new: bool) {
        self.familiar.retain(|id| *id != gateway.id);
        if self.familiar.len() == MAX_FAMILIAR {
            self.familiar.remove(0);
        }
        self.familiar.push(gateway.id);
        let is_same = self.by_id.get(&gateway.id).is_some_and(|known| known.gateway == gateway);
        if is_same && !is_link_new {
            return;
        }
        let is_connected = !is_link_new && self.is_connected(gateway.id);
        self.remove(gateway.id);
        self.slots += 1;
        self.by_address.insert(gateway.ipv4.into(), gateway.id);
        self.by_address.insert(gateway.ipv6.into(), gateway.id);
        let slot = self.slots;
        self.by_id.insert(gateway.id, Known { gateway, is_connected, slot });
    }

    pub(super) fn remove(&mut self, id: GatewayId) -> Option<Gateway> {
        let known = self.by_id.remove(&id)?;
        self.by_address.retain(|_, owner| *owner != id);
        self.last = None;
        Some(known.gateway)
    }

    pub(super) fn get(&self, id: GatewayId) -> Option<&Gateway> {
        self.by_id.get(&id).map(|known| &known.gateway)
    }

    pub(super) fn ids(&self) -> Vec<GatewayId> {
        self.by_id.keys().copied().collect()
    }

    /// What the flows of this peer are kept under.
    pub(super) fn slot(&mut self, peer: PeerId) -> Option<usize> {
        if let Some((last, slot)) = self.last
            && last == peer
        {
            return Some(slot);
        }
        let slot = self.by_id.get(&GatewayId::from(peer))?.slot;
        self.last = Some((peer, slot));
        Some(slot)
    }

    pub(super) fn by_address(&self, address: IpAddr) -> Option<GatewayId> {
        self.by_address.get(&address).copied()
    }

    pub(super) fn set_connected(&mut self, id: GatewayId) {
        if let Some(known) = self.by_id.get_mut(&id) {
            known.is_connected = true;
        }
    }

    pub(super) fn is_connected(&self, id: GatewayId) -> bool {
        self.by_id.get(&id).is_some_and(|known| known.is_connected)
    }

    /// The gateways that the portal should choose from if it can: `best` first, then connected ones, then others that
    /// were of use.
    pub(super) fn preferred(&self, best: Option<GatewayId>) -> Vec<GatewayId> {
        let mut preferred: Vec<GatewayId> = best.into_iter().collect();
        let latest_first = || self.familiar.iter().rev().copied();
        let connected = latest_first().filter(|id| self.is_connected(*id));
        for id in connected.chain(latest_first()) {
            if !preferred.contains(&id) {
                preferred.push(id);
            }
        }
        preferred
    }
}
