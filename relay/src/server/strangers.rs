//! How much strangers are answered.

use std::net::IpAddr;
use std::time::Instant;

use super::budget::Budget;
use super::limits::Rate;

/// What part of its network's budget an address may have before others of the network go first.
const SHARE: u32 = 8;

/// A budget for each network (an IPv4 /24, an IPv6 /48): what a sender of forged datagrams can aim at one. Addresses (an IPv6
/// /64) that have had much of it leave some to those that have had little, so that one of them alone, or forged as one, takes
/// nothing from its neighbours.
pub(crate) struct Strangers {
    networks: Budget,
    addresses: Budget,
}

impl Strangers {
    pub(crate) fn new(rate: Rate, seed: u64, start: Instant) -> Self {
        let share =
            Rate { per_second: rate.per_second / SHARE, burst: (rate.burst / SHARE).max(1) };
        Self {
            networks: Budget::new(rate, seed, start),
            addresses: Budget::new(share, seed, start),
        }
    }

    /// Whether this source may have one more answer, which it then has had.
    pub(crate) fn take(&mut self, source: IpAddr, now: Instant) -> bool {
        let (network, address) = match source.to_canonical() {
            IpAddr::V4(ip) => (u64::from(ip.to_bits() >> 8), u64::from(ip.to_bits())),
            IpAddr::V6(ip) => {
                let [network, address] = [80, 64].map(|bits| (ip.to_bits() >> bits) as u64);
                (network | 1 << 63, address | 1 << 63)
            }
        };
        if self.addresses.take(address, now) {
            self.networks.take(network, now)
        } else {
            self.networks.take_of_half(network, now)
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn granted(strangers: &mut Strangers, source: &str, now: Instant) -> usize {
        let source = source.parse().unwrap();
        (0..200).take_while(|_| strangers.take(source, now)).count()
    }

    #[test]
    fn a_network_has_one_budget() {
        let start = Instant::now();
        let mut strangers = Strangers::new(Rate { per_second: 10, burst: 80 }, 1, start);
        let hosts = |network: &'static str| (1..=20).map(move |host| format!("{network}{host}"));
        for (network, other) in [("192.0.2.", "192.0.3.1"), ("2001:db8:1:", "2001:db8:2::1")] {
            let is_v6 = network.contains(':');
            let hosts = hosts(network).map(|host| if is_v6 { format!("{host}::1") } else { host });
            let all: usize = hosts.map(|host| granted(&mut strangers, &host, start)).sum();
            assert_eq!(all, 80);
            assert!(granted(&mut strangers, other, start) > 0);
        }
    }

    #[test]
    fn who_takes_much_leaves_some_to_others() {
        let start = Instant::now();
        let mut strangers = Strangers::new(Rate { per_second: 80, burst: 80 }, 1, start);
        // All by itself, it has half at once and then the whole rate.
        assert_eq!(granted(&mut strangers, "192.0.2.66", start), 40);
        for second in 1..10 {
            let mut now = start + Duration::from_secs(second);
            assert!(granted(&mut strangers, "192.0.2.66", now) >= 40);
            for host in 1..=4 {
                now += Duration::from_millis(1);
                assert!(granted(&mut strangers, &format!("192.0.2.{host}"), now) >= 10);
                assert_eq!(granted(&mut strangers, "192.0.2.66", now), 0);
            }
        }
    }
}
