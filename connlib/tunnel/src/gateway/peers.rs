//! The clients of a gateway, by all that they are known by, and when something is to be done about them.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::Instant;

use super::authorization::AuthorizedClient;
use super::peer::Peer;
use crate::ids::ClientId;
use connlib_link::Deadlines;

#[derive(Debug, Default)]
pub(super) struct Peers {
    slots: Vec<Option<Peer>>,
    by_id: HashMap<ClientId, usize>,
    by_address: HashMap<IpAddr, usize>,
    /// Whose packet came last: the next one is likely to be of the same client.
    last: Option<(ClientId, usize)>,
    deadlines: Deadlines,
}

impl Peers {
    pub(super) fn len(&self) -> usize {
        self.by_id.len()
    }

    /// The slot of a client.
    #[inline]
    pub(super) fn slot(&mut self, id: ClientId) -> Option<usize> {
        if let Some((last, slot)) = self.last
            && last == id
        {
            return Some(slot);
        }
        let slot = *self.by_id.get(&id)?;
        self.last = Some((id, slot));
        Some(slot)
    }

    /// The slot of the client that has this address in the tunnel.
    pub(super) fn slot_of_address(&self, address: IpAddr) -> Option<usize> {
        self.by_address.get(&address).copied()
    }

    #[inline]
    pub(super) fn get(&self, slot: usize) -> Option<&Peer> {
        self.slots.get(slot)?.as_ref()
    }

    #[inline]
    pub(super) fn get_mut(&mut self, slot: usize) -> Option<&mut Peer> {
        self.slots.get_mut(slot)?.as_mut()
    }

    /// All slots that have a client.
    pub(super) fn slots(&self) -> Vec<usize> {
        (0..self.slots.len()).filter(|slot| self.slots[*slot].is_some()).collect()
    }

    /// The slot of a client, which now has these addresses and this key. INVARIANT: no other has these addresses.
    pub(super) fn upsert(&mut self, client: AuthorizedClient, now: Instant) -> usize {
        let slot = match self.slot(client.id) {
            Some(slot) => slot,
            None => {
                let free = self.slots.iter().position(Option::is_none);
                let slot = free.unwrap_or_else(|| {
                    self.slots.push(None);
                    self.slots.len() - 1
                });
                self.slots[slot] = Some(Peer::new(client, now));
                self.by_id.insert(client.id, slot);
                slot
            }
        };
        self.by_address.retain(|_, owner| *owner != slot);
        self.by_address.extend(client.addresses().map(|address| (address, slot)));
        if let Some(peer) = self.get_mut(slot) {
            peer.client = client;
        }
        slot
    }

    pub(super) fn remove(&mut self, slot: usize) -> Option<Peer> {
        let peer = self.slots.get_mut(slot)?.take()?;
        self.by_id.remove(&peer.client.id);
        self.by_address.retain(|_, owner| *owner != slot);
        self.last = None;
        self.settle(slot);
        Some(peer)
    }

    /// Notes when something is to be done about a client; to be called when its state may have changed.
    pub(super) fn settle(&mut self, slot: usize) {
        let deadline = self.get(slot).and_then(Peer::next_timeout);
        self.deadlines.set(slot, deadline);
    }

    /// A client about which something is to be done, once.
    #[inline]
    pub(super) fn pop_due(&mut self, now: Instant) -> Option<usize> {
        self.deadlines.pop_due(now)
    }

    pub(super) fn next_timeout(&self) -> Option<Instant> {
        self.deadlines.next()
    }
}
