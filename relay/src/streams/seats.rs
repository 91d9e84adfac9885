//! How many streams there may be, and how fast.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// A source may connect so often over time, as TLS handshakes cost what relays a few hundred packets; and so often at
/// once, as whoever has lost connections comes back.
const INTERVAL: Duration = Duration::from_millis(50);
const BURST: u32 = 128;

/// The seats of all workers. Clones share them.
#[derive(Debug, Clone)]
pub(crate) struct Seats(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    limit: usize,
    limit_per_source: usize,
    taken: Mutex<Taken>,
}

#[derive(Debug, Default)]
struct Taken {
    all: usize,
    by_source: HashMap<IpAddr, Source>,
}

#[derive(Debug)]
struct Source {
    seats: usize,
    /// When it may connect at the full rate again.
    rested_at: Instant,
}

/// One stream's seat. It is free again when this is dropped.
#[derive(Debug)]
pub(crate) struct Seat {
    seats: Seats,
    source: IpAddr,
}

impl Seats {
    pub(crate) fn new(limit: usize, limit_per_source: usize) -> Self {
        Self(Arc::new(Shared { limit, limit_per_source, taken: Mutex::default() }))
    }

    pub(crate) fn are_all_taken(&self) -> bool {
        self.taken().all >= self.0.limit
    }

    /// A seat for a stream from this address, if there is one left for it.
    pub(crate) fn take(&self, from: IpAddr, now: Instant) -> Option<Seat> {
        let source = source(from);
        let mut taken = self.taken();
        if taken.all >= self.0.limit {
            return None;
        }
        if taken.by_source.len() > 2 * self.0.limit {
            taken.by_source.retain(|_, of| of.seats > 0 || of.rested_at > now);
        }
        let of = taken.by_source.entry(source).or_insert(Source { seats: 0, rested_at: now });
        let rested_at = of.rested_at.max(now) + INTERVAL;
        if of.seats >= self.0.limit_per_source || rested_at > now + BURST * INTERVAL {
            return None;
        }
        (of.seats, of.rested_at) = (of.seats + 1, rested_at);
        taken.all += 1;
        Some(Seat { seats: self.clone(), source })
    }

    fn taken(&self) -> MutexGuard<'_, Taken> {
        self.0.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut taken = self.seats.taken();
        taken.all -= 1;
        if let Some(of) = taken.by_source.get_mut(&self.source) {
            of.seats -= 1;
        }
    }
}

/// What one subscriber has: an IPv4 address or an IPv6 /64.
fn source(ip: IpAddr) -> IpAddr {
    match ip {
        IpAddr::V4(_) => ip,
        IpAddr::V6(ip) => IpAddr::V6((ip.to_bits() & !u128::from(u64::MAX)).into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn seats_are_limited_in_all_and_by_source() {
        let (seats, now) = (Seats::new(3, 2), Instant::now());
        let a = seats.take(ip("2001:db8::1"), now).unwrap();
        let _b = seats.take(ip("2001:db8::2"), now).unwrap();
        assert!(seats.take(ip("2001:db8::3"), now).is_none(), "the same /64");
        let _c = seats.take(ip("192.0.2.1"), now).unwrap();
        assert!(seats.take(ip("192.0.2.2"), now).is_none(), "all are taken");
        drop(a);
        let _d = seats.take(ip("2001:db8::3"), now).unwrap();
    }

    #[test]
    fn who_connects_too_fast_has_to_wait() {
        let (seats, now) = (Seats::new(3, 2), Instant::now());
        let granted =
            |from, at| (0..1000).take_while(|_| seats.take(ip(from), at).is_some()).count();
        assert_eq!(granted("192.0.2.1", now), BURST as usize);
        assert_eq!(granted("192.0.2.2", now), BURST as usize);
        assert_eq!(granted("192.0.2.1", now + 3 * INTERVAL), 3);
    }

    #[test]
    fn sources_are_forgotten_once_they_have_rested() {
        let (seats, now) = (Seats::new(3, 2), Instant::now());
        for host in 0..10_000_u32 {
            let source = IpAddr::from(host.to_be_bytes());
            assert!(seats.take(source, now + host * 2 * INTERVAL).is_some());
        }
        assert!(seats.taken().by_source.len() <= 7);
    }
}
