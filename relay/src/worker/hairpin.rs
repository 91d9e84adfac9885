//! Peers that are allocations of this very relay.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// Where the public address is a router's (1:1 NAT), packets for it would leave the machine and hardly ever come back.
/// They go to the sockets on this machine instead, and seem to come from the public address.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Hairpin {
    v4: Option<Loop>,
    v6: Option<Loop>,
}

#[derive(Debug, Clone, Copy)]
struct Loop {
    public: IpAddr,
    local: IpAddr,
}

impl Hairpin {
    /// A short cut to `public`, which is not this machine's, where sockets are bound to `bind`.
    pub(crate) fn add(&mut self, public: IpAddr, bind: IpAddr) {
        let local = match bind {
            bind if !bind.is_unspecified() => bind,
            IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
            IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
        };
        let family = if public.is_ipv4() { &mut self.v4 } else { &mut self.v6 };
        *family = Some(Loop { public, local });
    }

    /// Where to send what is for `peer`.
    pub(super) fn towards(&self, mut peer: SocketAddr) -> SocketAddr {
        if let Some(Loop { public, local }) = self.family(peer)
            && peer.ip() == public
        {
            peer.set_ip(local);
        }
        peer
    }

    /// Who sent what came from `peer`.
    pub(super) fn from(&self, mut peer: SocketAddr) -> SocketAddr {
        if let Some(Loop { public, local }) = self.family(peer)
            && peer.ip() == local
        {
            peer.set_ip(public);
        }
        peer
    }

    fn family(&self, address: SocketAddr) -> Option<Loop> {
        if address.is_ipv4() { self.v4 } else { self.v6 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_public_address_is_looped() {
        let mut hairpin = Hairpin::default();
        hairpin.add([203, 0, 113, 1].into(), Ipv4Addr::UNSPECIFIED.into());
        let address = |text: &str| text.parse::<SocketAddr>().unwrap();
        assert_eq!(hairpin.towards(address("203.0.113.1:50000")), address("127.0.0.1:50000"));
        assert_eq!(hairpin.from(address("127.0.0.1:50000")), address("203.0.113.1:50000"));
        for other in ["203.0.113.2:50000", "[2001:db8::1]:50000"] {
            assert_eq!(hairpin.towards(address(other)), address(other));
            assert_eq!(hairpin.from(address(other)), address(other));
        }
    }
}
