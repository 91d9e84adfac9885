//! What a tunnel counts, for logs and metrics.

/// Counters since the tunnel was made. They only ever grow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Stats {
    /// Packets that came out of a link and went to the TUN device.
    pub packets_in: u64,
    /// Packets, or super-packets, that came from the TUN device and went to a link.
    pub packets_out: u64,
    dropped: [u64; DropReason::ALL.len()],
}

/// Why a packet went no further.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DropReason {
    /// A datagram that belongs to no link, or isn't authentic.
    NotAuthentic,
    /// Not a packet that can be handled: see [`ParseError`](connlib_packet::ParseError).
    Malformed,
    /// To a multicast address.
    Multicast,
    /// An ICMP error that can't be translated.
    IcmpError,
    /// From an address that isn't the sender's.
    ForeignSource,
    /// No authorization covers it.
    NotAllowed,
    /// Its destination can't be reached from here, or not by this protocol.
    Unreachable,
    /// It belongs to a session that has ended.
    ExpiredSession,
    /// To nobody we know.
    UnknownPeer,
    /// A control message that can't be read, or isn't meant for this end.
    Control,
    /// Longer than the MTU.
    TooBig,
    /// A sender asked for more than its share.
    RateLimited,
    /// A buffer was full.
    Overflow,
    /// The relay that it had to go by does not take it.
    NoPath,
}

impl DropReason {
    /// All of them.
    pub const ALL: [Self; 14] = [
        Self::NotAuthentic,
        Self::Malformed,
        Self::Multicast,
        Self::IcmpError,
        Self::ForeignSource,
        Self::NotAllowed,
        Self::Unreachable,
        Self::ExpiredSession,
        Self::UnknownPeer,
        Self::Control,
        Self::TooBig,
        Self::RateLimited,
        Self::Overflow,
        Self::NoPath,
    ];
}

impl Stats {
    /// How many packets were dropped for this reason.
    pub fn dropped(&self, reason: DropReason) -> u64 {
        self.dropped[reason as usize]
    }

    /// How many packets were dropped for each reason that occurred.
    pub fn drops(&self) -> impl Iterator<Item = (DropReason, u64)> {
        DropReason::ALL.into_iter().zip(self.dropped).filter(|(_, count)| *count > 0)
    }

    pub(crate) fn count(&mut self, reason: DropReason) {
        self.dropped[reason as usize] += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_has_its_own_counter() {
        let mut stats = Stats::default();
        for (index, reason) in DropReason::ALL.into_iter().enumerate() {
            assert_eq!(reason as usize, index);
            stats.count(reason);
        }
        assert!(stats.drops().eq(DropReason::ALL.map(|reason| (reason, 1))));
    }
}
