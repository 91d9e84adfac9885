//! What the program is told about who we are.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};

use connlib_relay_xdp::Addresses;

use crate::options::AddressOptions;
use crate::udp::is_own;

/// The relay's addresses, as far as they are known. Where the public one is a router's, the one of this machine depends on
/// the interfaces that are there.
#[derive(Debug)]
pub(super) struct OwnAddresses {
    v4: Option<OwnAddress<Ipv4Addr>>,
    v6: Option<OwnAddress<Ipv6Addr>>,
}

#[derive(Debug)]
struct OwnAddress<A> {
    public: A,
    local: Option<A>,
    /// The sockets are bound to it.
    is_fixed: bool,
}

impl OwnAddresses {
    pub(super) fn new(options: &AddressOptions) -> Self {
        let mut own = Self {
            v4: options.public_ip4_addr.map(|it| OwnAddress::new(it, options.bind_ip4_addr)),
            v6: options.public_ip6_addr.map(|it| OwnAddress::new(it, options.bind_ip6_addr)),
        };
        own.find();
        own
    }

    /// Looks for those of this machine. The last ones stay where nothing leads to the internet.
    pub(super) fn find(&mut self) {
        if let Some(own) = &mut self.v4
            && !own.is_fixed
            && let Some(IpAddr::V4(local)) = sends_from(own.public.into())
        {
            own.local = Some(local);
        }
        if let Some(own) = &mut self.v6
            && !own.is_fixed
            && let Some(IpAddr::V6(local)) = sends_from(own.public.into())
        {
            own.local = Some(local);
        }
    }

    pub(super) fn v4(&self) -> Option<Addresses<Ipv4Addr>> {
        self.v4.as_ref().and_then(OwnAddress::known)
    }

    pub(super) fn v6(&self) -> Option<Addresses<Ipv6Addr>> {
        self.v6.as_ref().and_then(OwnAddress::known)
    }
}

impl<A: Copy + Into<IpAddr>> OwnAddress<A> {
    fn new(public: A, bind: Option<A>) -> Self {
        let bind = bind.filter(|bind| !(*bind).into().is_unspecified());
        let local = bind.or_else(|| is_own(public.into()).then_some(public));
        Self { public, local, is_fixed: local.is_some() }
    }

    fn known(&self) -> Option<Addresses<A>> {
        Some(Addresses { local: self.local?, public: self.public })
    }
}

/// The address of this machine that datagrams for `public` would come from: itself if it is this machine's, else, where a
/// router translates, that of the interface towards it.
fn sends_from(public: IpAddr) -> Option<IpAddr> {
    let any: SocketAddr = if public.is_ipv4() { ([0; 4], 0).into() } else { ([0; 16], 0).into() };
    let socket = UdpSocket::bind(any).ok()?;
    // Sends nothing.
    socket.connect((public, 9)).ok()?;
    socket.local_addr().ok().map(|local| local.ip())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_of_this_machine_is_its_own_source() {
        let loopback = IpAddr::from([127, 0, 0, 1]);
        assert_eq!(sends_from(loopback), Some(loopback));
    }
}
