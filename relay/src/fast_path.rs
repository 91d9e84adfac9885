//! Where channels bypass the workers: the XDP program, if it runs.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result};
use connlib_relay::server::{ChannelBinding, Families, Traffic};
use connlib_relay_xdp::{
    self as xdp, AttachError, Binding, Config, Counters, Family, Framing, MapError, Maps, Mode,
    PATHS, Pass, Preference, Xdp,
};

use crate::options::{AddressOptions, FastPathOptions};

/// How long an interface may be there before the program is.
const PERIOD: Duration = Duration::from_secs(2);

/// A way for channel data below the sockets. Clones share it: every worker has one.
///
/// What it does not take comes to the workers, so that it may lack an entry or not be there at all.
#[derive(Debug, Clone, Default)]
pub(crate) struct FastPath(Option<Arc<Shared>>);

#[derive(Debug)]
struct Shared {
    /// Held while the program is told something: that is rare. Nothing if it cannot be loaded.
    maps: Option<Mutex<Maps>>,
    interfaces: Mutex<Vec<Interface>>,
}

/// An interface, and how the program is attached there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Interface {
    pub(crate) name: String,
    pub(crate) mode: Option<Mode>,
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
    /// Attaches the program as the options say and as far as the interfaces are there. Who has the keeper sees to it that it
    /// stays so. Without the program, all goes through the workers.
    pub(crate) fn start(
        options: &FastPathOptions,
        addresses: &AddressOptions,
    ) -> (Self, Option<Keeper>) {
        if options.xdp_interface.is_empty() || options.xdp == Preference::Off {
            return (Self::default(), None);
        }
        let own = OwnAddresses::new(addresses);
        let loaded = Xdp::load(&Config {
            interfaces: options.xdp_interface.clone(),
            preference: options.xdp,
            listen_port: addresses.listen_port.get(),
            v4: own.v4(),
            v6: own.v6(),
        });
        let (xdp, maps) = match loaded {
            Ok(loaded) => loaded,
            Err(error) => {
                let error = &error as &dyn std::error::Error;
                tracing::warn!(error, "the XDP program does not run: relaying in user space");
                let names = options.xdp_interface.iter().cloned();
                let interfaces = names.map(|name| Interface { name, mode: None }).collect();
                let shared = Shared { maps: None, interfaces: Mutex::new(interfaces) };
                return (Self(Some(Arc::new(shared))), None);
            }
        };
        let shared =
            Arc::new(Shared { maps: Some(Mutex::new(maps)), interfaces: Mutex::default() });
        let mut keeper = Keeper { xdp, shared: Arc::clone(&shared), own };
        keeper.tend();
        (Self(Some(shared)), Some(keeper))
    }

    /// The interfaces that channels are to be relayed on.
    pub(crate) fn interfaces(&self) -> Vec<Interface> {
        self.0.as_ref().map_or_else(Vec::new, |shared| lock(&shared.interfaces).clone())
    }

    /// This port is an allocation's from now on.
    pub(crate) fn add_port(&self, port: u16, families: Families) {
        self.tell(|maps| each(families).try_for_each(|family| maps.add_port(port, family)));
    }

    /// This port is nobody's any more.
    pub(crate) fn remove_port(&self, port: u16, families: Families) {
        self.tell(|maps| each(families).try_for_each(|family| maps.remove_port(port, family)));
    }

    /// This channel stands from now on.
    pub(crate) fn bind(&self, binding: &ChannelBinding) {
        if let Some(binding) = over_udp(binding) {
            self.tell(|maps| maps.insert_channel(&binding));
        }
    }

    /// This channel is gone.
    pub(crate) fn unbind(&self, binding: &ChannelBinding) {
        if let Some(binding) = over_udp(binding) {
            self.tell(|maps| maps.remove_channel(&binding));
        }
    }

    pub(crate) fn counters(&self) -> FastPathCounters {
        let mut counters = FastPathCounters::default();
        self.tell(|maps| maps.counters().map(|counted| counters = sum_up(&counted)));
        counters
    }

    fn tell(&self, what: impl FnOnce(&mut Maps) -> Result<(), MapError>) {
        if let Some(shared) = &self.0 {
            shared.tell(what);
        }
    }
}

impl Shared {
    fn tell(&self, what: impl FnOnce(&mut Maps) -> Result<(), MapError>) {
        let Some(maps) = &self.maps else { return };
        if let Err(error) = what(&mut lock(maps)) {
            let error = &error as &dyn std::error::Error;
            tracing::debug!(error, "the XDP program leaves something to user space");
        }
    }
}

/// Sees to it that the program is where it should be, as interfaces go and come.
#[derive(Debug)]
pub(crate) struct Keeper {
    xdp: Xdp,
    shared: Arc<Shared>,
    own: OwnAddresses,
}

impl Keeper {
    /// Goes on with it until the process ends.
    ///
    /// # Errors
    /// If there can be no thread for it.
    pub(crate) fn spawn(mut self) -> Result<()> {
        let keep = move || {
            loop {
                std::thread::sleep(PERIOD);
                self.tend();
            }
        };
        let thread = std::thread::Builder::new().name("relay-xdp".to_owned()).spawn(keep);
        thread.map(drop).context("cannot start a thread")
    }

    fn tend(&mut self) {
        self.own.find();
        self.shared.tell(|maps| maps.set_addresses(self.own.v4(), self.own.v6()));
        let result = self.xdp.tend();
        let interfaces: Vec<Interface> = self
            .xdp
            .modes()
            .map(|(name, mode)| Interface { name: name.to_owned(), mode })
            .collect();
        report(&interfaces, result);
        *lock(&self.shared.interfaces) = interfaces;
    }
}

/// Says what has become of it, if that is new.
fn report(interfaces: &[Interface], result: Result<bool, AttachError>) {
    let (attached, missing): (Vec<_>, Vec<_>) =
        interfaces.iter().partition(|interface| interface.mode.is_some());
    let names = |interfaces: Vec<&Interface>| -> Vec<String> {
        interfaces.into_iter().map(|interface| interface.name.clone()).collect()
    };
    match (result, attached.first().and_then(|interface| interface.mode)) {
        (Ok(false), _) => {}
        (Ok(true), Some(mode)) => {
            let (interfaces, missing) = (names(attached), names(missing));
            tracing::info!(%mode, ?interfaces, ?missing, "relaying channels in the kernel");
        }
        (Ok(true), None) => tracing::info!("no XDP program is attached: relaying in user space"),
        (Err(error @ AttachError::NoInterface(_)), _) => {
            tracing::info!(%error, "no XDP program is attached: relaying in user space");
        }
        (Err(error), _) => {
            let error = &error as &dyn std::error::Error;
            tracing::warn!(error, "the XDP program does not run: relaying in user space");
        }
    }
}

/// The relay's addresses, as far as they are known. Where the public one is a router's, the one of this machine depends on
/// the interfaces that are there.
#[derive(Debug)]
struct OwnAddresses {
    public_v4: Option<Ipv4Addr>,
    public_v6: Option<Ipv6Addr>,
    bind_v4: Option<Ipv4Addr>,
    bind_v6: Option<Ipv6Addr>,
    local_v4: Option<Ipv4Addr>,
    local_v6: Option<Ipv6Addr>,
}

impl OwnAddresses {
    fn new(options: &AddressOptions) -> Self {
        let mut own = Self {
            public_v4: options.public_ip4_addr,
            public_v6: options.public_ip6_addr,
            bind_v4: options.bind_ip4_addr,
            bind_v6: options.bind_ip6_addr,
            local_v4: None,
            local_v6: None,
        };
        own.find();
        own
    }

    /// Looks for those of this machine. The last ones stay where nothing leads to the internet.
    fn find(&mut self) {
        if let Some(public) = self.public_v4 {
            let found = self.bind_v4.or_else(|| match sends_from(public.into()) {
                Some(IpAddr::V4(local)) => Some(local),
                _ => None,
            });
            self.local_v4 = found.or(self.local_v4);
        }
        if let Some(public) = self.public_v6 {
            let found = self.bind_v6.or_else(|| match sends_from(public.into()) {
                Some(IpAddr::V6(local)) => Some(local),
                _ => None,
            });
            self.local_v6 = found.or(self.local_v6);
        }
    }

    fn v4(&self) -> Option<xdp::Addresses<Ipv4Addr>> {
        Some(xdp::Addresses { local: self.local_v4?, public: self.public_v4? })
    }

    fn v6(&self) -> Option<xdp::Addresses<Ipv6Addr>> {
        Some(xdp::Addresses { local: self.local_v6?, public: self.public_v6? })
    }
}

fn lock<T>(shared: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
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
