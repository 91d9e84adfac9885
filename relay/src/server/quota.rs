//! How many allocations there are, over all workers.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

use super::config::PerUser;
use super::limits::Limits;

/// What a username of which the newest allocation counts has for a moment: one over UDP and one over a stream, and of
/// both the one that it replaces. The limit for users who may have several is no lower for it.
const WHILE_MOVING: usize = 4;

/// Counts the allocations of all [`Server`](super::Server)s that share it, as clones do, so that their limits hold for
/// all of them together. It is looked at when an allocation is made or ends, never for a packet.
#[derive(Clone, Default)]
pub struct Quota(Arc<Mutex<Taken>>);

#[derive(Default)]
struct Taken {
    all: usize,
    by_user: BTreeMap<Arc<str>, usize>,
    by_source: BTreeMap<u128, usize>,
}

/// An allocation's place. It is free again when this is dropped.
pub(crate) struct Place {
    quota: Quota,
    owner: Arc<str>,
    source: u128,
}

impl Quota {
    /// A place for an allocation, or the code of the error if there is none left.
    pub(crate) fn take(
        &self,
        owner: &str,
        per_user: PerUser,
        from: IpAddr,
        limits: &Limits,
    ) -> Result<Place, u16> {
        let source = source(from);
        let limit_of_user = match per_user {
            PerUser::Limited => limits.allocations_per_user,
            PerUser::Newest => limits.allocations_per_user.max(WHILE_MOVING),
        };
        let mut taken = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if taken.all >= limits.allocations {
            return Err(508);
        }
        let known = taken.by_user.get_key_value(owner);
        let (owner, of_user) = match known {
            Some((owner, count)) => (Arc::clone(owner), *count),
            None => (Arc::from(owner), 0),
        };
        let of_source = taken.by_source.get(&source).copied().unwrap_or_default();
        if of_user >= limit_of_user || of_source >= limits.allocations_per_source {
            return Err(486);
        }
        taken.all += 1;
        taken.by_user.insert(Arc::clone(&owner), of_user + 1);
        taken.by_source.insert(source, of_source + 1);
        Ok(Place { quota: self.clone(), owner, source })
    }
}

impl fmt::Debug for Quota {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Quota").finish_non_exhaustive()
    }
}

impl Place {
    /// Whose it is.
    pub(crate) fn owner(&self) -> &Arc<str> {
        &self.owner
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.quota.0.lock().unwrap_or_else(PoisonError::into_inner);
        taken.all -= 1;
        give_back(&mut taken.by_user, &self.owner);
        give_back(&mut taken.by_source, &self.source);
    }
}

fn give_back<K: Ord>(counts: &mut BTreeMap<K, usize>, key: &K) {
    if let Some(count) = counts.get_mut(key) {
        *count -= 1;
        if *count == 0 {
            counts.remove(key);
        }
    }
}

/// Whom the limit of allocations per source counts as one: an IPv4 address, an IPv6 /64.
fn source(ip: IpAddr) -> u128 {
    match ip {
        IpAddr::V4(ip) => ip.to_bits().into(),
        IpAddr::V6(ip) => ip.to_bits() >> 64 << 64 | 1 << 32,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_together_get_what_there_is_and_leave_nothing_behind() {
        let (quota, limits) = (Quota::default(), Limits { allocations: 100, ..Limits::default() });
        let place =
            |n: u8| quota.take(&n.to_string(), PerUser::Limited, [192, 0, 2, n].into(), &limits);
        let take = || (0..100).flat_map(|n| place(n % 7).ok()).collect::<Vec<_>>();
        let places: Vec<_> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(take)).collect();
            threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
        });
        assert_eq!(places.len(), 100);
        assert_eq!(place(1).err(), Some(508));
        drop(places);
        let taken = quota.0.lock().unwrap();
        assert_eq!((taken.all, taken.by_user.len(), taken.by_source.len()), (0, 0, 0));
    }
}
