//! The policy file as it is written: one struct a table, every value with its place in the text.

use serde::Deserialize;
use toml::Spanned;
use toml::value::Datetime;

pub(super) type Text = Spanned<String>;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct File {
    pub(super) account: Option<Text>,
    #[serde(default)]
    pub(super) dns: Dns,
    #[serde(default)]
    pub(super) site: Vec<Site>,
    #[serde(default)]
    pub(super) gateway: Vec<Gateway>,
    #[serde(default)]
    pub(super) client: Vec<Client>,
    #[serde(default)]
    pub(super) group: Vec<Group>,
    #[serde(default)]
    pub(super) resource: Vec<Resource>,
    #[serde(default)]
    pub(super) policy: Vec<Rule>,
    #[serde(default)]
    pub(super) relay: Vec<Relay>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Dns {
    #[serde(default)]
    pub(super) upstream_do53: Vec<Text>,
    #[serde(default)]
    pub(super) upstream_doh: Vec<Text>,
    pub(super) search_domain: Option<Text>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Site {
    pub(super) name: Text,
    pub(super) id: Option<Text>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Gateway {
    pub(super) name: Text,
    pub(super) id: Option<Text>,
    pub(super) site: Text,
    #[serde(default = "yes")]
    pub(super) ipv4_masquerade: bool,
    #[serde(default = "yes")]
    pub(super) ipv6_masquerade: bool,
}

fn yes() -> bool {
    true
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Client {
    pub(super) name: Text,
    pub(super) id: Option<Text>,
    pub(super) max_devices: Option<Spanned<u32>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Group {
    pub(super) name: Text,
    pub(super) clients: Vec<Text>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Resource {
    pub(super) name: Text,
    pub(super) id: Option<Text>,
    #[serde(rename = "type")]
    pub(super) kind: Spanned<ResourceType>,
    pub(super) description: Option<String>,
    pub(super) address: Option<Text>,
    pub(super) ip_stack: Option<Spanned<Families>>,
    #[serde(default)]
    pub(super) filters: Vec<Text>,
    pub(super) sites: Spanned<Vec<Text>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum ResourceType {
    Cidr,
    Dns,
    Internet,
}

/// The values of `ip_stack`. Stricter than on the wire, where what is unknown means both.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Families {
    Dual,
    Ipv4Only,
    Ipv6Only,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Rule {
    pub(super) name: Text,
    pub(super) id: Option<Text>,
    #[serde(default)]
    pub(super) clients: Vec<Text>,
    #[serde(default)]
    pub(super) groups: Vec<Text>,
    pub(super) resources: Spanned<Vec<Text>>,
    pub(super) expires: Option<Spanned<Datetime>>,
    pub(super) max_session: Option<Text>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Relay {
    pub(super) name: Text,
    pub(super) id: Option<Text>,
    #[serde(rename = "type")]
    pub(super) kind: Spanned<RelayType>,
    pub(super) addresses: Spanned<Vec<Text>>,
    pub(super) username: Option<Text>,
    pub(super) password: Option<Text>,
    pub(super) secret: Option<Text>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum RelayType {
    Stun,
    Turn,
}
