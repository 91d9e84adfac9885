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

#[cfg(test)]
mod tests {
    use super::super::packets::ip;
    use super::*;

    const ONE: ResourceId = ResourceId::from_u128(1);
    const TWO: ResourceId = ResourceId::from_u128(2);

    fn name(text: &str) -> Name {
        text.parse().unwrap()
    }

    /// The `index`th block of four and four proxy addresses.
    fn proxies(index: u16) -> Vec<IpAddr> {
        let numbers = index * 4..index * 4 + 4;
        let v4 = numbers.clone().map(|n| IpAddr::from([100, 96, (n >> 8) as u8, n as u8]));
        let v6 = numbers.map(|n| IpAddr::from([0xfd00, 0x2021, 0x1111, 0x8000, 0, 0, 0, n]));
        v4.chain(v6).collect()
    }

    fn ips(texts: &[&str]) -> Vec<IpAddr> {
        texts.iter().map(|text| ip(text)).collect()
    }

    fn reals(translations: &Translations, proxies: &[IpAddr]) -> Vec<String> {
        let real = |proxy: &IpAddr| translations.find(*proxy)?.real();
        let text = |proxy| real(proxy).map_or("-".to_owned(), |real| real.to_string());
        proxies.iter().map(text).collect()
    }

    #[test]
    fn each_family_stands_for_its_own_in_turn() {
        for (resolved, expected) in [
            (&["10.0.0.1"][..], "10.0.0.1 10.0.0.1 10.0.0.1 10.0.0.1 - - - -"),
            (&["10.0.0.1", "10.0.0.2"], "10.0.0.1 10.0.0.2 10.0.0.1 10.0.0.2 - - - -"),
            (&["fd01::1"], "- - - - fd01::1 fd01::1 fd01::1 fd01::1"),
            (
                &["10.0.0.1", "fd01::1", "fd01::2", "fd01::3"],
                "10.0.0.1 10.0.0.1 10.0.0.1 10.0.0.1 fd01::1 fd01::2 fd01::3 fd01::1",
            ),
            (&[], "- - - - - - - -"),
        ] {
            let mut translations = Translations::new();
            let proxies = proxies(0);
            translations.install(ONE, &name("a.test"), &proxies, &ips(resolved));
            assert_eq!(reals(&translations, &proxies).join(" "), expected);
        }
    }

    #[test]
    fn a_later_resolution_replaces_an_earlier_one() {
        let mut translations = Translations::new();
        let proxies = proxies(0);
        for real in ["10.0.0.1", "10.0.0.2"] {
            let installed = translations.install(ONE, &name("a.test"), &proxies, &ips(&[real]));
            assert_eq!(installed, Installed::Added);
            assert_eq!(reals(&translations, &proxies[..1]), [real]);
        }
    }

    #[test]
    fn resources_that_share_a_name_share_its_addresses() {
        let mut translations = Translations::new();
        let proxies = proxies(0);
        translations.install(ONE, &name("a.test"), &proxies[..4], &[]);
        translations.install(TWO, &name("a.test"), &proxies, &[]);
        translations.install(TWO, &name("a.test"), &proxies, &[]);
        assert_eq!(translations.find(proxies[0]).unwrap().resources(), [ONE, TWO]);
        // The first one has no IPv6.
        assert_eq!(translations.find(proxies[4]).unwrap().resources(), [TWO]);
    }

    #[test]
    fn a_client_that_numbers_anew_starts_from_nothing() {
        let mut translations = Translations::new();
        translations.install(ONE, &name("a.test"), &proxies(0), &[]);
        translations.install(ONE, &name("b.test"), &proxies(1), &[]);
        let installed = translations.install(ONE, &name("b.test"), &proxies(0), &[]);
        assert_eq!(installed, Installed::Renumbered);
        assert!(translations.find(proxies(1)[0]).is_none());
        assert!(translations.find(proxies(0)[0]).is_some());

        let installed = translations.install(ONE, &name("b.test"), &proxies(2), &[]);
        assert_eq!(installed, Installed::Renumbered, "other addresses for a known name");
        assert!(translations.find(proxies(0)[0]).is_none());
    }

    #[test]
    fn the_name_announced_longest_ago_goes_first() {
        let mut translations = Translations::new();
        let max = MAX_NAMES.get() as u16;
        let announce = |translations: &mut Translations, index| {
            translations.install(ONE, &name(&format!("{index}.test")), &proxies(index), &[])
        };
        for index in 0..max {
            announce(&mut translations, index);
        }
        announce(&mut translations, 0);
        announce(&mut translations, max);
        assert!(translations.find(proxies(0)[0]).is_some());
        assert!(translations.find(proxies(1)[0]).is_none());
        assert!(translations.find(proxies(max)[7]).is_some());
        assert_eq!(translations.by_address.len(), 8 * MAX_NAMES.get());
    }
}
