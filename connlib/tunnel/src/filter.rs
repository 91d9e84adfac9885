//! What traffic to a resource is let through.

use connlib_packet::{Headers, Transport};

/// One line of a resource's filters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Filter {
    /// TCP to these destination ports, both ends included.
    Tcp {
        /// The lowest port.
        first: u16,
        /// The highest port.
        last: u16,
    },
    /// UDP to these destination ports, both ends included.
    Udp {
        /// The lowest port.
        first: u16,
        /// The highest port.
        last: u16,
    },
    /// All of ICMP and ICMPv6, not only echo.
    Icmp,
    /// A filter of a kind that we do not know. It lets nothing through, but it is there: see [`Filters`].
    Unknown,
}

/// The filters of a resource. **Without any, everything passes**, all other IP protocols included; with some, only what
/// one of them names does.
///
/// Port ranges are sorted and merged, so that a look-up is a binary search.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Filters(Option<AllowList>);

#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
struct AllowList {
    tcp: PortRanges,
    udp: PortRanges,
    icmp: bool,
}

/// INVARIANT: sorted, without overlap.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
struct PortRanges(Vec<(u16, u16)>);

/// What filters look at: the protocol, and the port at the resource's end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Service {
    /// This TCP port.
    Tcp(u16),
    /// This UDP port.
    Udp(u16),
    /// ICMP of either version.
    Icmp,
    /// Any other IP protocol.
    Other,
}

impl Filters {
    /// Lets everything through.
    pub const ALL: Self = Self(None);

    /// Whether this traffic passes.
    pub fn permits(&self, service: Service) -> bool {
        let Some(allowed) = &self.0 else { return true };
        match service {
            Service::Tcp(port) => allowed.tcp.contains(port),
            Service::Udp(port) => allowed.udp.contains(port),
            Service::Icmp => allowed.icmp,
            Service::Other => false,
        }
    }
}

impl FromIterator<Filter> for Filters {
    fn from_iter<I: IntoIterator<Item = Filter>>(filters: I) -> Self {
        let mut filters = filters.into_iter().peekable();
        if filters.peek().is_none() {
            return Self::ALL;
        }
        let (mut tcp, mut udp, mut icmp) = (Vec::new(), Vec::new(), false);
        for filter in filters {
            match filter {
                Filter::Tcp { first, last } => tcp.push((first, last)),
                Filter::Udp { first, last } => udp.push((first, last)),
                Filter::Icmp => icmp = true,
                Filter::Unknown => {}
            }
        }
        Self(Some(AllowList { tcp: PortRanges::new(tcp), udp: PortRanges::new(udp), icmp }))
    }
}

impl PortRanges {
    fn new(mut ranges: Vec<(u16, u16)>) -> Self {
        ranges.retain(|(first, last)| first <= last);
        ranges.sort_unstable();
        ranges.dedup_by(|next, previous| {
            let touches = next.0 <= previous.1.saturating_add(1);
            if touches {
                previous.1 = previous.1.max(next.1);
            }
            touches
        });
        Self(ranges)
    }

    fn contains(&self, port: u16) -> bool {
        let after = self.0.partition_point(|(first, _)| *first <= port);
        after.checked_sub(1).is_some_and(|at| port <= self.0[at].1)
    }
}

impl Service {
    /// Of a packet on its way to a resource.
    pub fn of_destination(headers: &Headers) -> Self {
        match headers.transport() {
            Transport::Tcp { destination, .. } => Self::Tcp(destination),
            Transport::Udp { destination, .. } => Self::Udp(destination),
            _ if headers.is_icmp() => Self::Icmp,
            _ => Self::Other,
        }
    }

    /// Of a packet that comes from a resource.
    pub fn of_source(headers: &Headers) -> Self {
        match headers.transport() {
            Transport::Tcp { source, .. } => Self::Tcp(source),
            Transport::Udp { source, .. } => Self::Udp(source),
            _ if headers.is_icmp() => Self::Icmp,
            _ => Self::Other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TCP_WEB: Filter = Filter::Tcp { first: 80, last: 80 };
    const UDP_HIGH: Filter = Filter::Udp { first: 5000, last: u16::MAX };

    #[test]
    fn table() {
        use Service::{Icmp, Other, Tcp, Udp};
        for (filters, passes, fails) in [
            (vec![], vec![Tcp(0), Udp(65535), Icmp, Other], vec![]),
            (vec![TCP_WEB], vec![Tcp(80)], vec![Tcp(79), Tcp(81), Udp(80), Icmp, Other]),
            (
                vec![UDP_HIGH, Filter::Icmp],
                vec![Udp(5000), Udp(65535), Icmp],
                vec![Udp(4999), Tcp(5000), Other],
            ),
            (
                vec![
                    Filter::Tcp { first: 20, last: 30 },
                    Filter::Tcp { first: 1, last: 1 },
                    Filter::Tcp { first: 25, last: 40 },
                    Filter::Tcp { first: 41, last: 41 },
                ],
                vec![Tcp(1), Tcp(20), Tcp(31), Tcp(41)],
                vec![Tcp(0), Tcp(2), Tcp(19), Tcp(42), Tcp(65535)],
            ),
            (vec![Filter::Tcp { first: 9, last: 8 }], vec![], vec![Tcp(8), Tcp(9), Other]),
        ] {
            let list: Filters = filters.iter().copied().collect();
            for service in passes {
                assert!(list.permits(service), "{filters:?} {service:?}");
            }
            for service in fails {
                assert!(!list.permits(service), "{filters:?} {service:?}");
            }
        }
    }

    #[test]
    fn an_unknown_filter_is_not_an_empty_list() {
        let filters: Filters = [Filter::Unknown].into_iter().collect();
        for service in [Service::Tcp(80), Service::Udp(53), Service::Icmp, Service::Other] {
            assert!(!filters.permits(service));
        }
    }

    #[test]
    fn order_and_duplicates_do_not_matter() {
        let one: Filters = [TCP_WEB, UDP_HIGH, TCP_WEB].into_iter().collect();
        let other: Filters = [UDP_HIGH, TCP_WEB].into_iter().collect();
        assert_eq!(one, other);
    }
}
