//! From the text of a policy file to a checked [`Policy`], or to everything that is wrong with it.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::ops::Range;

use connlib_portal_api::messages::client::IpStack;
use connlib_portal_api::{GatewayId, RelayId, ResourceId, Secret, SiteId};
use toml::Spanned;
use uuid::Uuid;

use super::diagnostic::{Diagnostic, Findings, Rejected};
use super::file::{self, Families, RelayType, ResourceType, Text};
use super::ids::{self, Kind};
use super::model::{
    Client, Dns, Gateway, Policy, Relay, RelayAccess, Resource, Rule, Site, Target,
};
use super::values;

/// The group that holds every client without being written down.
pub const EVERYONE: &str = "everyone";

/// Entries of one kind that a file may have.
const MAX_ENTRIES: usize = 10_000;
/// Upstream resolvers of one kind; more than a device would ever ask.
const MAX_RESOLVERS: usize = 8;
/// Devices of a client unless the file says otherwise.
const DEFAULT_MAX_DEVICES: u32 = 8;
/// Most devices that a client may be given.
const MAX_DEVICES: u32 = 1_000;

/// Parses and checks the text of a policy file as a whole.
///
/// # Errors
/// Everything that is wrong, with line and column. Syntax and unknown keys stop at the first.
pub fn parse(text: &str) -> Result<(Policy, Vec<Diagnostic>), Rejected> {
    let mut findings = Findings::new(text);
    let file: file::File = match toml::from_str(text) {
        Ok(file) => file,
        Err(error) => {
            findings.error(error.span().unwrap_or(0..0), error.message());
            // An error is in there: finish() can only refuse.
            return Err(findings.finish().err().unwrap_or(Rejected(Vec::new())));
        }
    };
    let policy = Checker { findings: &mut findings }.policy(&file);
    Ok((policy, findings.finish()?))
}

/// Named things of one kind, as other tables refer to them.
struct Names<Id> {
    kind: Kind,
    ids: HashMap<String, Id>,
}

struct Checker<'a, 'text> {
    findings: &'a mut Findings<'text>,
}

impl Checker<'_, '_> {
    fn policy(&mut self, file: &file::File) -> Policy {
        let account = match &file.account {
            None => "connlib".to_owned(),
            Some(slug) => self.slug(slug),
        };
        let site_names = self.names(Kind::Site, file.site.iter().map(|s| (&s.name, s.id.as_ref())));
        let gateway_names =
            self.names(Kind::Gateway, file.gateway.iter().map(|g| (&g.name, g.id.as_ref())));
        let client_names =
            self.names(Kind::Client, file.client.iter().map(|c| (&c.name, c.id.as_ref())));
        let resource_names =
            self.names(Kind::Resource, file.resource.iter().map(|r| (&r.name, r.id.as_ref())));
        let rule_names =
            self.names(Kind::Policy, file.policy.iter().map(|p| (&p.name, p.id.as_ref())));
        let relay_names =
            self.names(Kind::Relay, file.relay.iter().map(|r| (&r.name, r.id.as_ref())));
        let groups = self.groups(&file.group, &client_names);

        let policy = Policy {
            account_id: ids::derive(Kind::Account, &account),
            account,
            dns: self.dns(&file.dns),
            sites: site_names
                .ids
                .iter()
                .map(|(name, &id)| (id, Site { id, name: name.clone() }))
                .collect(),
            gateways: self.gateways(&file.gateway, &gateway_names, &site_names),
            clients: self.clients(&file.client, &client_names),
            resources: self.resources(&file.resource, &resource_names, &site_names),
            rules: self.rules(&file.policy, &rule_names, &client_names, &groups, &resource_names),
            relays: self.relays(&file.relay, &relay_names),
        };
        self.warn(file, &policy, &site_names, &resource_names);
        policy
    }

    fn slug(&mut self, slug: &Text) -> String {
        let text = slug.get_ref();
        let good = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '_' | '-');
        if text.is_empty() || text.len() > 64 || !text.chars().all(good) {
            self.findings.error(
                slug.span(),
                "an account is 1 to 64 of the characters a to z, 0 to 9, \"_\" and \"-\"",
            );
        }
        text.clone()
    }

    /// Checks the names and ids of one kind: well-formed, each but once.
    fn names<'f, Id: From<Uuid>>(
        &mut self,
        kind: Kind,
        entries: impl Iterator<Item = (&'f Text, Option<&'f Text>)>,
    ) -> Names<Id> {
        let word = kind.word();
        let mut ids = HashMap::new();
        let mut seen = HashSet::new();
        for (n, (name, id)) in entries.enumerate() {
            if n == MAX_ENTRIES {
                let message = format!("more than {MAX_ENTRIES} entries [[{word}]]");
                self.findings.error(name.span(), message);
                break;
            }
            self.name(kind.word(), name);
            let place = id.map_or_else(|| name.span(), Spanned::span);
            let id = match id {
                None => ids::derive(kind, name.get_ref()),
                Some(text) => match text.get_ref().parse() {
                    Ok(id) => id,
                    Err(_) => {
                        let message = format!("\"{}\" is not a UUID", text.get_ref());
                        self.findings.error(text.span(), message);
                        Uuid::nil()
                    }
                },
            };
            if ids.insert(name.get_ref().clone(), Id::from(id)).is_some() {
                let message = format!("a second {word} is named \"{}\"", name.get_ref());
                self.findings.error(name.span(), message);
            } else if !seen.insert(id) && !id.is_nil() {
                self.findings.error(place, format!("a second {word} has the id {id}"));
            }
        }
        Names { kind, ids }
    }

    fn name(&mut self, word: &str, name: &Text) {
        let text = name.get_ref();
        if text.trim() != text || text.is_empty() || text.chars().count() > 128 {
            let message =
                format!("the name of a {word} has 1 to 128 characters and no space at either end");
            self.findings.error(name.span(), message);
        } else if text.chars().any(char::is_control) {
            let message = format!("the name of a {word} holds a control character");
            self.findings.error(name.span(), message);
        }
    }

    /// Looks up a name that some table refers to.
    fn resolve<Id: Copy>(&mut self, names: &Names<Id>, name: &Text) -> Option<Id> {
        let found = names.ids.get(name.get_ref()).copied();
        if found.is_none() {
            self.unknown(names.kind.word(), names.ids.keys(), name);
        }
        found
    }

    fn unknown<'n>(&mut self, word: &str, known: impl Iterator<Item = &'n String>, name: &Text) {
        let mut known: Vec<_> = known.map(|name| format!("\"{name}\"")).collect();
        known.sort_unstable();
        let hint = match known.len() {
            0 => format!("; the file has no [[{word}]]"),
            1..=8 => format!("; there is {}", known.join(", ")),
            _ => String::new(),
        };
        let message = format!("no {word} is named \"{}\"{hint}", name.get_ref());
        self.findings.error(name.span(), message);
    }

    fn groups(
        &mut self,
        groups: &[file::Group],
        clients: &Names<Uuid>,
    ) -> BTreeMap<String, BTreeSet<Uuid>> {
        let mut all =
            BTreeMap::from([(EVERYONE.to_owned(), clients.ids.values().copied().collect())]);
        for group in groups {
            self.name("group", &group.name);
            let members =
                group.clients.iter().filter_map(|name| self.resolve(clients, name)).collect();
            let name = group.name.get_ref();
            if name == EVERYONE {
                self.findings
                    .error(group.name.span(), "\"everyone\" stands for all clients already");
            } else if all.insert(name.clone(), members).is_some() {
                let message = format!("a second group is named \"{name}\"");
                self.findings.error(group.name.span(), message);
            }
        }
        all
    }

    fn dns(&mut self, dns: &file::Dns) -> Dns {
        for list in [&dns.upstream_do53, &dns.upstream_doh] {
            if let Some(extra) = list.get(MAX_RESOLVERS) {
                self.findings.error(extra.span(), format!("more than {MAX_RESOLVERS} resolvers"));
            }
        }
        Dns {
            upstream_do53: self.each(&dns.upstream_do53, |text| {
                text.parse::<IpAddr>().map_err(|_| {
                    format!("\"{text}\" is not an IP address; resolvers are asked on port 53")
                })
            }),
            upstream_doh: self.each(&dns.upstream_doh, values::doh),
            search_domain: dns
                .search_domain
                .as_ref()
                .and_then(|domain| self.value(domain, values::domain)),
        }
    }

    fn value<T>(&mut self, text: &Text, parse: impl Fn(&str) -> Result<T, String>) -> Option<T> {
        match parse(text.get_ref()) {
            Ok(value) => Some(value),
            Err(message) => {
                self.findings.error(text.span(), message);
                None
            }
        }
    }

    fn each<T>(&mut self, list: &[Text], parse: impl Fn(&str) -> Result<T, String>) -> Vec<T> {
        list.iter().filter_map(|text| self.value(text, &parse)).collect()
    }

    fn gateways(
        &mut self,
        gateways: &[file::Gateway],
        names: &Names<GatewayId>,
        sites: &Names<SiteId>,
    ) -> BTreeMap<GatewayId, Gateway> {
        let mut all = BTreeMap::new();
        for gateway in gateways {
            let name = gateway.name.get_ref().clone();
            let site = self.resolve(sites, &gateway.site);
            let (Some(&id), Some(site)) = (names.ids.get(&name), site) else { continue };
            let (ipv4_masquerade, ipv6_masquerade) =
                (gateway.ipv4_masquerade, gateway.ipv6_masquerade);
            all.insert(id, Gateway { id, name, site, ipv4_masquerade, ipv6_masquerade });
        }
        all
    }

    fn clients(&mut self, clients: &[file::Client], names: &Names<Uuid>) -> BTreeMap<Uuid, Client> {
        let mut all = BTreeMap::new();
        for client in clients {
            let max_devices = match &client.max_devices {
                None => DEFAULT_MAX_DEVICES,
                Some(max) => {
                    if !(1..=MAX_DEVICES).contains(max.get_ref()) {
                        let message = format!("max_devices is 1 to {MAX_DEVICES}");
                        self.findings.error(max.span(), message);
                    }
                    *max.get_ref()
                }
            };
            let name = client.name.get_ref().clone();
            let Some(&id) = names.ids.get(&name) else { continue };
            all.insert(id, Client { id, name, max_devices });
        }
        all
    }

    fn resources(
        &mut self,
        resources: &[file::Resource],
        names: &Names<ResourceId>,
        sites: &Names<SiteId>,
    ) -> BTreeMap<ResourceId, Resource> {
        let mut all = BTreeMap::new();
        let mut internet: Option<&str> = None;
        for resource in resources {
            let name = resource.name.get_ref();
            if *resource.kind.get_ref() == ResourceType::Internet
                && let Some(first) = internet.replace(name)
            {
                let message = format!("\"{first}\" is of type internet already; there can be one");
                self.findings.error(resource.kind.span(), message);
            }
            if resource.sites.get_ref().is_empty() {
                self.findings
                    .error(resource.sites.span(), "a resource needs a site that serves it");
            }
            let served_by: BTreeSet<_> = resource
                .sites
                .get_ref()
                .iter()
                .filter_map(|site| self.resolve(sites, site))
                .collect();
            let filters = self.each(&resource.filters, values::filter);
            let target = self.target(resource);
            let (Some(&id), Some(target)) = (names.ids.get(name), target) else { continue };
            all.insert(
                id,
                Resource {
                    id,
                    name: name.clone(),
                    description: resource.description.clone(),
                    target,
                    filters,
                    sites: served_by,
                },
            );
        }
        all
    }

    fn target(&mut self, resource: &file::Resource) -> Option<Target> {
        let kind = *resource.kind.get_ref();
        if let Some(ip_stack) = resource.ip_stack.as_ref().filter(|_| kind != ResourceType::Dns) {
            self.findings.error(ip_stack.span(), "ip_stack is for resources of type dns");
        }
        match (kind, &resource.address) {
            (ResourceType::Internet, None) => Some(Target::Internet),
            (ResourceType::Internet, Some(address)) => {
                self.findings.error(address.span(), "a resource of type internet has no address");
                None
            }
            (_, None) => {
                let message = format!("resource \"{}\" needs an address", resource.name.get_ref());
                self.findings.error(resource.name.span(), message);
                None
            }
            (ResourceType::Cidr, Some(address)) => {
                self.value(address, values::network).map(Target::Cidr)
            }
            (ResourceType::Dns, Some(address)) => {
                let ip_stack = match resource.ip_stack.as_ref().map(|stack| *stack.get_ref()) {
                    None | Some(Families::Dual) => IpStack::Dual,
                    Some(Families::Ipv4Only) => IpStack::Ipv4Only,
                    Some(Families::Ipv6Only) => IpStack::Ipv6Only,
                };
                let pattern = self.value(address, values::pattern)?;
                Some(Target::Dns { pattern, ip_stack })
            }
        }
    }

    fn rules(
        &mut self,
        rules: &[file::Rule],
        names: &Names<Uuid>,
        clients: &Names<Uuid>,
        groups: &BTreeMap<String, BTreeSet<Uuid>>,
        resources: &Names<ResourceId>,
    ) -> BTreeMap<Uuid, Rule> {
        let mut all = BTreeMap::new();
        for rule in rules {
            if rule.clients.is_empty() && rule.groups.is_empty() {
                let message =
                    "a policy needs clients or groups; groups = [\"everyone\"] is all of them";
                self.findings.error(rule.name.span(), message);
            }
            if rule.resources.get_ref().is_empty() {
                self.findings.error(rule.resources.span(), "a policy needs a resource");
            }
            let mut who: BTreeSet<_> =
                rule.clients.iter().filter_map(|name| self.resolve(clients, name)).collect();
            for group in &rule.groups {
                match groups.get(group.get_ref()) {
                    Some(members) => who.extend(members),
                    None => self.unknown("group", groups.keys(), group),
                }
            }
            let what = rule
                .resources
                .get_ref()
                .iter()
                .filter_map(|name| self.resolve(resources, name))
                .collect();
            let expires = rule.expires.as_ref().and_then(|value| {
                values::time(value.get_ref())
                    .map_err(|message| self.findings.error(value.span(), message))
                    .ok()
            });
            let max_session =
                rule.max_session.as_ref().and_then(|text| self.value(text, values::duration));
            let name = rule.name.get_ref().clone();
            let Some(&id) = names.ids.get(&name) else { continue };
            all.insert(id, Rule { id, name, clients: who, resources: what, expires, max_session });
        }
        all
    }

    fn relays(&mut self, relays: &[file::Relay], names: &Names<RelayId>) -> Vec<Relay> {
        let mut all = Vec::new();
        for relay in relays {
            let addresses = self.relay_addresses(&relay.addresses);
            let access = self.relay_access(relay);
            let name = relay.name.get_ref().clone();
            let (Some(&id), Some(access)) = (names.ids.get(&name), access) else { continue };
            all.push(Relay { id, name, addresses, access });
        }
        all
    }

    fn relay_addresses(&mut self, list: &Spanned<Vec<Text>>) -> Vec<SocketAddr> {
        let mut addresses: Vec<SocketAddr> = Vec::new();
        for text in list.get_ref() {
            let parse = |text: &str| {
                text.parse::<SocketAddr>().map_err(|_| {
                    format!("\"{text}\" is not \"203.0.113.5:3478\" or \"[2001:db8::5]:3478\"")
                })
            };
            let Some(address) = self.value(text, parse) else { continue };
            if address.port() != 3478 {
                let message = "existing clients and gateways hear a relay on port 3478 only";
                self.findings.warning(text.span(), message);
            }
            if addresses.iter().any(|other| other.is_ipv4() == address.is_ipv4()) {
                let message = "a relay has one address of a family; name a second relay";
                self.findings.error(text.span(), message);
            }
            addresses.push(address);
        }
        if list.get_ref().is_empty() {
            self.findings.error(list.span(), "a relay needs an address");
        }
        addresses
    }

    fn relay_access(&mut self, relay: &file::Relay) -> Option<RelayAccess> {
        let text = |text: &Option<Text>| text.as_ref().map(|text| text.get_ref().clone());
        let parts = (text(&relay.username), text(&relay.password), text(&relay.secret));
        match (*relay.kind.get_ref(), parts) {
            (RelayType::Stun, (None, None, None)) => Some(RelayAccess::Stun),
            (RelayType::Turn, (Some(username), Some(password), None)) => {
                let password = Secret::new(password);
                Some(RelayAccess::Static { username, password })
            }
            (RelayType::Turn, (None, None, Some(secret))) => {
                Some(RelayAccess::Shared(Secret::new(secret)))
            }
            (RelayType::Stun, _) => {
                self.findings.error(relay.kind.span(), "a relay of type stun takes no credentials");
                None
            }
            (RelayType::Turn, _) => {
                let message = "a relay of type turn needs username and password, or secret alone";
                self.findings.error(relay.kind.span(), message);
                None
            }
        }
    }

    /// What can be used but is likely a slip.
    fn warn(
        &mut self,
        file: &file::File,
        policy: &Policy,
        sites: &Names<SiteId>,
        resources: &Names<ResourceId>,
    ) {
        let place = |name: &Text| -> Range<usize> { name.span() };
        for site in &file.site {
            let id = sites.ids.get(site.name.get_ref());
            if !policy.gateways.values().any(|gateway| Some(&gateway.site) == id) {
                let message = format!("site \"{}\" has no gateway", site.name.get_ref());
                self.findings.warning(place(&site.name), message);
            }
        }
        for resource in &file.resource {
            let Some(id) = resources.ids.get(resource.name.get_ref()) else { continue };
            if !policy.rules.values().any(|rule| rule.resources.contains(id)) {
                let message =
                    format!("no policy lets anybody reach \"{}\"", resource.name.get_ref());
                self.findings.warning(place(&resource.name), message);
            }
        }
    }
}
