//! What was decided for the flows of late, so that most packets cost one comparison.

use std::net::IpAddr;

use connlib_packet::{Headers, Transport};

/// Enough for the flows that are busy at the same time. A power of two.
const SLOTS: usize = 1024;

/// Decisions by flow, direct-mapped: a newer flow takes the place of an older one.
///
/// Whoever changes what decisions depend on calls [`clear`](Self::clear), which costs nothing.
#[derive(Debug)]
pub(crate) struct FlowCache<V> {
    slots: Box<[Option<Slot<V>>]>,
    generation: u64,
}

#[derive(Debug, Clone, Copy)]
struct Slot<V> {
    generation: u64,
    flow: Flow,
    decision: V,
}

/// What packets of one flow have in common, and the peer that they are from, if that matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Flow {
    peer: usize,
    source: IpAddr,
    destination: IpAddr,
    transport: Transport,
}

impl<V: Copy> FlowCache<V> {
    pub(crate) fn new() -> Self {
        Self { slots: vec![None; SLOTS].into_boxed_slice(), generation: 0 }
    }

    /// What was decided for this packet's flow.
    #[inline]
    pub(crate) fn find(&self, peer: usize, headers: &Headers) -> Option<V> {
        let flow = Flow::new(peer, headers);
        let slot = self.slots[flow.slot()].as_ref()?;
        (slot.generation == self.generation && slot.flow == flow).then_some(slot.decision)
    }

    /// Remembers what was decided for this packet's flow. Errors are not flows and are decided one by one.
    pub(crate) fn insert(&mut self, peer: usize, headers: &Headers, decision: V) {
        if matches!(headers.transport(), Transport::IcmpError(_)) {
            return;
        }
        let flow = Flow::new(peer, headers);
        self.slots[flow.slot()] = Some(Slot { generation: self.generation, flow, decision });
    }

    /// Forgets all decisions.
    pub(crate) fn clear(&mut self) {
        self.generation += 1;
    }
}

impl Flow {
    #[inline]
    fn new(peer: usize, headers: &Headers) -> Self {
        Self {
            peer,
            source: headers.source(),
            destination: headers.destination(),
            transport: headers.transport(),
        }
    }

    /// A sender that picks colliding flows only makes its own packets slower.
    #[inline]
    fn slot(&self) -> usize {
        let ports = match self.transport {
            Transport::Tcp { source, destination } | Transport::Udp { source, destination } => {
                u64::from(source) << 16 | u64::from(destination)
            }
            Transport::IcmpEcho { identifier, .. } => identifier.into(),
            Transport::IcmpError(_) => 0,
            Transport::Other { protocol } => protocol.into(),
        };
        let addresses = low_bits(self.source).rotate_left(32) ^ low_bits(self.destination);
        let mixed =
            (addresses ^ ports ^ (self.peer as u64) << 40).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        (mixed >> (64 - SLOTS.trailing_zeros())) as usize
    }
}

#[inline]
fn low_bits(address: IpAddr) -> u64 {
    match address {
        IpAddr::V4(v4) => v4.to_bits().into(),
        IpAddr::V6(v6) => {
            let bits = v6.to_bits();
            (bits >> 64) as u64 ^ bits as u64
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use connlib_packet::build;

    fn udp(source: &str, destination: &str) -> Headers {
        let mut bytes = [0; 64];
        let len =
            build::udp(&mut bytes, source.parse().unwrap(), destination.parse().unwrap(), b"")
                .unwrap();
        Headers::parse(&bytes[..len]).unwrap()
    }

    #[test]
    fn finds_a_flow_until_it_is_cleared() {
        let mut cache = FlowCache::new();
        let flow = udp("100.64.0.1:1000", "10.0.0.1:53");
        assert_eq!(cache.find(1, &flow), None);
        cache.insert(1, &flow, 'a');
        assert_eq!(cache.find(1, &flow), Some('a'));
        cache.clear();
        assert_eq!(cache.find(1, &flow), None);
    }

    #[test]
    fn tells_flows_and_peers_apart() {
        let mut cache = FlowCache::new();
        let flow = udp("100.64.0.1:1000", "10.0.0.1:53");
        cache.insert(1, &flow, 'a');
        for (peer, other) in [
            (2, flow),
            (1, udp("100.64.0.2:1000", "10.0.0.1:53")),
            (1, udp("100.64.0.1:1001", "10.0.0.1:53")),
            (1, udp("100.64.0.1:1000", "10.0.0.2:53")),
            (1, udp("100.64.0.1:1000", "10.0.0.1:54")),
            (1, udp("[fd00::1]:1000", "[fd00::2]:53")),
        ] {
            assert_eq!(cache.find(peer, &other), None, "{peer} {other:?}");
        }
    }

    #[test]
    fn any_flow_has_a_slot() {
        let mut cache = FlowCache::new();
        let mut used = std::collections::HashSet::new();
        for port in 0..2000 {
            let flow = udp(&format!("100.64.0.1:{port}"), "10.0.0.1:443");
            used.insert(Flow::new(0, &flow).slot());
            cache.insert(0, &flow, port);
            assert_eq!(cache.find(0, &flow), Some(port));
        }
        assert!(used.len() > SLOTS / 2, "neighbouring ports share {} slots", used.len());
    }
}
