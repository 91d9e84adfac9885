//! Where channels bypass the workers: the XDP program, if it runs.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::{Arc, Mutex, PoisonError};

use connlib_relay::server::{ChannelBinding, Families, Traffic};
use connlib_relay_xdp::{
    Addresses, AttachError, Binding, Config, Counters, Family, Framing, MapError, Mode, PATHS,
    Pass, Preference, Xdp,
};

use crate::options::{AddressOptions, FastPathOptions};

/// A way for channel data below the sockets. Clones share it: every worker has one.
///
/// What it does not take comes to the workers, so that it may lack an entry or not be there at all.
#[derive(Debug, Clone, Default)]
pub(crate) struct FastPath(Option<Arc<Attached>>);

#[derive(Debug)]
struct Attached {
    mode: Mode,
    /// Held while the program is told something: that is rare.
    xdp: Mutex<Xdp>,
}

/// What took the fast path since the start.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct FastPathCounters {
    pub(crate) to_peers: Traffic,
    pub(crate) to_clients: Traffic,
    /// What was left to the workers, by reason.
    pub(crate) passed: Vec<(Pass, u64)>,
}

impl FastPath {
    /// Attaches the program as the options say. Without it, all goes through the workers.
    pub(crate) fn attach(options: &FastPathOptions, addresses: &AddressOptions) -> Self {
        if options.xdp_interface.is_empty() || options.xdp == Preference::Off {
            return Self::default();
        }
        let attached = config(options, addresses).and_then(|config| Xdp::attach(&config));
        match attached {
            Ok((xdp, mode)) => {
                tracing::info!(%mode, interfaces = ?options.xdp_interface, "relaying channels in the kernel");
                Self(Some(Arc::new(Attached { mode, xdp: Mutex::new(xdp) })))
            }
            Err(error) => {
                let error = &error as &dyn std::error::Error;
                tracing::warn!(error, "the XDP program does not run: relaying in user space");
                Self::default()
            }
        }
    }

    /// How the program is attached, if it is.
    pub(crate) fn mode(&self) -> Option<Mode> {
        self.0.as_ref().map(|attached| attached.mode)
    }

    /// Whether sockets may have the kernel join datagrams: not where the program would see them joined.
    pub(crate) fn allows_joining(&self) -> bool {
        self.mode() != Some(Mode::Generic)
    }

    /// This port is an allocation's from now on.
    pub(crate) fn add_port(&self, port: u16, families: Families) {
        self.tell(|xdp| each(families).try_for_each(|family| xdp.add_port(port, family)));
    }

    /// This port is nobody's any more.
    pub(crate) fn remove_port(&self, port: u16, families: Families) {
        self.tell(|xdp| each(families).try_for_each(|family| xdp.remove_port(port, family)));
    }

    /// This channel stands from now on.
    pub(crate) fn bind(&self, binding: &ChannelBinding) {
        if let Some(binding) = over_udp(binding) {
            self.tell(|xdp| xdp.insert_channel(&binding));
        }
    }

    /// This channel is gone.
    pub(crate) fn unbind(&self, binding: &ChannelBinding) {
        if let Some(binding) = over_udp(binding) {
            self.tell(|xdp| xdp.remove_channel(&binding));
        }
    }

    pub(crate) fn counters(&self) -> FastPathCounters {
        let mut counters = FastPathCounters::default();
        self.tell(|xdp| xdp.counters().map(|counted| counters = sum_up(&counted)));
        counters
    }

    fn tell(&self, what: impl FnOnce(&mut Xdp) -> Result<(), MapError>) {
        let Some(attached) = &self.0 else { return };
        let mut xdp = attached.xdp.lock().unwrap_or_else(PoisonError::into_inner);
        if let Err(error) = what(&mut xdp) {
            let error = &error as &dyn std::error::Error;
            tracing::debug!(error, "the XDP program leaves something to user space");
        }
    }
}

fn config(options: &FastPathOptions, addresses: &AddressOptions) -> Result<Config, AttachError> {
    let AddressOptions { public_ip4_addr, public_ip6_addr, bind_ip4_addr, bind_ip6_addr, .. } =
        addresses;
    let v4 = public_ip4_addr.and_then(|public| {
        let local = bind_ip4_addr.or_else(|| match sends_from(public.into()) {
            Some(IpAddr::V4(local)) => Some(local),
            _ => None,
        });
        Some(Addresses { local: local?, public })
    });
    let v6 = public_ip6_addr.and_then(|public| {
        let local = bind_ip6_addr.or_else(|| match sends_from(public.into()) {
            Some(IpAddr::V6(local)) => Some(local),
            _ => None,
        });
        Some(Addresses { local: local?, public })
    });
    Ok(Config {
        interfaces: options.xdp_interface.clone(),
        preference: options.xdp,
        listen_port: addresses.listen_port.get(),
        v4,
        v6,
    })
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

fn each(families: Families) -> impl Iterator<Item = Family> {
    let v4 = families.ip4.then_some(Family::V4);
    v4.into_iter().chain(families.ip6.then_some(Family::V6))
}

/// The program knows clients over UDP only.
fn over_udp(binding: &ChannelBinding) -> Option<Binding> {
    let ChannelBinding { client, channel, port, peer, .. } = *binding;
    let binding = Binding { client: client.remote, channel, allocation_port: port, peer };
    (!client.transport.is_stream()).then_some(binding)
}

fn sum_up(counted: &Counters) -> FastPathCounters {
    let mut counters = FastPathCounters::default();
    for path in PATHS {
        let count = counted.relayed(path);
        // From one client of ours to another it is both, as it is in user space.
        for (traffic, is_it) in [
            (&mut counters.to_peers, path.from.framing == Framing::Channel),
            (&mut counters.to_clients, path.to.framing == Framing::Channel),
        ] {
            if is_it {
                traffic.packets += count.packets;
                traffic.bytes += count.bytes;
            }
        }
    }
    counters.passed = Pass::ALL.map(|reason| (reason, counted.passed(reason))).into();
    counters
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
