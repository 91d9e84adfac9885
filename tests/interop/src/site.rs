//! A relay between two hosts that have no other way to each other.
//!
//! ```text
//!  left ────────────────── relay ────────────────── right
//!   192.0.2.2   192.0.2.1   203.0.113.5   198.51.100.1   198.51.100.2
//!   2001:db8:1::2    …:1::1   2001:db8::5   …:2::1   2001:db8:2::2
//! ```

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    time::Duration,
};

use anyhow::Result;
use connlib_e2e::{Lab, Namespace, wait};

/// The relay's addresses.
pub const RELAY: [IpAddr; 2] = [IpAddr::V4(Ipv4Addr::new(203, 0, 113, 5)), IpAddr::V6(ip6(0, 5))];
/// Those of the left host.
pub const LEFT: [IpAddr; 2] = [IpAddr::V4(Ipv4Addr::new(192, 0, 2, 2)), IpAddr::V6(ip6(1, 2))];
/// Those of the right host.
pub const RIGHT: [IpAddr; 2] = [IpAddr::V4(Ipv4Addr::new(198, 51, 100, 2)), IpAddr::V6(ip6(2, 2))];

const DEADLINE: Duration = Duration::from_secs(20);

/// Three namespaces and two cables. The one in the middle forwards nothing.
#[derive(Debug)]
pub struct Site {
    /// Where the relay is to run.
    pub relay: Namespace,
    /// The one host.
    pub left: Namespace,
    /// The other one.
    pub right: Namespace,
}

impl Site {
    /// Lays the cables and waits until they carry packets of both families.
    pub fn lay(lab: &Lab) -> Result<Self> {
        let [relay, left, right] = ["relay", "left", "right"].map(|name| lab.namespace(name));
        let site = Self { relay: relay?, left: left?, right: right? };
        let Self { relay, left, right } = &site;
        for address in ["203.0.113.5/32", "2001:db8::5/128"] {
            relay.address("lo", address)?;
        }
        lab.cable(
            (left, "eth0", &["192.0.2.2/24", "2001:db8:1::2/64"]),
            (relay, "left", &["192.0.2.1/24", "2001:db8:1::1/64"]),
        )?;
        lab.cable(
            (right, "eth0", &["198.51.100.2/24", "2001:db8:2::2/64"]),
            (relay, "right", &["198.51.100.1/24", "2001:db8:2::1/64"]),
        )?;
        for (host, ways) in
            [(left, ["192.0.2.1", "2001:db8:1::1"]), (right, ["198.51.100.1", "2001:db8:2::1"])]
        {
            for way in ways {
                host.route("default", way)?;
            }
            // IPv6 takes a moment to make sure that nobody else has an address.
            for to in RELAY.map(|ip| ip.to_string()) {
                wait::until("the network", DEADLINE, || {
                    host.command("ping").args(["-q", "-c", "1", "-W", "1", &to]).run().ok()
                })?;
            }
        }
        Ok(site)
    }
}

/// An address of documentation (RFC 3849).
const fn ip6(network: u16, host: u16) -> Ipv6Addr {
    Ipv6Addr::new(0x2001, 0xdb8, network, 0, 0, 0, 0, host)
}
