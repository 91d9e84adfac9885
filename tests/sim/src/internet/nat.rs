//! A router in front of a host.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

/// How a router maps addresses (RFC 4787 §4.1). All of them filter by address and port (§5).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mapping {
    /// One external port for each internal one, whatever the destination is.
    EndpointIndependent,
    /// An external port for each destination: a "symmetric" NAT.
    Symmetric,
    /// None: a firewall that lets only answers in.
    Firewall,
}

/// Mappings, and whom they let in.
#[derive(Debug)]
pub(crate) struct Nat {
    mapping: Mapping,
    /// Our address in the world.
    public: IpAddr,
    lifetime: Duration,
    entries: Vec<Entry>,
    next_port: u16,
}

#[derive(Debug)]
struct Entry {
    inside: SocketAddr,
    outside: SocketAddr,
    /// With whom, and when the host last sent something there.
    peers: Vec<(SocketAddr, Instant)>,
}

impl Nat {
    pub(crate) fn new(mapping: Mapping, public: IpAddr, lifetime: Duration) -> Self {
        Self { mapping, public, lifetime, entries: Vec::new(), next_port: 40_000 }
    }

    /// A datagram leaves; returns the source address that the world sees.
    pub(crate) fn outbound(
        &mut self,
        inside: SocketAddr,
        peer: SocketAddr,
        now: Instant,
    ) -> SocketAddr {
        self.expire(now);
        let symmetric = self.mapping == Mapping::Symmetric;
        let fits = |entry: &&mut Entry| {
            entry.inside == inside && (!symmetric || entry.peers.iter().any(|(p, _)| *p == peer))
        };
        if let Some(entry) = self.entries.iter_mut().find(fits) {
            match entry.peers.iter_mut().find(|(p, _)| *p == peer) {
                Some((_, used)) => *used = now,
                None => entry.peers.push((peer, now)),
            }
            return entry.outside;
        }
        let outside = match self.mapping {
            Mapping::Firewall => inside,
            Mapping::EndpointIndependent | Mapping::Symmetric => {
                self.next_port += 1;
                SocketAddr::new(self.public, self.next_port)
            }
        };
        self.entries.push(Entry { inside, outside, peers: vec![(peer, now)] });
        outside
    }

    /// A datagram arrives; returns the host's address that it is for, if it is let in.
    pub(crate) fn inbound(
        &mut self,
        outside: SocketAddr,
        peer: SocketAddr,
        now: Instant,
    ) -> Option<SocketAddr> {
        self.expire(now);
        let entry = self.entries.iter().find(|entry| {
            entry.outside == outside && entry.peers.iter().any(|(p, _)| *p == peer)
        })?;
        Some(entry.inside)
    }

    /// The router has restarted.
    pub(crate) fn forget(&mut self) {
        self.entries.clear();
    }

    fn expire(&mut self, now: Instant) {
        for entry in &mut self.entries {
            entry.peers.retain(|(_, used)| now < *used + self.lifetime);
        }
        self.entries.retain(|entry| !entry.peers.is_empty());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn socket(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    #[test]
    fn a_symmetric_nat_has_a_port_for_each_destination_and_lets_in_nobody_else() {
        let now = Instant::now();
        let host = socket("192.168.1.2:52625");
        let (a, b) = (socket("198.51.100.1:1"), socket("198.51.100.2:1"));
        for (mapping, same) in [(Mapping::EndpointIndependent, true), (Mapping::Symmetric, false)] {
            let mut nat =
                Nat::new(mapping, "203.0.113.1".parse().unwrap(), Duration::from_secs(30));
            let to_a = nat.outbound(host, a, now);
            let to_b = nat.outbound(host, b, now);
            assert_eq!(to_a == to_b, same);
            assert_eq!(nat.inbound(to_a, a, now), Some(host));
            assert_eq!(nat.inbound(to_a, b, now).is_some(), same);
            assert_eq!(nat.inbound(to_a, socket("198.51.100.1:2"), now), None);
            assert_eq!(nat.inbound(to_a, a, now + Duration::from_secs(30)), None);
        }
    }
}
