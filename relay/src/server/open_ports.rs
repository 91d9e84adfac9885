//! Which ports are allocations', over all workers.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::output::Families;

const WORDS: usize = (1 << 16) / 64;

/// The ports that are allocations' now, of all [`Server`](super::Server)s that share it, as clones do: on the public
/// addresses, nothing is relayed to others. It is looked at for each packet and takes no lock.
#[derive(Clone)]
pub struct OpenPorts(Arc<[Ports; 2]>);

/// A bit for each port of a family.
type Ports = [AtomicU64; WORDS];

impl OpenPorts {
    pub(crate) fn add(&self, port: u16, families: Families) {
        let (word, bit) = place(port);
        // Nothing else is read because of a bit, so that no order is needed beside that of the bit's own changes.
        for ports in self.each(families) {
            ports[word].fetch_or(bit, Ordering::Relaxed);
        }
    }

    pub(crate) fn remove(&self, port: u16, families: Families) {
        let (word, bit) = place(port);
        for ports in self.each(families) {
            ports[word].fetch_and(!bit, Ordering::Relaxed);
        }
    }

    /// Whether the address's port is an allocation's, of its family.
    pub(crate) fn has(&self, address: SocketAddr) -> bool {
        let (word, bit) = place(address.port());
        let [v4, v6] = &*self.0;
        let ports = if address.is_ipv4() { v4 } else { v6 };
        ports[word].load(Ordering::Relaxed) & bit != 0
    }

    fn each(&self, families: Families) -> impl Iterator<Item = &Ports> {
        let [v4, v6] = &*self.0;
        families.ip4.then_some(v4).into_iter().chain(families.ip6.then_some(v6))
    }
}

impl Default for OpenPorts {
    fn default() -> Self {
        let none = || std::array::from_fn(|_| AtomicU64::new(0));
        Self(Arc::new([none(), none()]))
    }
}

impl fmt::Debug for OpenPorts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OpenPorts").finish_non_exhaustive()
    }
}

fn place(port: u16) -> (usize, u64) {
    (usize::from(port / 64), 1 << (port % 64))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_port_is_by_itself_in_each_family() {
        let ports = OpenPorts::default();
        let (v4, v6) = (Families { ip4: true, ip6: false }, Families { ip4: false, ip6: true });
        let open = || -> Vec<SocketAddr> {
            let of = |ip: [u16; 8]| (0..=u16::MAX).map(move |port| (ip, port).into());
            let all = (0..=u16::MAX).map(|port| ([0; 4], port).into()).chain(of([0; 8]));
            all.filter(|address| ports.has(*address)).collect()
        };
        let address = |text: &str| text.parse::<SocketAddr>().unwrap();
        for port in [0, 63, 64, 65_535] {
            ports.add(port, v4);
            ports.clone().add(port, v6);
        }
        ports.remove(63, v4);
        ports.remove(64, v6);
        ports.remove(1, v6);
        let wanted =
            ["0.0.0.0:0", "0.0.0.0:64", "0.0.0.0:65535", "[::]:0", "[::]:63", "[::]:65535"];
        assert_eq!(open(), wanted.map(address));
    }
}
