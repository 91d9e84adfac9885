//! All allocations of a worker, and when they and what belongs to them end.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::allocation::{Allocation, Channel, Grant, State};
use super::key::{ClientKey, Hashing, hashing};
use super::limits::Limits;
use super::output::{AllocationId, ChannelBinding, Families, FiveTuple};
use super::quota::Place;
use super::timers::{Timer, Timers};

/// RFC 8656 §9.
const PERMISSION_LIFETIME: Duration = Duration::from_secs(300);
/// RFC 8656 §12. As long as a channel stands, data passes without the permission that came with it, which would last
/// half as long: clients of the portal bind again only when the half is over.
const CHANNEL_LIFETIME: Duration = Duration::from_secs(600);

pub(crate) struct Allocations {
    slots: Vec<Option<Box<Allocation>>>,
    free: Vec<u32>,
    generation: u32,
    by_client: HashMap<ClientKey, AllocationId, Hashing>,
    by_user: HashMap<Arc<str>, Vec<AllocationId>, Hashing>,
    timers: Timers,
    channels: usize,
    permissions: usize,
    limits: Limits,
    hasher: Hashing,
}

/// What an allocation begins with.
pub(crate) struct NewAllocation {
    pub(crate) client: FiveTuple,
    pub(crate) username: Arc<str>,
    pub(crate) place: Place,
    pub(crate) port: u16,
    pub(crate) families: Families,
    pub(crate) state: State,
    pub(crate) grant: Grant,
}

/// What ended.
pub(crate) enum Expired {
    Allocation(AllocationId),
    Channel(ChannelBinding),
    Permission,
}

/// Why there is no channel or permission.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// Number or peer is bound otherwise.
    Bound,
    /// There are too many.
    Capacity,
}

impl Allocations {
    pub(crate) fn new(limits: Limits, hash_seed: u64) -> Self {
        let hasher = hashing(hash_seed);
        Self {
            slots: Vec::new(),
            free: Vec::new(),
            generation: 0,
            by_client: HashMap::with_hasher(hasher.clone()),
            by_user: HashMap::with_hasher(hasher.clone()),
            timers: Timers::default(),
            channels: 0,
            permissions: 0,
            limits,
            hasher,
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.by_client.len()
    }

    pub(crate) fn channels(&self) -> usize {
        self.channels
    }

    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        self.timers.next()
    }

    pub(crate) fn get(&self, id: AllocationId) -> Option<&Allocation> {
        self.slots.get(id.slot())?.as_deref().filter(|allocation| allocation.id == id)
    }

    pub(crate) fn get_mut(&mut self, id: AllocationId) -> Option<&mut Allocation> {
        self.slots.get_mut(id.slot())?.as_deref_mut().filter(|allocation| allocation.id == id)
    }

    pub(crate) fn of_client(&self, client: &FiveTuple) -> Option<&Allocation> {
        self.get(*self.by_client.get(&ClientKey::from(client))?)
    }

    pub(crate) fn of_user(&self, username: &str) -> &[AllocationId] {
        self.by_user.get(username).map(Vec::as_slice).unwrap_or_default()
    }

    pub(crate) fn ids(&self) -> impl Iterator<Item = AllocationId> + '_ {
        self.slots.iter().flatten().map(|allocation| allocation.id)
    }

    pub(crate) fn insert(&mut self, new: NewAllocation, now: Instant) -> AllocationId {
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slots.push(None);
            (self.slots.len() - 1) as u32
        });
        self.generation = self.generation.wrapping_add(1);
        let id = AllocationId { slot, generation: self.generation };
        let NewAllocation { client, username, place, port, families, state, grant } = new;
        self.by_client.insert(ClientKey::from(&client), id);
        self.by_user.entry(Arc::clone(&username)).or_default().push(id);
        let expires_at = now + grant.lifetime;
        self.timers.set(Timer::Allocation(slot), None, Some(expires_at));
        self.slots[id.slot()] = Some(Box::new(Allocation {
            id,
            client,
            username,
            _place: place,
            port,
            families,
            state,
            grant,
            created_at: now,
            expires_at,
            channels: HashMap::with_hasher(self.hasher.clone()),
            numbers: HashMap::with_hasher(self.hasher.clone()),
            permissions: HashMap::with_hasher(self.hasher.clone()),
        }));
        id
    }

    /// Takes out an allocation and all that belongs to it, but for the channels, which the caller has to unbind.
    pub(crate) fn remove(&mut self, id: AllocationId) -> Option<Box<Allocation>> {
        self.get(id)?;
        let allocation = self.slots[id.slot()].take()?;
        self.free.push(id.slot);
        self.by_client.remove(&ClientKey::from(&allocation.client));
        if let Some(ids) = self.by_user.get_mut(&allocation.username) {
            ids.retain(|other| *other != id);
            if ids.is_empty() {
                self.by_user.remove(&allocation.username);
            }
        }
        self.timers.set(Timer::Allocation(id.slot), Some(allocation.expires_at), None);
        for (number, channel) in &allocation.channels {
            self.timers.set(Timer::Channel(id.slot, *number), Some(channel.expires_at), None);
        }
        for (ip, expires_at) in &allocation.permissions {
            self.timers.set(Timer::Permission(id.slot, *ip), Some(*expires_at), None);
        }
        self.channels -= allocation.channels.len();
        self.permissions -= allocation.permissions.len();
        Some(allocation)
    }

    pub(crate) fn extend(&mut self, id: AllocationId, expires_at: Instant) {
        let Some(allocation) = self.slots.get_mut(id.slot()).and_then(Option::as_deref_mut) else {
            return;
        };
        self.timers.set(Timer::Allocation(id.slot), Some(allocation.expires_at), Some(expires_at));
        allocation.expires_at = expires_at;
    }

    /// How much of something all allocations of the user have to whom this one belongs. Nobody gets more of what there is
    /// than is left for others: however much some take, newcomers find a share.
    fn of_same_user(&self, id: AllocationId, count: impl Fn(&Allocation) -> usize) -> usize {
        let Some(allocation) = self.get(id) else { return 0 };
        let ids = self.of_user(&allocation.username).iter();
        ids.filter_map(|id| self.get(*id)).map(count).sum()
    }

    /// Binds a channel, or binds it again (RFC 8656 §12.2). What is new about it is returned.
    pub(crate) fn bind(
        &mut self,
        id: AllocationId,
        number: u16,
        peer: SocketAddr,
        now: Instant,
    ) -> Result<Option<ChannelBinding>, Refusal> {
        let of_user = self.of_same_user(id, |allocation| allocation.channels.len());
        let free = self.limits.channels.saturating_sub(self.channels);
        let Some(allocation) = self.slots.get_mut(id.slot()).and_then(Option::as_deref_mut) else {
            return Ok(None);
        };
        let expires_at = now + CHANNEL_LIFETIME;
        let old = match (allocation.channels.get(&number), allocation.numbers.get(&peer.into())) {
            (Some(channel), Some(_)) if channel.peer == peer => Some(channel.expires_at),
            (None, None) => None,
            _ => return Err(Refusal::Bound),
        };
        let is_full = allocation.channels.len() >= self.limits.channels_per_allocation;
        if old.is_none() && (is_full || of_user + 1 > free) {
            return Err(Refusal::Capacity);
        }
        self.timers.set(Timer::Channel(id.slot, number), old, Some(expires_at));
        allocation.channels.insert(number, Channel { peer, expires_at });
        if old.is_some() {
            return Ok(None);
        }
        allocation.numbers.insert(peer.into(), number);
        self.channels += 1;
        Ok(Some(allocation.binding(number, peer)))
    }

    /// Gives permissions, all or none of them (RFC 8656 §10.2).
    pub(crate) fn permit(
        &mut self,
        id: AllocationId,
        ips: &[IpAddr],
        now: Instant,
    ) -> Result<(), Refusal> {
        let of_user = self.of_same_user(id, |allocation| allocation.permissions.len());
        let free = self.limits.permissions.saturating_sub(self.permissions);
        let Some(allocation) = self.slots.get_mut(id.slot()).and_then(Option::as_deref_mut) else {
            return Ok(());
        };
        let permissions = &mut allocation.permissions;
        // An address that is named twice is counted twice; nobody does that.
        let new = ips.iter().filter(|ip| !permissions.contains_key(ip)).count();
        let is_full = permissions.len() + new > self.limits.permissions_per_allocation;
        if new > 0 && (is_full || of_user + new > free) {
            return Err(Refusal::Capacity);
        }
        let expires_at = now + PERMISSION_LIFETIME;
        for ip in ips {
            let old = permissions.insert(*ip, expires_at);
            self.timers.set(Timer::Permission(id.slot, *ip), old, Some(expires_at));
            self.permissions += usize::from(old.is_none());
        }
        Ok(())
    }

    /// Takes families from an allocation and all that belongs to them. Returns the channels that went.
    pub(crate) fn drop_families(
        &mut self,
        id: AllocationId,
        families: Families,
    ) -> Vec<ChannelBinding> {
        let Some(allocation) = self.slots.get_mut(id.slot()).and_then(Option::as_deref_mut) else {
            return Vec::new();
        };
        allocation.families = allocation.families.without(families);
        self.drop_peers(id, |ip| families.has(SocketAddr::new(ip, 0)))
    }

    /// Takes the channels and permissions of these peers from an allocation. Returns the channels.
    pub(crate) fn drop_peers(
        &mut self,
        id: AllocationId,
        is_dropped: impl Fn(IpAddr) -> bool,
    ) -> Vec<ChannelBinding> {
        let Some(allocation) = self.slots.get_mut(id.slot()).and_then(Option::as_deref_mut) else {
            return Vec::new();
        };
        let timers = &mut self.timers;
        let (client, port) = (allocation.client, allocation.port);
        let gone = allocation.channels.extract_if(|_, channel| is_dropped(channel.peer.ip()));
        let gone = gone.map(|(number, Channel { peer, expires_at })| {
            timers.set(Timer::Channel(id.slot, number), Some(expires_at), None);
            allocation.numbers.remove(&peer.into());
            ChannelBinding { client, channel: number, allocation: id, port, peer }
        });
        let gone: Vec<_> = gone.collect();
        self.channels -= gone.len();
        allocation.permissions.retain(|ip, expires_at| {
            let stays = !is_dropped(*ip);
            if !stays {
                timers.set(Timer::Permission(id.slot, *ip), Some(*expires_at), None);
                self.permissions -= 1;
            }
            stays
        });
        gone
    }

    /// Something that has ended by now; an allocation is left for the caller to remove.
    pub(crate) fn expire(&mut self, now: Instant) -> Option<Expired> {
        let timer = self.timers.pop_due(now)?;
        let (Timer::Allocation(slot) | Timer::Channel(slot, _) | Timer::Permission(slot, _)) =
            timer;
        let allocation = self.slots.get_mut(slot as usize)?.as_deref_mut()?;
        Some(match timer {
            Timer::Allocation(_) => Expired::Allocation(allocation.id),
            Timer::Channel(_, number) => {
                let channel = allocation.channels.remove(&number)?;
                allocation.numbers.remove(&channel.peer.into());
                self.channels -= 1;
                Expired::Channel(allocation.binding(number, channel.peer))
            }
            Timer::Permission(_, ip) => {
                allocation.permissions.remove(&ip)?;
                self.permissions -= 1;
                Expired::Permission
            }
        })
    }
}

impl Allocation {
    /// All its channels.
    pub(crate) fn bindings(&self) -> impl Iterator<Item = ChannelBinding> + '_ {
        self.channels.iter().map(|(number, channel)| self.binding(*number, channel.peer))
    }
}
