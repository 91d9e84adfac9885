//! What the proxy addresses of one client stand for.

use std::collections::HashMap;
use std::net::IpAddr;
use std::num::NonZeroUsize;

use connlib_dns::Name;
use lru::LruCache;

use crate::ids::ResourceId;

/// Names of one client; the one that was announced longest ago goes first.
pub(super) const MAX_NAMES: NonZeroUsize = NonZeroUsize::new(4096).expect("not zero");

/// Proxy addresses of one name: four of each family.
const MAX_PROXIES: usize = 8;

/// Proxy addresses of one client, by name and by address.
#[derive(Debug)]
pub(super) struct Translations {
    /// INVARIANT: each name's addresses, and no others, are in `by_address`; there are at most [`MAX_PROXIES`].
    names: LruCache<Name, Vec<IpAddr>>,
    by_address: HashMap<IpAddr, Translation>,
}

/// What one proxy address stands for.
#[derive(Debug)]
pub(super) struct Translation {
    name: Name,
    resources: Vec<ResourceId>,
    real: Option<IpAddr>,
}

/// What [`Translations::install`] found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Installed {
    /// The addresses were free, or stood for this name already.
    Added,
    /// An address stood for another name, or the name for others: the client has lost its memory and numbers its names
    /// anew. Everything that it announced before is forgotten, and its sessions must be as well.
    Renumbered,
}

impl Translations {
    pub(super) fn new() -> Self {
        Self { names: LruCache::new(MAX_NAMES), by_address: HashMap::new() }
    }

    /// What a proxy address stands for, if it was announced.
    pub(super) fn find(&self, proxy: IpAddr) -> Option<&Translation> {
        self.by_address.get(&proxy)
    }

    /// Lets `proxies`, all different, stand for the addresses of `name`, each family for its own, in turn.
    pub(super) fn install(
        &mut self,
        resource: ResourceId,
        name: &Name,
        proxies: &[IpAddr],
        resolved: &[IpAddr],
    ) -> Installed {
        let installed = match self.contradicts(name, proxies) {
            true => {
                *self = Self::new();
                Installed::Renumbered
            }
            false => Installed::Added,
        };
        self.note_name(name, proxies);
        let (mut v4, mut v6) =
            (family(resolved, IpAddr::is_ipv4), family(resolved, IpAddr::is_ipv6));
        for proxy in proxies {
            let real = if proxy.is_ipv4() { v4.next() } else { v6.next() };
            let translation = self.by_address.entry(*proxy).or_insert_with(|| Translation {
                name: name.clone(),
                resources: Vec::new(),
                real: None,
            });
            translation.real = real;
            if !translation.resources.contains(&resource) {
                translation.resources.push(resource);
            }
        }
        installed
    }

    fn contradicts(&self, name: &Name, proxies: &[IpAddr]) -> bool {
        let is_new = |proxy: &&IpAddr| !self.by_address.contains_key(*proxy);
        let known = self.names.peek(name).map_or(0, Vec::len);
        known + proxies.iter().filter(is_new).count() > MAX_PROXIES
            || proxies.iter().filter_map(|proxy| self.find(*proxy)).any(|other| other.name != *name)
    }

    fn note_name(&mut self, name: &Name, proxies: &[IpAddr]) {
        if let Some(known) = self.names.get_mut(name) {
            known.extend(proxies.iter().filter(|proxy| !self.by_address.contains_key(*proxy)));
        } else if let Some((_, forgotten)) = self.names.push(name.clone(), proxies.to_vec()) {
            for proxy in forgotten {
                self.by_address.remove(&proxy);
            }
        }
    }
}

impl Translation {
    /// The resources whose names include the one behind this address.
    pub(super) fn resources(&self) -> &[ResourceId] {
        &self.resources
    }

    /// The address behind it, if the name has one of this family.
    pub(super) fn real(&self) -> Option<IpAddr> {
        self.real
    }
}

/// The addresses of one family over and over.
fn family(resolved: &[IpAddr], of: fn(&IpAddr) -> bool) -> impl Iterator<Item = IpAddr> {
    resolved.iter().copied().filter(of).cycle()
}
