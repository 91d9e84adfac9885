//! How many streams there may be.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

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
    by_source: HashMap<IpAddr, usize>,
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
    pub(crate) fn take(&self, from: IpAddr) -> Option<Seat> {
        let source = source(from);
        let mut taken = self.taken();
        if taken.all >= self.0.limit {
            return None;
        }
        let of_source = taken.by_source.entry(source).or_default();
        if *of_source >= self.0.limit_per_source {
            return None;
        }
        *of_source += 1;
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
        if let Some(count) = taken.by_source.get_mut(&self.source) {
            *count -= 1;
            if *count == 0 {
                taken.by_source.remove(&self.source);
            }
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

    #[test]
    fn seats_are_limited_in_all_and_by_source() {
        let seats = Seats::new(3, 2);
        let ip = |text: &str| text.parse().unwrap();
        let a = seats.take(ip("2001:db8::1")).unwrap();
        let _b = seats.take(ip("2001:db8::2")).unwrap();
        assert!(seats.take(ip("2001:db8::3")).is_none(), "the same /64");
        let _c = seats.take(ip("192.0.2.1")).unwrap();
        assert!(seats.take(ip("192.0.2.2")).is_none(), "all are taken");
        drop(a);
        let _d = seats.take(ip("2001:db8::3")).unwrap();
        assert_eq!(seats.0.taken.lock().unwrap().by_source.len(), 2);
    }
}
