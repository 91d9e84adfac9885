//! The network that every subject gets one of.

use std::{fmt, net::Ipv4Addr};

use anyhow::Result;
use connlib_e2e::{Lab, Namespace, Router};

use super::{MTU, Subject};

pub(super) const GATEWAY_OUTSIDE: &str = "198.18.0.2";
pub(super) const CLIENT_OUTSIDE: &str = "198.18.0.1";
pub(super) const RESOURCES: &str = "10.20.0.0/24";
const GATEWAY_INSIDE: Ipv4Addr = Ipv4Addr::new(10, 20, 0, 1);
const SERVER: Ipv4Addr = Ipv4Addr::new(10, 20, 0, 2);

/// Where the server is that the client talks to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    /// On the gateway's own address in the network behind it.
    OnGateway,
    /// One cable further: the gateway's kernel forwards and masquerades, whatever the subject.
    BehindGateway,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OnGateway => write!(f, "{GATEWAY_INSIDE}, an address of the gateway's namespace"),
            Self::BehindGateway => {
                write!(f, "{SERVER}, one cable behind the gateway, which masquerades")
            }
        }
    }
}

/// Client, gateway, and what is behind it.
#[derive(Debug)]
pub(super) struct Network {
    pub(super) client: Namespace,
    pub(super) gateway: Router,
    server: Namespace,
    place: Place,
}

impl Network {
    pub(super) fn lay(lab: &Lab, subject: Subject, place: Place) -> Result<Self> {
        let name = |role: &str| format!("{subject}-{role}");
        let client = lab.namespace(&name("client"))?;
        let gateway = lab.router(&name("gateway"))?;
        let server = lab.namespace(&name("server"))?;
        let with_prefix = |address: &str, bits: u8| format!("{address}/{bits}");
        lab.cable(
            (&client, "eth0", &[&with_prefix(CLIENT_OUTSIDE, 24)]),
            (&gateway, "wan", &[&with_prefix(GATEWAY_OUTSIDE, 24)]),
        )?;
        lab.cable(
            (&gateway, "lan", &[&with_prefix(&GATEWAY_INSIDE.to_string(), 24)]),
            (&server, "eth0", &[&with_prefix(&SERVER.to_string(), 24)]),
        )?;
        Ok(Self { client, gateway, server, place })
    }

    /// Where the server is to run.
    pub(super) fn target(&self) -> &Namespace {
        match self.place {
            Place::OnGateway => &self.gateway,
            Place::BehindGateway => &self.server,
        }
    }

    pub(super) fn target_address(&self) -> Ipv4Addr {
        match self.place {
            Place::OnGateway => GATEWAY_INSIDE,
            Place::BehindGateway => SERVER,
        }
    }

    /// Has the client reach the resources without a tunnel.
    pub(super) fn join_directly(&self) -> Result<()> {
        self.client.ip(&format!("link set eth0 mtu {MTU}"))?;
        self.gateway.ip(&format!("link set wan mtu {MTU}"))?;
        self.client.route(RESOURCES, GATEWAY_OUTSIDE)
    }

    /// What our gateway does by itself: the server answers to an address that it knows the way to.
    pub(super) fn masquerade(&self) -> Result<()> {
        self.gateway.nft(
            "table ip bench {
                 chain translate {
                     type nat hook postrouting priority srcnat
                     oifname lan masquerade
                 }
             }",
        )
    }
}
