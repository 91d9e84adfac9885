//! What a policy allows, and resources as peers see them.

use std::collections::BTreeMap;

use connlib_portal_api::ResourceId;
use connlib_portal_api::messages::{client, gateway};
use uuid::Uuid;

use crate::policy::{Policy, Resource, Rule, Target};

/// A session of a client, as far as it bounds what a policy allows. Unix seconds.
#[derive(Debug, Clone, Copy)]
pub(super) struct Session {
    pub(super) started_at: u64,
    pub(super) token_expires_at: Option<u64>,
}

/// A policy's permission.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Grant {
    /// The policy.
    pub(super) policy: Uuid,
    /// Until when, in unix seconds; `None`: for good.
    pub(super) expires_at: Option<u64>,
}

/// The permission that lasts longest, if there is any.
pub(super) fn grant(
    policy: &Policy,
    client: Uuid,
    resource: ResourceId,
    session: Session,
    now: u64,
) -> Option<Grant> {
    rules(policy, client, now)
        .filter(|rule| rule.resources.contains(&resource))
        .map(|rule| {
            let session_end = rule.max_session.map(|max| session.started_at.saturating_add(max));
            let ends = [rule.expires, session_end, session.token_expires_at];
            Grant { policy: rule.id, expires_at: ends.into_iter().flatten().min() }
        })
        .filter(|grant| grant.expires_at.is_none_or(|at| at > now))
        // The first of equals, so that the choice is stable.
        .reduce(|best, grant| if later(grant.expires_at, best.expires_at) { grant } else { best })
}

fn later(a: Option<u64>, b: Option<u64>) -> bool {
    a.unwrap_or(u64::MAX) > b.unwrap_or(u64::MAX)
}

/// All that a client may ask for now, as the client sees it.
pub(super) fn resources(
    policy: &Policy,
    client: Uuid,
    now: u64,
) -> BTreeMap<ResourceId, client::Resource> {
    rules(policy, client, now)
        .flat_map(|rule| &rule.resources)
        .filter_map(|id| policy.resources.get(id))
        .map(|resource| (resource.id, for_client(policy, resource)))
        .collect()
}

/// The next moment at which a policy ends by itself, in unix seconds.
pub(super) fn next_expiry(policy: &Policy, now: u64) -> Option<u64> {
    policy.rules.values().filter_map(|rule| rule.expires).filter(|at| *at > now).min()
}

fn rules(policy: &Policy, client: Uuid, now: u64) -> impl Iterator<Item = &Rule> {
    policy
        .rules
        .values()
        .filter(move |rule| rule.clients.contains(&client))
        .filter(move |rule| rule.expires.is_none_or(|at| at > now))
}

fn for_client(policy: &Policy, resource: &Resource) -> client::Resource {
    let sites = resource
        .sites
        .iter()
        .filter_map(|id| policy.sites.get(id))
        .map(|site| client::Site { id: site.id, name: site.name.clone() })
        .collect();
    let (id, name) = (resource.id, resource.name.clone());
    let address_description = resource.description.clone();
    let filters = resource.filters.clone();
    match &resource.target {
        Target::Cidr(address) => client::Resource::Cidr(client::CidrResource {
            id,
            name,
            address: *address,
            address_description,
            sites,
            filters,
        }),
        Target::Dns { pattern, ip_stack } => client::Resource::Dns(client::DnsResource {
            id,
            name,
            address: pattern.clone(),
            address_description,
            ip_stack: *ip_stack,
            sites,
            filters,
        }),
        Target::Internet => client::Resource::Internet(client::InternetResource {
            id,
            name,
            sites,
            can_be_disabled: Some(true),
        }),
    }
}

/// A resource as a gateway sees it.
pub(super) fn for_gateway(resource: &Resource) -> gateway::Resource {
    let (id, name, filters) = (resource.id, resource.name.clone(), resource.filters.clone());
    match &resource.target {
        Target::Cidr(address) => {
            gateway::Resource::Cidr(gateway::CidrResource { id, name, address: *address, filters })
        }
        Target::Dns { pattern, .. } => gateway::Resource::Dns(gateway::DnsResource {
            id,
            name,
            address: pattern.clone(),
            filters,
        }),
        Target::Internet => gateway::Resource::Internet(gateway::InternetResource { id }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const POLICY: &str = r#"
[[site]]
name = "hq"
[[client]]
name = "alice"
[[resource]]
name = "net"
type = "cidr"
address = "10.0.0.0/8"
sites = ["hq"]
[[policy]]
name = "short"
clients = ["alice"]
resources = ["net"]
max_session = "100s"
[[policy]]
name = "until 1000"
clients = ["alice"]
resources = ["net"]
expires = 1970-01-01T00:16:40Z
"#;

    fn expiry(started_at: u64, token_expires_at: Option<u64>, now: u64) -> Option<Option<u64>> {
        let (policy, _) = crate::policy::parse(POLICY).unwrap();
        let client = policy.client_by_name("alice").unwrap().id;
        let resource = *policy.resources.keys().next().unwrap();
        let session = Session { started_at, token_expires_at };
        grant(&policy, client, resource, session, now).map(|grant| grant.expires_at)
    }

    #[test]
    fn the_longest_permission_counts_and_the_token_bounds_it() {
        assert_eq!(expiry(10, None, 10), Some(Some(1000)));
        assert_eq!(expiry(950, None, 950), Some(Some(1050)));
        assert_eq!(expiry(10, Some(500), 10), Some(Some(500)));
        assert_eq!(expiry(10, Some(500), 500), None);
        // Both have ended: one by its date, one as the session is too old.
        assert_eq!(expiry(10, None, 1000), None);
        assert_eq!(expiry(1000, None, 1000), Some(Some(1100)));
    }

    #[test]
    fn an_expired_policy_shows_no_resource() {
        let text = POLICY.replace("max_session = \"100s\"", "expires = 1970-01-01T00:00:50Z");
        let (policy, _) = crate::policy::parse(&text).unwrap();
        let client = policy.client_by_name("alice").unwrap().id;
        assert_eq!(resources(&policy, client, 999).len(), 1);
        assert_eq!(resources(&policy, client, 1000).len(), 0);
        assert_eq!(next_expiry(&policy, 0), Some(50));
        assert_eq!(next_expiry(&policy, 50), Some(1000));
        assert_eq!(next_expiry(&policy, 1000), None);
    }
}
