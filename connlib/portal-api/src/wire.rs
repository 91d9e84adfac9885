//! How addresses and texts stand on the wire.

use ipnet::IpNet;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer};

/// A network; a bare address stands for itself alone, host bits are cleared.
pub(crate) fn network<'de, D: Deserializer<'de>>(deserializer: D) -> Result<IpNet, D::Error> {
    let text = String::deserialize(deserializer)?;
    let network = text.parse::<IpNet>().or_else(|_| text.parse().map(host_network));
    network.map(|network| network.trunc()).map_err(|_| D::Error::custom("not a network"))
}

fn host_network(address: std::net::IpAddr) -> IpNet {
    address.into()
}

/// A text of the portal, fit for a log line and for people.
pub(crate) fn shorten(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(256).collect()
}

/// One address, written as a network of its full length and read with or without that.
pub(crate) mod host {
    use std::net::IpAddr;
    use std::str::FromStr;

    use serde::de::Error as _;
    use serde::{Deserialize, Deserializer, Serializer};

    pub(crate) fn serialize<A, S>(address: &A, serializer: S) -> Result<S::Ok, S::Error>
    where
        A: Copy + Into<IpAddr>,
        S: Serializer,
    {
        serializer.collect_str(&super::host_network((*address).into()))
    }

    pub(crate) fn deserialize<'de, A, D>(deserializer: D) -> Result<A, D::Error>
    where
        A: FromStr + Copy + Into<IpAddr>,
        D: Deserializer<'de>,
    {
        let text = String::deserialize(deserializer)?;
        let (address, prefix) = match text.split_once('/') {
            Some((address, prefix)) => (address, Some(prefix)),
            None => (text.as_str(), None),
        };
        let address: A = address.parse().map_err(|_| D::Error::custom("not an address"))?;
        let full = if address.into().is_ipv4() { "32" } else { "128" };
        match prefix {
            None => Ok(address),
            Some(prefix) if prefix == full => Ok(address),
            Some(_) => Err(D::Error::custom("not the prefix of one address")),
        }
    }
}
