//! Names that are being resolved, and what came out of it of late.

use std::collections::hash_map::Entry;
use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::{Duration, Instant};

use connlib_dns::Name;
use connlib_packet::plan;
use lru::LruCache;

use crate::ids::{ClientId, ResourceId};

/// How long the host has for one name.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Within this time after an answer, a name is not resolved again.
const FRESH: Duration = Duration::from_secs(30);
/// The same for a name without addresses, which may get some.
const FRESH_IF_EMPTY: Duration = Duration::from_secs(5);

/// Names whose addresses are kept. Only old answers go with them, so that the next announcement asks anew.
const MAX_KNOWN: NonZeroUsize = NonZeroUsize::new(8192).expect("not zero");

/// Names that are resolved at the same time.
const MAX_PENDING: usize = 1024;

/// Announcements of one client that wait at the same time.
const MAX_WAITING_PER_CLIENT: usize = 256;

/// Addresses of one family that are of use: a name has four proxy addresses of each.
const MAX_ADDRESSES: usize = 4;

/// Names a request to resolve a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ResolutionId(u64);

/// A name could not be resolved; which is not the same as a name without addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the name could not be resolved")]
pub struct ResolveError;

/// A client says that these proxy addresses stand for a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Announcement {
    pub(super) client: ClientId,
    pub(super) resource: ResourceId,
    /// As the client wrote it.
    pub(super) domain: String,
    pub(super) proxies: Vec<IpAddr>,
}

/// What [`Resolutions::ask`] says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Answer {
    /// Have the host resolve it.
    Ask(ResolutionId),
    /// The host does already.
    Waiting,
    /// There are too many such requests; the client will say it again.
    Refused,
}

/// The end of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Finished {
    pub(super) name: Name,
    /// The addresses, if they are known: possibly from an earlier time, when the name could be resolved.
    pub(super) addresses: Option<Arc<[IpAddr]>>,
    pub(super) announcements: Vec<Announcement>,
}

/// One request per name, whoever asks for it.
#[derive(Debug)]
pub(super) struct Resolutions {
    known: LruCache<Name, Known>,
    pending: HashMap<Name, Pending>,
    names: HashMap<ResolutionId, Name>,
    deadlines: BTreeSet<(Instant, ResolutionId)>,
    waiting: HashMap<ClientId, usize>,
    last_id: u64,
}

#[derive(Debug)]
struct Known {
    addresses: Arc<[IpAddr]>,
    since: Instant,
}

#[derive(Debug)]
struct Pending {
    deadline: Instant,
    announcements: Vec<Announcement>,
}

impl Resolutions {
    pub(super) fn new() -> Self {
        Self {
            known: LruCache::new(MAX_KNOWN),
            pending: HashMap::new(),
            names: HashMap::new(),
            deadlines: BTreeSet::new(),
            waiting: HashMap::new(),
            last_id: 0,
        }
    }

    /// The addresses of a name that was resolved only just now.
    pub(super) fn known(&mut self, name: &Name, now: Instant) -> Option<Arc<[IpAddr]>> {
        let known = self.known.get(name).filter(|known| known.is_fresh(now))?;
        Some(Arc::clone(&known.addresses))
    }

    /// Wants to know the addresses of a name. The announcement is kept until they are.
    pub(super) fn ask(&mut self, name: &Name, announcement: Announcement, now: Instant) -> Answer {
        if let Some(pending) = self.pending.get_mut(name)
            && let Some(same) = pending.announcements.iter_mut().find(|other| {
                other.client == announcement.client && other.resource == announcement.resource
            })
        {
            *same = announcement;
            return Answer::Waiting;
        }
        let client = announcement.client;
        let is_full = self.pending.len() >= MAX_PENDING;
        if self.waiting.get(&client).is_some_and(|count| *count >= MAX_WAITING_PER_CLIENT) {
            return Answer::Refused;
        }
        let answer = match self.pending.entry(name.clone()) {
            Entry::Occupied(mut pending) => {
                pending.get_mut().announcements.push(announcement);
                Answer::Waiting
            }
            Entry::Vacant(_) if is_full => return Answer::Refused,
            Entry::Vacant(vacant) => {
                let deadline = now + TIMEOUT;
                vacant.insert(Pending { deadline, announcements: vec![announcement] });
                self.last_id += 1;
                let id = ResolutionId(self.last_id);
                self.names.insert(id, name.clone());
                self.deadlines.insert((deadline, id));
                Answer::Ask(id)
            }
        };
        *self.waiting.entry(client).or_default() += 1;
        answer
    }

    /// The host has resolved a name, or failed to. `None`: the request is unknown or has timed out.
    pub(super) fn finish(
        &mut self,
        id: ResolutionId,
        resolved: Result<Vec<IpAddr>, ResolveError>,
        now: Instant,
    ) -> Option<Finished> {
        let name = self.names.remove(&id)?;
        let pending = self.pending.remove(&name)?;
        self.deadlines.remove(&(pending.deadline, id));
        for announcement in &pending.announcements {
            self.forget_waiting(announcement.client);
        }
        if let Ok(addresses) = resolved {
            let addresses = usable(addresses);
            self.known.put(name.clone(), Known { addresses, since: now });
        }
        // A resolver that is down must not take away what works.
        let addresses = self.known.get(&name).map(|known| Arc::clone(&known.addresses));
        Some(Finished { name, addresses, announcements: pending.announcements })
    }

    /// A request that the host has taken too long for; called until there is none.
    pub(super) fn pop_timed_out(&mut self, now: Instant) -> Option<Finished> {
        let (deadline, id) = *self.deadlines.first()?;
        if now < deadline {
            return None;
        }
        self.finish(id, Err(ResolveError), now)
    }

    /// When the next request times out.
    pub(super) fn next_timeout(&self) -> Option<Instant> {
        self.deadlines.first().map(|(deadline, _)| *deadline)
    }

    fn forget_waiting(&mut self, client: ClientId) {
        if let Entry::Occupied(mut count) = self.waiting.entry(client) {
            *count.get_mut() -= 1;
            if *count.get() == 0 {
                count.remove();
            }
        }
    }
}

impl Known {
    fn is_fresh(&self, now: Instant) -> bool {
        let lifetime = if self.addresses.is_empty() { FRESH_IF_EMPTY } else { FRESH };
        now < self.since + lifetime
    }
}

/// The addresses that a name can lead to, in an order that doesn't depend on the resolver's: no way leads through this
/// host, to other clients or to several hosts at once. There are not more of a family than proxy addresses.
fn usable(mut addresses: Vec<IpAddr>) -> Arc<[IpAddr]> {
    addresses.retain(|address| {
        let is_local = match address {
            IpAddr::V4(v4) => v4.is_broadcast(),
            IpAddr::V6(v6) => v6.is_unicast_link_local() || v6.to_ipv4_mapped().is_some(),
        };
        let is_host = !(is_local
            || address.is_loopback()
            || address.is_unspecified()
            || address.is_multicast());
        is_host && !plan::is_tunnel(*address) && !plan::is_proxy_or_sentinel(*address)
    });
    addresses.sort_unstable();
    addresses.dedup();
    let (mut v4, mut v6) = (0, 0);
    addresses.retain(|address| {
        let count = if address.is_ipv4() { &mut v4 } else { &mut v6 };
        *count += 1;
        *count <= MAX_ADDRESSES
    });
    addresses.into()
}

#[cfg(test)]
mod tests {
    use super::super::packets::ip;
    use super::*;

    fn name(text: &str) -> Name {
        text.parse().unwrap()
    }

    fn announcement(client: u128, resource: u128) -> Announcement {
        Announcement {
            client: ClientId::from_u128(client),
            resource: ResourceId::from_u128(resource),
            domain: String::new(),
            proxies: Vec::new(),
        }
    }

    fn ask(resolutions: &mut Resolutions, text: &str, client: u128, now: Instant) -> Answer {
        resolutions.ask(&name(text), announcement(client, 1), now)
    }

    fn asked(answer: Answer) -> ResolutionId {
        let Answer::Ask(id) = answer else { panic!("{answer:?}") };
        id
    }

    #[test]
    fn one_request_for_all_that_ask_for_a_name() {
        let now = Instant::now();
        let mut resolutions = Resolutions::new();
        let id = asked(ask(&mut resolutions, "a.test", 1, now));
        assert_eq!(ask(&mut resolutions, "a.test", 2, now), Answer::Waiting);
        assert_eq!(ask(&mut resolutions, "a.test", 1, now), Answer::Waiting);
        let other = resolutions.ask(&name("a.test"), announcement(1, 2), now);
        assert_eq!(other, Answer::Waiting);
        assert_ne!(asked(ask(&mut resolutions, "b.test", 1, now)), id);

        let finished = resolutions.finish(id, Ok(vec![ip("10.0.0.1")]), now).unwrap();
        let expected = [announcement(1, 1), announcement(2, 1), announcement(1, 2)];
        assert_eq!(finished.announcements, expected);
        assert_eq!(finished.addresses.as_deref(), Some(&[ip("10.0.0.1")][..]));
        assert_eq!(resolutions.finish(id, Ok(vec![]), now), None, "answered twice");
    }

    #[test]
    fn an_answer_is_good_for_a_while() {
        let now = Instant::now();
        let at = |seconds| now + Duration::from_secs(seconds);
        for (addresses, fresh_until) in [(vec![ip("10.0.0.1")], 30), (vec![], 5)] {
            let mut resolutions = Resolutions::new();
            assert_eq!(resolutions.known(&name("a.test"), now), None);
            let id = asked(ask(&mut resolutions, "a.test", 1, now));
            resolutions.finish(id, Ok(addresses.clone()), now);
            let known = resolutions.known(&name("a.test"), at(fresh_until - 1));
            assert_eq!(known.as_deref(), Some(&addresses[..]));
            assert_eq!(resolutions.known(&name("a.test"), at(fresh_until)), None);
        }
    }

    #[test]
    fn a_failure_does_not_take_away_what_was_known() {
        let now = Instant::now();
        let mut resolutions = Resolutions::new();
        let id = asked(ask(&mut resolutions, "a.test", 1, now));
        assert_eq!(resolutions.finish(id, Err(ResolveError), now).unwrap().addresses, None);
        let id = asked(ask(&mut resolutions, "a.test", 1, now));
        resolutions.finish(id, Ok(vec![ip("10.0.0.1")]), now);
        let id = asked(ask(&mut resolutions, "a.test", 1, now));
        let finished = resolutions.finish(id, Err(ResolveError), now).unwrap();
        assert_eq!(finished.addresses.as_deref(), Some(&[ip("10.0.0.1")][..]));
    }

    #[test]
    fn a_silent_host_is_given_up_on() {
        let now = Instant::now();
        let mut resolutions = Resolutions::new();
        let id = asked(ask(&mut resolutions, "a.test", 1, now));
        let answered = asked(ask(&mut resolutions, "b.test", 1, now + TIMEOUT / 2));
        resolutions.finish(answered, Ok(vec![]), now);
        assert_eq!(resolutions.next_timeout(), Some(now + TIMEOUT));
        assert_eq!(resolutions.pop_timed_out(now + TIMEOUT / 2), None);
        let finished = resolutions.pop_timed_out(now + TIMEOUT).unwrap();
        assert_eq!((finished.name, finished.addresses), (name("a.test"), None));
        assert_eq!(resolutions.pop_timed_out(now + TIMEOUT), None);
        assert_eq!(resolutions.finish(id, Ok(vec![]), now), None, "too late");
        assert_eq!(resolutions.next_timeout(), None);
        assert!(resolutions.waiting.is_empty());
    }

    #[test]
    fn a_client_that_asks_too_much_only_harms_itself() {
        let now = Instant::now();
        let mut resolutions = Resolutions::new();
        let mut first = None;
        for number in 0..MAX_WAITING_PER_CLIENT {
            let id = asked(ask(&mut resolutions, &format!("{number}.test"), 1, now));
            first.get_or_insert(id);
        }
        assert_eq!(ask(&mut resolutions, "more.test", 1, now), Answer::Refused);
        let other = resolutions.ask(&name("0.test"), announcement(1, 2), now);
        assert_eq!(other, Answer::Refused);
        asked(ask(&mut resolutions, "more.test", 2, now));
        resolutions.finish(first.unwrap(), Ok(vec![]), now);
        assert_eq!(ask(&mut resolutions, "more.test", 1, now), Answer::Waiting);
    }

    #[test]
    fn there_is_a_limit_for_all_together() {
        let now = Instant::now();
        let mut resolutions = Resolutions::new();
        for number in 0..MAX_PENDING {
            asked(ask(&mut resolutions, &format!("{number}.test"), number as u128, now));
        }
        assert_eq!(ask(&mut resolutions, "more.test", u128::MAX, now), Answer::Refused);
        assert_eq!(resolutions.waiting.len(), MAX_PENDING);
    }

    #[test]
    fn only_addresses_of_other_hosts_are_of_use() {
        let resolved = [
            "10.0.0.5",
            "10.0.0.2",
            "10.0.0.5",
            "10.0.0.4",
            "10.0.0.1",
            "10.0.0.3",
            "127.0.0.1",
            "0.0.0.0",
            "224.0.0.1",
            "255.255.255.255",
            "100.64.0.1",
            "100.96.0.1",
            "100.100.111.1",
            "fd01::2",
            "fd01::1",
            "::1",
            "::",
            "fe80::1",
            "ff02::1",
            "::ffff:10.0.0.1",
            "fd00:2021:1111::1",
            "fd00:2021:1111:8000::1",
        ];
        let usable = usable(resolved.map(ip).to_vec());
        let expected = ["10.0.0.1", "10.0.0.2", "10.0.0.3", "10.0.0.4", "fd01::1", "fd01::2"];
        assert_eq!(*usable, expected.map(ip));
    }
}
