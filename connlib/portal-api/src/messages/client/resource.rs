//! Resources as a client sees them.

use std::net::{Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;

use crate::messages::common::Filter;
use crate::{ClientId, ResourceId, SiteId, Skipped, Tolerant, wire};

/// A resource. One of an unknown type does not decode.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Resource {
    /// Names.
    Dns(DnsResource),
    /// Addresses.
    Cidr(CidrResource),
    /// Everything else.
    Internet(InternetResource),
    /// Devices, by address.
    StaticDevicePool(StaticDevicePool),
    /// Devices, by name.
    DynamicDevicePool(DynamicDevicePool),
}

impl Resource {
    /// Its ID.
    pub fn id(&self) -> ResourceId {
        match self {
            Self::Dns(resource) => resource.id,
            Self::Cidr(resource) => resource.id,
            Self::Internet(resource) => resource.id,
            Self::StaticDevicePool(resource) => resource.id,
            Self::DynamicDevicePool(resource) => resource.id,
        }
    }

    /// Its name, for people.
    pub fn name(&self) -> &str {
        match self {
            Self::Dns(resource) => &resource.name,
            Self::Cidr(resource) => &resource.name,
            Self::Internet(resource) => &resource.name,
            Self::StaticDevicePool(resource) => &resource.name,
            Self::DynamicDevicePool(resource) => &resource.name,
        }
    }

    /// The sites whose gateways reach it; none for device pools.
    pub fn sites(&self) -> &[Site] {
        match self {
            Self::Dns(resource) => &resource.sites,
            Self::Cidr(resource) => &resource.sites,
            Self::Internet(resource) => &resource.sites,
            Self::StaticDevicePool(_) | Self::DynamicDevicePool(_) => &[],
        }
    }

    pub(super) fn skipped(&self) -> &[Skipped] {
        match self {
            Self::StaticDevicePool(pool) => pool.devices.skipped(),
            _ => &[],
        }
    }
}

/// A site: the gateways that reach the same network.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Site {
    /// Its ID.
    pub id: SiteId,
    /// Its name, for people.
    #[serde(default)]
    pub name: String,
}

/// A DNS resource.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DnsResource {
    /// Its ID.
    pub id: ResourceId,
    /// Its name, for people.
    pub name: String,
    /// The pattern: `*` within a label, `**` over labels, `?` one character.
    pub address: String,
    /// A note for people.
    #[serde(default)]
    pub address_description: Option<String>,
    /// Which address families it has.
    #[serde(default)]
    pub ip_stack: IpStack,
    /// The sites whose gateways reach it.
    #[serde(rename = "gateway_groups", alias = "sites", default)]
    pub sites: Vec<Site>,
    /// What traffic is let through.
    #[serde(default)]
    pub filters: Vec<Filter>,
}

/// A CIDR resource.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CidrResource {
    /// Its ID.
    pub id: ResourceId,
    /// Its name, for people.
    pub name: String,
    /// The network. A bare address stands for itself alone.
    #[serde(deserialize_with = "wire::network")]
    pub address: IpNet,
    /// A note for people.
    #[serde(default)]
    pub address_description: Option<String>,
    /// The sites whose gateways reach it.
    #[serde(rename = "gateway_groups", alias = "sites", default)]
    pub sites: Vec<Site>,
    /// What traffic is let through.
    #[serde(default)]
    pub filters: Vec<Filter>,
}

/// The Internet Resource.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InternetResource {
    /// Its ID.
    pub id: ResourceId,
    /// Its name, for people.
    #[serde(default = "internet_resource")]
    pub name: String,
    /// The sites whose gateways reach it.
    #[serde(rename = "gateway_groups", alias = "sites", default)]
    pub sites: Vec<Site>,
    /// Whether the user may switch it off.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub can_be_disabled: Option<bool>,
}

fn internet_resource() -> String {
    "Internet Resource".to_owned()
}

/// Devices that are reached by their addresses.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StaticDevicePool {
    /// Its ID.
    pub id: ResourceId,
    /// Its name, for people.
    pub name: String,
    /// What traffic is let through.
    #[serde(default)]
    pub filters: Vec<Filter>,
    /// The devices.
    #[serde(default)]
    pub devices: Tolerant<Device>,
}

/// A device of a static pool.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Device {
    /// The client on it.
    #[serde(alias = "id")]
    pub client_id: ClientId,
    /// Its IPv4 address in the tunnel; with `/32` on the wire.
    #[serde(with = "wire::host")]
    pub ipv4: Ipv4Addr,
    /// Its IPv6 address in the tunnel; with `/128` on the wire.
    #[serde(with = "wire::host")]
    pub ipv6: Ipv6Addr,
}

/// Devices that are reached by their names.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DynamicDevicePool {
    /// Its ID.
    pub id: ResourceId,
    /// Its name, for people.
    pub name: String,
    /// The pattern of the names.
    pub address: String,
}

/// Which address families a DNS resource has. `null` and what we do not know are [`IpStack::Dual`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum IpStack {
    /// Both.
    #[default]
    Dual,
    /// IPv4 alone.
    Ipv4Only,
    /// IPv6 alone.
    Ipv6Only,
}

impl IpStack {
    /// Whether it has IPv4.
    pub fn has_ipv4(self) -> bool {
        self != Self::Ipv6Only
    }

    /// Whether it has IPv6.
    pub fn has_ipv6(self) -> bool {
        self != Self::Ipv4Only
    }
}

impl<'de> Deserialize<'de> for IpStack {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(match Value::deserialize(deserializer)?.as_str() {
            Some("ipv4_only") => Self::Ipv4Only,
            Some("ipv6_only") => Self::Ipv6Only,
            _ => Self::Dual,
        })
    }
}
