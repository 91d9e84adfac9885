//! Proxy addresses: what apps get instead of the real addresses of a DNS resource.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::{Duration, Instant};

use lru::LruCache;

use crate::name::Name;
use crate::ranges::{PROXY_RANGE_V4, PROXY_RANGE_V6, SENTINEL_RANGE_V4};
use crate::resources::IpStack;

/// Addresses of each family that a name gets.
const PER_NAME: u32 = 4;

/// Names that hold addresses at the same time, unless told otherwise: enough for years on a
/// device, and about 3 MB if it comes to that.
const DEFAULT_CAPACITY: u32 = 16_384;

/// Names for which the smaller range, IPv4 without its first address and the sentinels, is enough.
const MAX_CAPACITY: u32 = ((1 << 21) - 1 - 256) / PER_NAME;

/// How long a name keeps its addresses after its last use, come what may. Apps hold on to
/// addresses for longer than the answer's TTL of a second, and so do connections that pause.
const REUSE_AFTER: Duration = Duration::from_secs(10 * 60);

/// Uses of a name that follow one another within this time count as one, which spares the packets
/// of a busy flow the work.
const TOUCH_INTERVAL: Duration = Duration::from_secs(10);

/// Which name has which proxy addresses.
///
/// A name gets its addresses at the first query and keeps them: apps may have stored them. Names
/// are numbered in the order in which they come, and the number decides the addresses. When all
/// numbers are given away, the name that has been unused for longest gives its own to the new
/// one, provided that nobody used it for ten minutes.
///
/// A clone taken from one session and given to the next keeps addresses valid over a sign-out.
#[derive(Clone, Debug)]
pub struct ProxyAddresses {
    names: LruCache<Name, Usage>,
    by_number: Vec<Name>,
    capacity: u32,
}

#[derive(Clone, Copy, Debug)]
struct Usage {
    number: u32,
    last_used: Instant,
}

/// All names have been used recently, so none can give up its addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("all proxy addresses are in use")]
pub struct Exhausted;

/// The addresses of one name: four of each family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProxySet {
    number: u32,
}

impl Default for ProxyAddresses {
    fn default() -> Self {
        Self::with_capacity(DEFAULT_CAPACITY)
    }
}

impl ProxyAddresses {
    /// Holds this many names, or as many as the ranges have addresses for. At least one.
    pub fn with_capacity(names: u32) -> Self {
        Self {
            names: LruCache::unbounded(),
            by_number: Vec::new(),
            capacity: names.clamp(1, MAX_CAPACITY),
        }
    }

    /// The addresses of the name, new ones if it has none. Counts as a use. Returns the name that
    /// had to give them up, if there was one: all that is known about it is void.
    ///
    /// # Errors
    ///
    /// If there is no name that could give up its addresses.
    pub fn assign(
        &mut self,
        name: &Name,
        now: Instant,
    ) -> Result<(ProxySet, Option<Name>), Exhausted> {
        if let Some(usage) = self.names.get_mut(name) {
            usage.last_used = now;
            return Ok((ProxySet { number: usage.number }, None));
        }

        let count = self.names.len() as u32; // INVARIANT: at most `capacity`.
        let (number, released) = if count < self.capacity {
            self.by_number.push(name.clone());
            (count, None)
        } else {
            let (_, oldest) = self.names.peek_lru().ok_or(Exhausted)?;
            if now.saturating_duration_since(oldest.last_used) < REUSE_AFTER {
                return Err(Exhausted);
            }
            let number = oldest.number;
            let released = std::mem::replace(&mut self.by_number[number as usize], name.clone());
            self.names.pop(&released);
            (number, Some(released))
        };
        self.names.put(name.clone(), Usage { number, last_used: now });
        Ok((ProxySet { number }, released))
    }

    /// The addresses of the name, if it has any.
    pub fn of(&self, name: &Name) -> Option<ProxySet> {
        self.names.peek(name).map(|usage| ProxySet { number: usage.number })
    }

    /// The name that has this address.
    pub fn name_of(&self, address: IpAddr) -> Option<&Name> {
        self.by_number.get(number_of(address)? as usize)
    }

    /// Notes that the address is in use, so that its name keeps it. Cheap enough for every packet.
    pub fn touch(&mut self, address: IpAddr, now: Instant) {
        let Some(number) = number_of(address) else { return };
        let Some(name) = self.by_number.get(number as usize) else { return };
        let Some(usage) = self.names.peek(name) else { return };
        if now.saturating_duration_since(usage.last_used) < TOUCH_INTERVAL {
            return;
        }
        if let Some(usage) = self.names.get_mut(name) {
            usage.last_used = now;
        }
    }

    /// How many names have addresses.
    pub fn len(&self) -> usize {
        self.by_number.len()
    }

    /// Whether no name has addresses yet.
    pub fn is_empty(&self) -> bool {
        self.by_number.is_empty()
    }
}

impl ProxySet {
    /// The IPv4 addresses.
    pub fn v4(self) -> [Ipv4Addr; 4] {
        [0, 1, 2, 3].map(|i| {
            let nth = u32::from(PROXY_RANGE_V4.network()) + 1 + PER_NAME * self.number + i;
            let sentinels = u32::from(SENTINEL_RANGE_V4.network());
            Ipv4Addr::from(if nth < sentinels { nth } else { nth + 256 })
        })
    }

    /// The IPv6 addresses. The sentinels of this family are beyond the reach of the numbers.
    pub fn v6(self) -> [Ipv6Addr; 4] {
        let first = PROXY_RANGE_V6.network().to_bits() + u128::from(PER_NAME * self.number);
        [0, 1, 2, 3].map(|i| Ipv6Addr::from_bits(first + i))
    }

    /// The addresses for a resource with this stack, IPv4 first: four, or eight for both families.
    pub fn addresses(self, stack: IpStack) -> Vec<IpAddr> {
        let v4 = self.v4().into_iter().filter(|_| stack.has_v4()).map(IpAddr::V4);
        let v6 = self.v6().into_iter().filter(|_| stack.has_v6()).map(IpAddr::V6);
        v4.chain(v6).collect()
    }
}

/// The inverse of [`ProxySet::v4`] and [`ProxySet::v6`].
fn number_of(address: IpAddr) -> Option<u32> {
    match address {
        IpAddr::V4(v4) => {
            if !PROXY_RANGE_V4.contains(&v4) || SENTINEL_RANGE_V4.contains(&v4) {
                return None;
            }
            let nth = u32::from(v4) - u32::from(PROXY_RANGE_V4.network());
            let skipped = if v4 < SENTINEL_RANGE_V4.network() { 0 } else { 256 };
            Some((nth - skipped).checked_sub(1)? / PER_NAME)
        }
        IpAddr::V6(v6) => {
            let nth = v6.to_bits().checked_sub(PROXY_RANGE_V6.network().to_bits())?;
            u32::try_from(nth / u128::from(PER_NAME)).ok()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(n: u32) -> Name {
        format!("n{n}.example.com").parse().unwrap()
    }

    #[test]
    fn names_get_addresses_in_sequence_and_keep_them() {
        let now = Instant::now();
        let mut proxies = ProxyAddresses::default();
        let (first, _) = proxies.assign(&name(1), now).unwrap();
        let (second, _) = proxies.assign(&name(2), now).unwrap();

        let v4 = |s: ProxySet| s.v4().map(|a| a.to_string());
        let v6 = |s: ProxySet| s.v6().map(|a| a.to_string());
        assert_eq!(v4(first), ["100.96.0.1", "100.96.0.2", "100.96.0.3", "100.96.0.4"]);
        assert_eq!(v4(second), ["100.96.0.5", "100.96.0.6", "100.96.0.7", "100.96.0.8"]);
        assert_eq!(
            v6(first),
            [0, 1, 2, 3].map(|n| format!("fd00:2021:1111:8000::{n}").replace("::0", "::"))
        );
        assert_eq!(v6(second), [4, 5, 6, 7].map(|n| format!("fd00:2021:1111:8000::{n}")));
        assert_eq!(proxies.assign(&name(1), now), Ok((first, None)));
        assert_eq!(proxies.of(&name(2)), Some(second));
        assert_eq!(proxies.of(&name(3)), None);
        assert_eq!(proxies.len(), 2);
    }

    #[test]
    fn addresses_lead_back_to_their_name() {
        let now = Instant::now();
        let mut proxies = ProxyAddresses::default();
        for n in 0..3 {
            proxies.assign(&name(n), now).unwrap();
        }
        for n in 0..3 {
            for address in proxies.of(&name(n)).unwrap().addresses(IpStack::Dual) {
                assert_eq!(proxies.name_of(address), Some(&name(n)), "{address}");
            }
        }
        for address in [
            "100.96.0.0",
            "100.96.0.13",
            "100.95.255.255",
            "100.100.111.1",
            "100.128.0.0",
            "fd00:2021:1111:8000::c",
            "fd00:2021:1111:7fff:ffff:ffff:ffff:ffff",
            "fd00:2021:1111:8000:100:100:111:0",
            "ffff::",
        ] {
            assert_eq!(proxies.name_of(address.parse().unwrap()), None, "{address}");
        }
    }

    #[test]
    fn numbers_and_addresses_correspond_over_the_whole_range() {
        let mut previous = PROXY_RANGE_V4.network();
        for number in 0..MAX_CAPACITY {
            let set = ProxySet { number };
            for address in set.v4() {
                assert!(PROXY_RANGE_V4.contains(&address) && address > previous);
                assert!(!SENTINEL_RANGE_V4.contains(&address), "{address}");
                assert_eq!(number_of(address.into()), Some(number));
                previous = address;
            }
            for address in set.v6() {
                assert!(PROXY_RANGE_V6.contains(&address));
                assert_eq!(number_of(address.into()), Some(number));
            }
        }
        assert!(ProxySet { number: MAX_CAPACITY }.v4().iter().any(|a| !PROXY_RANGE_V4.contains(a)));
    }

    #[test]
    fn the_longest_unused_name_gives_way() {
        let start = Instant::now();
        let mut proxies = ProxyAddresses::with_capacity(3);
        for n in 0..3 {
            proxies.assign(&name(n), start + Duration::from_secs(n.into())).unwrap();
        }
        let second = proxies.of(&name(1)).unwrap();

        // Name 0 is asked for again: name 1 is the longest unused.
        proxies.assign(&name(0), start + Duration::from_secs(60)).unwrap();
        assert_eq!(proxies.assign(&name(3), start + REUSE_AFTER), Err(Exhausted));
        assert_eq!(proxies.of(&name(3)), None);

        let now = start + REUSE_AFTER + Duration::from_secs(1);
        assert_eq!(proxies.assign(&name(3), now), Ok((second, Some(name(1)))));
        assert_eq!(proxies.of(&name(1)), None);
        assert_eq!(proxies.name_of(second.v4()[0].into()), Some(&name(3)));
        assert_eq!(proxies.len(), 3);
    }

    #[test]
    fn traffic_counts_as_use() {
        let start = Instant::now();
        let mut proxies = ProxyAddresses::with_capacity(2);
        let (busy, _) = proxies.assign(&name(0), start).unwrap();
        let (idle, _) = proxies.assign(&name(1), start).unwrap();
        let now = start + REUSE_AFTER;
        proxies.touch(busy.v6()[3].into(), now);
        proxies.touch("100.96.200.1".parse().unwrap(), now);
        proxies.touch("192.0.2.1".parse().unwrap(), now);
        assert_eq!(proxies.assign(&name(2), now), Ok((idle, Some(name(1)))));
        assert_eq!(proxies.assign(&name(3), now), Err(Exhausted));
    }

    #[test]
    fn a_copy_serves_the_next_session() {
        let now = Instant::now();
        let mut proxies = ProxyAddresses::default();
        let (set, _) = proxies.assign(&name(1), now).unwrap();
        let mut next = proxies.clone();
        assert_eq!(next.name_of(set.v4()[2].into()), Some(&name(1)));
        assert_eq!(next.assign(&name(1), now), Ok((set, None)));
        let (fresh, _) = next.assign(&name(2), now).unwrap();
        assert_eq!(fresh.v4()[0].to_string(), "100.96.0.5");
    }
}
