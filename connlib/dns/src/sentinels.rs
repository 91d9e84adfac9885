//! Sentinels: the addresses that the operating system takes for its DNS servers.

use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::ranges::{SENTINEL_RANGE_V4, SENTINEL_RANGE_V6, is_sentinel};
use crate::upstream::{DohUrl, Upstream};

/// Upstreams that are used at most; further ones are left out. Twice as many fit into each range,
/// so a new mapping can always avoid the previous one.
const MAX_UPSTREAMS: usize = 64;

/// The DNS servers that are known, by where they come from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UpstreamConfig {
    /// Resolvers that the portal prescribes.
    pub do53: Vec<IpAddr>,
    /// DNS-over-HTTPS resolvers that the portal prescribes.
    pub doh: Vec<DohUrl>,
    /// Resolvers of the system, usually of the network that it is in.
    pub system: Vec<SocketAddr>,
}

/// Where the upstreams in use come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The portal, which may mean resolvers inside the networks that the tunnel leads to.
    Portal,
    /// The system.
    System,
}

/// One sentinel for each upstream in use.
#[derive(Debug, Default)]
pub struct Sentinels {
    mapping: Vec<(IpAddr, Upstream)>,
    origin: Option<Origin>,
    /// What was last in use, while nothing is.
    suspended: Vec<(IpAddr, Upstream)>,
}

impl Sentinels {
    /// Takes the first of the lists that has an entry: the portal's plain resolvers, the portal's
    /// DNS over HTTPS, the system's resolvers. Returns whether the *set* of upstreams changed.
    ///
    /// In that case there is a new mapping, in which no sentinel of the previous one appears: what
    /// the system still sends to, or remembers of, an old sentinel never meets a different server.
    pub fn update(&mut self, config: &UpstreamConfig) -> bool {
        let (upstreams, origin) = effective(config);
        self.origin = origin;
        let upstreams_now: HashSet<_> = self.mapping.iter().map(|(_, u)| u).collect();
        if upstreams_now == upstreams.iter().collect() {
            return false;
        }
        drop(upstreams_now);

        let previous = std::mem::take(&mut self.mapping);
        if upstreams.is_empty() {
            self.suspended = previous;
            return true;
        }
        let previous =
            if previous.is_empty() { std::mem::take(&mut self.suspended) } else { previous };
        let taken: HashSet<IpAddr> = previous.into_iter().map(|(sentinel, _)| sentinel).collect();
        self.mapping = assign(upstreams, &taken);
        true
    }

    /// The server behind a sentinel.
    pub fn upstream(&self, sentinel: IpAddr) -> Option<&Upstream> {
        self.mapping.iter().find(|(s, _)| *s == sentinel).map(|(_, upstream)| upstream)
    }

    /// The sentinels in order of preference, with their servers.
    pub fn iter(&self) -> impl Iterator<Item = (IpAddr, &Upstream)> {
        self.mapping.iter().map(|(sentinel, upstream)| (*sentinel, upstream))
    }

    /// Where the servers come from; `None` if there are none.
    pub fn origin(&self) -> Option<Origin> {
        self.origin
    }
}

fn effective(config: &UpstreamConfig) -> (Vec<Upstream>, Option<Origin>) {
    let do53 = config.do53.iter().map(|ip| Upstream::at(*ip));
    let doh = config.doh.iter().cloned().map(Upstream::Doh);
    let system = config.system.iter().copied().map(Upstream::Do53);
    let lists = [
        (distinct(do53), Origin::Portal),
        (distinct(doh), Origin::Portal),
        (distinct(system), Origin::System),
    ];
    match lists.into_iter().find(|(list, _)| !list.is_empty()) {
        Some((list, origin)) => (list, Some(origin)),
        None => (Vec::new(), None),
    }
}

/// Drops what can't be a server, above all our own sentinels, which a system that reports its
/// present settings hands back to us; and what appears twice.
fn distinct(upstreams: impl Iterator<Item = Upstream>) -> Vec<Upstream> {
    let mut seen = HashSet::new();
    upstreams
        .filter(|upstream| match upstream {
            Upstream::Do53(server) => {
                let ip = server.ip().to_canonical();
                !is_sentinel(ip) && !ip.is_unspecified() && !ip.is_multicast()
            }
            Upstream::Doh(_) => true,
        })
        .filter(|upstream| seen.insert(upstream.clone()))
        .take(MAX_UPSTREAMS)
        .collect()
}

/// Gives each upstream the first free sentinel of its family; DNS over HTTPS counts as IPv4.
fn assign(upstreams: Vec<Upstream>, taken: &HashSet<IpAddr>) -> Vec<(IpAddr, Upstream)> {
    let v4 = u32::from(SENTINEL_RANGE_V4.network());
    let v6 = SENTINEL_RANGE_V6.network().to_bits();
    let free = |sentinel: &IpAddr| !taken.contains(sentinel);
    let mut v4 = (1..=255).map(|i| IpAddr::V4(Ipv4Addr::from(v4 + i))).filter(free);
    let mut v6 = (0..=255).map(|i| IpAddr::V6(Ipv6Addr::from_bits(v6 + i))).filter(free);
    upstreams
        .into_iter()
        .filter_map(|upstream| {
            let sentinel = match &upstream {
                Upstream::Do53(server) if server.is_ipv6() => v6.next(),
                _ => v4.next(),
            };
            sentinel.map(|sentinel| (sentinel, upstream))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(do53: &[&str], doh: &[&str], system: &[&str]) -> UpstreamConfig {
        UpstreamConfig {
            do53: do53.iter().map(|t| t.parse().unwrap()).collect(),
            doh: doh.iter().map(|t| t.parse().unwrap()).collect(),
            system: system.iter().map(|t| SocketAddr::new(t.parse().unwrap(), 53)).collect(),
        }
    }

    fn mapping(sentinels: &Sentinels) -> Vec<(String, String)> {
        let text = |upstream: &Upstream| match upstream {
            Upstream::Do53(server) => server.ip().to_string(),
            Upstream::Doh(url) => url.to_string(),
        };
        sentinels.iter().map(|(sentinel, u)| (sentinel.to_string(), text(u))).collect()
    }

    fn check(sentinels: &Sentinels, expected: &[(&str, &str)]) {
        let expected: Vec<_> =
            expected.iter().map(|(s, u)| ((*s).to_owned(), (*u).to_owned())).collect();
        assert_eq!(mapping(sentinels), expected);
    }

    #[test]
    fn the_portals_resolvers_come_before_doh_before_the_systems() {
        const DOH: &str = "https://dns.quad9.net/dns-query";
        let mut sentinels = Sentinels::default();
        assert!(sentinels.update(&config(
            &["1.1.1.1", "2606::1", "9.9.9.9"],
            &[DOH],
            &["8.8.8.8"]
        )));
        check(
            &sentinels,
            &[
                ("100.100.111.1", "1.1.1.1"),
                ("fd00:2021:1111:8000:100:100:111:0", "2606::1"),
                ("100.100.111.2", "9.9.9.9"),
            ],
        );
        assert_eq!(sentinels.origin(), Some(Origin::Portal));

        let mut sentinels = Sentinels::default();
        assert!(sentinels.update(&config(&[], &[DOH], &["8.8.8.8"])));
        check(&sentinels, &[("100.100.111.1", DOH)]);
        assert_eq!(sentinels.origin(), Some(Origin::Portal));

        let mut sentinels = Sentinels::default();
        assert!(sentinels.update(&config(&[], &[], &["fe80::1", "8.8.8.8"])));
        check(
            &sentinels,
            &[("fd00:2021:1111:8000:100:100:111:0", "fe80::1"), ("100.100.111.1", "8.8.8.8")],
        );
        assert_eq!(sentinels.origin(), Some(Origin::System));
        let upstream = sentinels.upstream("100.100.111.1".parse().unwrap());
        assert_eq!(upstream, Some(&Upstream::at("8.8.8.8".parse().unwrap())));
        assert_eq!(sentinels.upstream("100.100.111.2".parse().unwrap()), None);
    }

    #[test]
    fn duplicates_and_our_own_sentinels_are_left_out() {
        let mut sentinels = Sentinels::default();
        sentinels.update(&config(
            &["100.100.111.7", "fd00:2021:1111:8000:100:100:111:9", "::ffff:100.100.111.1"],
            &[],
            &["8.8.8.8", "100.100.111.1", "9.9.9.9", "8.8.8.8", "0.0.0.0", "::", "224.0.0.251"],
        ));
        check(&sentinels, &[("100.100.111.1", "8.8.8.8"), ("100.100.111.2", "9.9.9.9")]);
        assert_eq!(sentinels.origin(), Some(Origin::System));
    }

    #[test]
    fn a_changed_set_avoids_the_sentinels_of_the_previous() {
        let mut sentinels = Sentinels::default();
        assert!(sentinels.update(&config(&["1.1.1.1", "9.9.9.9"], &[], &[])));
        assert!(!sentinels.update(&config(&["1.1.1.1", "9.9.9.9"], &[], &[])));
        assert!(!sentinels.update(&config(&["9.9.9.9", "1.1.1.1"], &[], &[])), "order only");
        check(&sentinels, &[("100.100.111.1", "1.1.1.1"), ("100.100.111.2", "9.9.9.9")]);

        assert!(sentinels.update(&config(&["9.9.9.9"], &[], &[])));
        check(&sentinels, &[("100.100.111.3", "9.9.9.9")]);
        assert!(sentinels.update(&config(&["8.8.8.8"], &[], &[])));
        check(&sentinels, &[("100.100.111.1", "8.8.8.8")]);
    }

    #[test]
    fn a_time_without_servers_does_not_bring_old_sentinels_back() {
        let mut sentinels = Sentinels::default();
        sentinels.update(&config(&[], &[], &["1.1.1.1"]));
        assert!(sentinels.update(&config(&[], &[], &[])));
        assert_eq!((sentinels.iter().count(), sentinels.origin()), (0, None));
        assert!(!sentinels.update(&config(&[], &[], &[])));
        assert!(sentinels.update(&config(&[], &[], &["8.8.8.8"])));
        check(&sentinels, &[("100.100.111.2", "8.8.8.8")]);
    }

    #[test]
    fn many_servers_are_cut_short_and_still_change_completely() {
        let many = |third: u8| UpstreamConfig {
            do53: (0..=255).map(|n| IpAddr::from([192, 0, third, n])).collect(),
            ..UpstreamConfig::default()
        };
        let mut sentinels = Sentinels::default();
        sentinels.update(&many(2));
        let first: HashSet<_> = sentinels.iter().map(|(s, _)| s).collect();
        sentinels.update(&many(3));
        let second: HashSet<_> = sentinels.iter().map(|(s, _)| s).collect();
        assert_eq!((first.len(), second.len()), (MAX_UPSTREAMS, MAX_UPSTREAMS));
        assert!(first.is_disjoint(&second) && second.iter().all(|s| is_sentinel(*s)));
    }
}
