//! What the program has counted.

use connlib_relay_xdp_types::{COUNTS, Count, Framing, Outcome, PATHS, Pass, Path};

/// What became of the packets since the program was attached, over all CPUs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Counters([Count; COUNTS as usize]);

impl Counters {
    pub(crate) const NONE: Self = Self([Count { packets: 0, bytes: 0 }; COUNTS as usize]);

    pub(crate) fn slot(&mut self, outcome: Outcome) -> &mut Count {
        &mut self.0[outcome.index() as usize]
    }

    /// One of them.
    pub fn of(&self, outcome: Outcome) -> Count {
        self.0[outcome.index() as usize]
    }

    /// Relayed by this way.
    pub fn relayed(&self, path: Path) -> Count {
        self.of(Outcome::Relayed(path))
    }

    /// Packets of the relay's that were left to user space for this reason.
    pub fn passed(&self, reason: Pass) -> u64 {
        self.of(Outcome::Passed(reason)).packets
    }

    /// All that was relayed, to peers ([`Framing::Udp`]) or to clients ([`Framing::Channel`]).
    pub fn relayed_as(&self, framing: Framing) -> Count {
        let paths = PATHS.into_iter().filter(|path| path.to.framing == framing);
        paths.map(|path| self.relayed(path)).fold(Count::default(), |sum, count| Count {
            packets: sum.packets + count.packets,
            bytes: sum.bytes + count.bytes,
        })
    }

    /// All that was relayed.
    pub fn total(&self) -> Count {
        let [peers, clients] = [Framing::Udp, Framing::Channel].map(|to| self.relayed_as(to));
        Count { packets: peers.packets + clients.packets, bytes: peers.bytes + clients.bytes }
    }
}
