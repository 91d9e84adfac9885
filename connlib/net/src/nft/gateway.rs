use std::io;

use ipnet::IpNet;

use super::expression::Rule;
use super::table::{self, Chain, Owner, Refusal, Step};
use crate::netlink::Socket;
use crate::ranges::{TUNNEL_V4, TUNNEL_V6};

/// The name of our table.
const TABLE: &str = "connlib_gateway";

/// Which of the clients' packets leave with an address of the gateway.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Masquerade {
    /// Packets from 100.64.0.0/11.
    pub ipv4: bool,
    /// Packets from fd00:2021:1111::/107.
    pub ipv6: bool,
}

/// Why the table could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum NatError {
    /// The process lacks `CAP_NET_ADMIN`.
    #[error("no permission to set up masquerading: this needs root or CAP_NET_ADMIN")]
    NoPermission,
    /// The kernel has no nf_tables.
    #[error("this kernel has no nf_tables, which masquerading needs (CONFIG_NF_TABLES_INET)")]
    NoNfTables,
    /// The kernel has nf_tables, but no masquerading or connection tracking.
    #[error(
        "this kernel's nf_tables lacks a part that masquerading needs \
         (Linux 5.2 with CONFIG_NFT_NAT, CONFIG_NFT_MASQ and CONFIG_NFT_CT)"
    )]
    Incomplete,
    /// Another process, most likely another gateway, owns the table.
    #[error("another process owns the table {TABLE}: does another gateway run on this host?")]
    InUse,
    /// The kernel refused for another reason.
    #[error("the kernel refused to set up masquerading")]
    Kernel(#[source] io::Error),
}

/// Masquerades what clients send to the network behind a gateway, and guards the way back.
///
/// Packets from clients that leave by another interface than the TUN device get the host's address there, whatever the
/// interface is called. Only answers are forwarded into the TUN device: a neighbour of the gateway who sets a route through
/// it can't open a connection to a client. Dropping it removes the table.
pub struct GatewayNat {
    socket: Socket,
    tun: String,
    current: Option<Masquerade>,
}

impl GatewayNat {
    /// Sets up the table in the network namespace of this thread, in place of one that an earlier process left.
    pub fn install(tun: &str, masquerade: Masquerade) -> Result<Self, NatError> {
        let socket = Socket::netfilter().map_err(|error| match error.raw_os_error() {
            Some(libc::EPROTONOSUPPORT) => NatError::NoNfTables,
            _ => NatError::Kernel(error),
        })?;
        let mut nat = Self { socket, tun: tun.to_owned(), current: None };
        nat.update(masquerade)?;
        Ok(nat)
    }

    /// Changes what is masqueraded. Flows that are under way keep their addresses.
    pub fn update(&mut self, masquerade: Masquerade) -> Result<(), NatError> {
        if self.current == Some(masquerade) {
            return Ok(());
        }
        let chains = || chains(&self.tun, masquerade);
        let mut result = table::replace(&mut self.socket, TABLE, Owner::Socket, chains());
        if result.as_ref().is_err_and(|refusal| refusal.step == Step::Create) {
            // A kernel before 5.12. Should we be killed, the table stays until the next start replaces it.
            result = table::replace(&mut self.socket, TABLE, Owner::Nobody, chains());
        }
        result.map_err(NatError::from)?;
        self.current = Some(masquerade);
        Ok(())
    }

    /// Removes the table.
    pub fn remove(mut self) -> Result<(), NatError> {
        self.current = None;
        Ok(table::remove(&mut self.socket, TABLE)?)
    }
}

impl Drop for GatewayNat {
    fn drop(&mut self) {
        if self.current.is_some()
            && let Err(refusal) = table::remove(&mut self.socket, TABLE)
        {
            tracing::debug!(error = %refusal.error, "Failed to remove the table {TABLE}");
        }
    }
}

impl From<Refusal> for NatError {
    fn from(Refusal { step, error }: Refusal) -> Self {
        match (step, error.raw_os_error()) {
            (Step::Claim | Step::Clear, Some(libc::EPERM)) => Self::InUse,
            (_, Some(libc::EPERM | libc::EACCES)) => Self::NoPermission,
            (Step::Begin, Some(libc::EOPNOTSUPP | libc::EINVAL)) => Self::NoNfTables,
            (Step::Claim, Some(libc::EOPNOTSUPP | libc::EAFNOSUPPORT)) => Self::NoNfTables,
            (Step::Fill, Some(libc::ENOENT | libc::EOPNOTSUPP)) => Self::Incomplete,
            _ => Self::Kernel(error),
        }
    }
}

fn chains(tun: &str, masquerade: Masquerade) -> Vec<Chain> {
    let sources = [
        masquerade.ipv4.then_some(IpNet::V4(TUNNEL_V4)),
        masquerade.ipv6.then_some(IpNet::V6(TUNNEL_V6)),
    ];
    let postrouting = Chain {
        name: "postrouting",
        kind: "nat",
        hook: libc::NF_INET_POST_ROUTING,
        priority: libc::NF_IP_PRI_NAT_SRC,
        rules: sources
            .into_iter()
            .flatten()
            .map(|source| Rule::new().of_source(source).not_leaving_by(tun).masquerade())
            .collect(),
    };
    let forward = Chain {
        name: "forward",
        kind: "filter",
        hook: libc::NF_INET_FORWARD,
        priority: libc::NF_IP_PRI_FILTER,
        rules: vec![
            Rule::new().leaving_by(tun).established_or_related().accept(),
            Rule::new().leaving_by(tun).drop(),
            Rule::new().entering_by(tun).accept(),
        ],
    };
    vec![postrouting, forward]
}
