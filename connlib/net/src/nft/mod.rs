//! A gateway's part in the kernel's packet path: masquerade, a guard on forwarding, and the switch that turns the host
//! into a router.
//!
//! - [`GatewayNat`]: one nf_tables table of our own, `connlib_gateway`, family inet;
//! - [`Forwarding`]: the sysctls, with their previous values restored.
//!
//! The table is all that is touched, and the kernel removes it when the process ends, however it ends. `nft list
//! ruleset` shows it; `nft flush ruleset` by somebody else does not remove it (Linux 5.12 and later, as is the former).
//!
//! The messages are written here, straight to netlink: of the crates for nf_tables, `rustables` is under the GPL, `nftnl`
//! links to a C library under the GPL, and `nftables` runs the program `nft`, which a minimal host does not have.
//!
//! Trap for administrators: *accept* in one table does not overrule *drop* in another. On a host whose own firewall drops
//! forwarded packets (as Docker's does: policy DROP in `FORWARD`), packets from and to the TUN device must be let through
//! there, for instance by `iptables -I DOCKER-USER -i TUN -j ACCEPT` and the same with `-o TUN`.

mod expression;
mod forwarding;
mod gateway;
mod table;

pub use forwarding::{Forwarding, ForwardingError};
pub use gateway::{GatewayNat, Masquerade, NatError};
