//! Where channels bypass the workers: the XDP program, if it runs.

mod keeper;
mod own_addresses;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use connlib_relay::server::{ChannelBinding, Families, Traffic};
use connlib_relay_xdp::{
    Binding, Config, Counters, Family, Framing, MapError, Maps, Mode, PATHS, Pass, Preference, Xdp,
};

use self::keeper::Keeper;
use self::own_addresses::OwnAddresses;
use crate::options::{AddressOptions, FastPathOptions};

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
        let keeper = Keeper::start(xdp, Arc::clone(&shared), own);
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
        self.tell_end(|maps| each(families).try_for_each(|family| maps.remove_port(port, family)));
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
            self.tell_end(|maps| maps.remove_channel(&binding));
        }
    }

    pub(crate) fn counters(&self) -> FastPathCounters {
        let mut counters = FastPathCounters::default();
        self.tell(|maps| maps.counters().map(|counted| counters = sum_up(&counted)));
        counters
    }

    fn tell(&self, what: impl FnOnce(&mut Maps) -> Result<(), MapError>) {
        if let Err(error) = self.0.as_ref().map_or(Ok(()), |shared| shared.tell(what)) {
            let error = &error as &dyn std::error::Error;
            tracing::debug!(error, "the XDP program leaves something to user space");
        }
    }

    /// The same about something that must not be relayed any more.
    fn tell_end(&self, what: impl FnOnce(&mut Maps) -> Result<(), MapError>) {
        if let Err(error) = self.0.as_ref().map_or(Ok(()), |shared| shared.tell(what)) {
            let error = &error as &dyn std::error::Error;
            tracing::warn!(error, "the XDP program may go on relaying what has ended");
        }
    }
}

impl Shared {
    fn tell(&self, what: impl FnOnce(&mut Maps) -> Result<(), MapError>) -> Result<(), MapError> {
        self.maps.as_ref().map_or(Ok(()), |maps| what(&mut lock(maps)))
    }
}

fn lock<T>(shared: &Mutex<T>) -> MutexGuard<'_, T> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
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
