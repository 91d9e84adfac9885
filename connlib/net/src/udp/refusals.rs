//! Where segmentation offload does not work.

use std::net::IpAddr;

const CAPACITY: usize = 16;

/// Destinations to which the kernel refused to segment.
///
/// A refusal belongs to a path: its device cannot checksum, IPsec covers it, its MTU is below the segment size. Other
/// destinations keep the fast way. The oldest entry makes room, and a forgotten destination costs one failed call.
#[derive(Debug, Default)]
pub(super) struct Refusals {
    destinations: [Option<IpAddr>; CAPACITY],
    next: usize,
}

impl Refusals {
    pub(super) fn contains(&self, destination: IpAddr) -> bool {
        // Filled from the front: an empty first slot means that there are none.
        self.destinations[0].is_some() && self.destinations.contains(&Some(destination))
    }

    pub(super) fn insert(&mut self, destination: IpAddr) {
        self.destinations[self.next] = Some(destination);
        self.next = (self.next + 1) % CAPACITY;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_refusal_is_forgotten_first() {
        let mut refusals = Refusals::default();
        let address = |n: usize| IpAddr::from([192, 0, 2, n as u8]);
        for n in 0..=CAPACITY {
            assert!(!refusals.contains(address(n)));
            refusals.insert(address(n));
        }
        assert!(!refusals.contains(address(0)));
        assert!((1..=CAPACITY).all(|n| refusals.contains(address(n))));
    }
}
