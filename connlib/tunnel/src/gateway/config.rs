//! The settings of a gateway, and its limits.

/// Settings of a [`GatewayTunnel`](super::GatewayTunnel).
#[derive(Debug, Clone)]
pub struct GatewayConfig {
    /// Seed of everything random, the WireGuard key included: 32 bytes from the operating system.
    pub seed: [u8; 32],
    /// Clients beyond this many are refused. Those that have no link give way first.
    pub max_clients: usize,
}

impl Default for GatewayConfig {
    fn default() -> Self {
        Self { seed: [0; 32], max_clients: 4096 }
    }
}

/// Room that a link needs to open any datagram, see [`Node::open`](connlib_link::Node::open).
pub(super) const MIN_SLOT: usize = 148;

/// Authorizations of one client.
pub(super) const MAX_RESOURCES: usize = 4096;

/// Translated flows of one client, and of all clients together.
const MAX_SESSIONS_PER_CLIENT: usize = 1 << 14;
const MAX_SESSIONS: usize = 1 << 20;

/// Translated flows that each of so many clients may have.
pub(super) fn sessions_per_client(clients: usize) -> usize {
    MAX_SESSIONS_PER_CLIENT.min(MAX_SESSIONS / clients.max(1))
}
