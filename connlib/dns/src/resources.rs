//! The DNS resources, found by name.

use std::cmp::Reverse;
use std::collections::HashMap;

use uuid::Uuid;

use crate::name::Name;
use crate::pattern::Pattern;

/// Address families that apps may use to reach a resource.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum IpStack {
    /// Both.
    #[default]
    Dual,
    /// A queries get addresses, AAAA queries get an empty answer.
    Ipv4Only,
    /// AAAA queries get addresses, A queries get an empty answer.
    Ipv6Only,
}

impl IpStack {
    pub(crate) fn has_v4(self) -> bool {
        self != Self::Ipv6Only
    }

    pub(crate) fn has_v6(self) -> bool {
        self != Self::Ipv4Only
    }
}

/// A DNS resource, as far as DNS is concerned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resource {
    /// Its id at the portal.
    pub id: Uuid,
    /// The names that it covers.
    pub pattern: Pattern,
    /// The address families that it has.
    pub ip_stack: IpStack,
}

/// All resources, indexed by the part of their patterns that has no wildcards.
///
/// A look-up only meets patterns whose literal labels at the end are those of the name: few, but
/// for patterns that differ in a label which is partly a wildcard (`a-*.corp`, `b-*.corp`).
#[derive(Clone, Debug, Default)]
pub(crate) struct Resources {
    by_id: HashMap<Uuid, Resource>,
    by_tail: HashMap<Box<str>, Vec<Uuid>>,
}

impl Resources {
    /// Adds or replaces a resource; false if it is there already, just like this.
    pub(crate) fn upsert(&mut self, resource: Resource) -> bool {
        if self.by_id.get(&resource.id) == Some(&resource) {
            return false;
        }
        self.remove(resource.id);
        self.by_tail.entry(resource.pattern.literal_tail().into()).or_default().push(resource.id);
        self.by_id.insert(resource.id, resource);
        true
    }

    /// Removes a resource; false if there is none with this id.
    pub(crate) fn remove(&mut self, id: Uuid) -> bool {
        let Some(resource) = self.by_id.remove(&id) else { return false };
        let tail = resource.pattern.literal_tail();
        if let Some(ids) = self.by_tail.get_mut(tail) {
            ids.retain(|other| *other != id);
            if ids.is_empty() {
                self.by_tail.remove(tail);
            }
        }
        true
    }

    pub(crate) fn find(&self, id: Uuid) -> Option<&Resource> {
        self.by_id.get(&id)
    }

    /// The resources that cover the name: the most specific pattern first, then the greatest id.
    pub(crate) fn matching(&self, name: &Name) -> Vec<&Resource> {
        let mut found: Vec<_> =
            self.candidates(name).filter(|resource| resource.pattern.matches(name)).collect();
        found.sort_by(|a, b| (&a.pattern, Reverse(a.id)).cmp(&(&b.pattern, Reverse(b.id))));
        found
    }

    fn candidates(&self, name: &Name) -> impl Iterator<Item = &Resource> {
        name.suffixes()
            .chain([""])
            .filter_map(|tail| self.by_tail.get(tail))
            .flatten()
            .filter_map(|id| self.by_id.get(id))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resource(id: u128, pattern: &str) -> Resource {
        let id = Uuid::from_u128(id);
        Resource { id, pattern: pattern.parse().unwrap(), ip_stack: IpStack::Dual }
    }

    fn ids(resources: &Resources, name: &str) -> Vec<u128> {
        let name = name.parse().unwrap();
        resources.matching(&name).iter().map(|r| r.id.as_u128()).collect()
    }

    #[test]
    fn finds_the_most_specific_pattern_first_then_the_greatest_id() {
        let mut resources = Resources::default();
        for (id, pattern) in [
            (1, "**"),
            (2, "*.com"),
            (3, "*ample.com"),
            (4, "**.example.com"),
            (5, "*.example.com"),
            (6, "?.example.com"),
            (7, "a.example.com"),
            (8, "a.example.com"),
            (9, "b.example.com"),
            (10, "*.b.*.com"),
        ] {
            assert!(resources.upsert(resource(id, pattern)));
        }
        assert_eq!(ids(&resources, "a.example.com"), [8, 7, 6, 5, 4, 1]);
        assert_eq!(ids(&resources, "example.com"), [5, 4, 3, 2, 1]);
        assert_eq!(ids(&resources, "a.b.example.com"), [4, 10, 1]);
        assert_eq!(ids(&resources, "org"), [1]);
    }

    #[test]
    fn changes_take_effect_once() {
        let mut resources = Resources::default();
        assert!(resources.upsert(resource(1, "a.example.com")));
        assert!(!resources.upsert(resource(1, "A.example.com.")), "the same once more");
        assert!(resources.upsert(resource(1, "*.example.org")));
        assert_eq!(ids(&resources, "a.example.com"), []);
        assert_eq!(ids(&resources, "a.example.org"), [1]);
        assert!(resources.remove(Uuid::from_u128(1)));
        assert!(!resources.remove(Uuid::from_u128(1)));
        assert_eq!(ids(&resources, "a.example.org"), []);
        assert!(resources.by_tail.is_empty(), "nothing stays behind");
    }

    #[test]
    fn the_index_misses_nothing() {
        let mut labels = ["a", "b", "*", "**", "?", "a*"].iter().cycle();
        let mut resources = Resources::default();
        for id in 0..400u128 {
            // Steps of 1 to 5 through the labels make all kinds of combinations.
            let pattern: Vec<_> = (0..1 + id as usize % 4)
                .filter_map(|i| labels.nth((id as usize / 7 + i) % 5))
                .copied()
                .collect();
            resources.upsert(resource(id, &pattern.join(".")));
        }
        for name in ["a", "b", "c", "a.b", "b.a", "ab.a", "a.b.a", "b.b.b.b", "c.a.b.a.b"] {
            let parsed: Name = name.parse().unwrap();
            let by_scan: Vec<_> =
                resources.by_id.values().filter(|r| r.pattern.matches(&parsed)).collect();
            assert_eq!(ids(&resources, name).len(), by_scan.len(), "{name}");
            assert!(!by_scan.is_empty());
        }
    }

    #[test]
    fn a_lookup_does_not_scan_all_resources() {
        let mut resources = Resources::default();
        for n in 0..3_000 {
            resources.upsert(resource(3 * n, &format!("host{n}.example.com")));
            resources.upsert(resource(3 * n + 1, &format!("*.site{n}.example.com")));
            resources.upsert(resource(3 * n + 2, &format!("**.dept{n}.example.com")));
        }
        resources.upsert(resource(99_999, "*.example.com"));
        for (name, most) in [("host7.example.com", 2), ("a.site8.example.com", 2), ("x.org", 0)] {
            let name = name.parse().unwrap();
            let met = resources.candidates(&name).count();
            assert!(met <= most, "{met} candidates for {name}");
        }
    }
}
