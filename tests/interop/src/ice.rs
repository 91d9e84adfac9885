//! What answers checks of paths in place of a peer that knows nothing of ICE.

use std::net::SocketAddr;
use std::time::Instant;

use anyhow::{Context as _, Result};
use connlib_link::{IceCredentials, Role};
use is::stun::{StunMessage, StunPacket};
use is::{Candidate, IceAgent, Protocol};

/// In the third word of every STUN message (RFC 8489 §5).
const MAGIC_COOKIE: [u8; 4] = [0x21, 0x12, 0xa4, 0x42];

pub(crate) struct StandIn {
    agent: IceAgent,
    address: SocketAddr,
    ours: SocketAddr,
}

impl StandIn {
    /// Stands at `address`, which our end, in `role`, is to find a path to.
    pub(crate) fn new(
        address: SocketAddr,
        local: IceCredentials,
        ours: SocketAddr,
        remote: IceCredentials,
        role: Role,
    ) -> Result<Self> {
        let mut agent = IceAgent::new(local.into());
        agent.set_remote_credentials(remote.into());
        agent.set_controlling(role == Role::Controlled);
        agent.add_local_candidate(Candidate::host(address, "udp")?).context("a candidate")?;
        agent.add_remote_candidate(Candidate::host(ours, "udp")?);
        Ok(Self { agent, address, ours })
    }

    /// What our end tells the portal of it: SDP.
    pub(crate) fn candidate(&self) -> Result<String> {
        Ok(Candidate::host(self.address, "udp")?.to_sdp_string())
    }

    pub(crate) fn is_for(datagram: &[u8]) -> bool {
        datagram.get(4..8) == Some(&MAGIC_COOKIE)
    }

    /// Takes a check, or an answer to one, from our end.
    pub(crate) fn take(&mut self, datagram: &[u8], now: Instant) {
        if let Ok(message) = StunMessage::parse(datagram) {
            let (source, destination) = (self.ours, self.address);
            let packet = StunPacket { proto: Protocol::Udp, source, destination, message };
            self.agent.handle_packet(now, packet);
        }
    }

    pub(crate) fn next_timeout(&mut self) -> Option<Instant> {
        self.agent.poll_timeout()
    }

    pub(crate) fn handle_timeout(&mut self, now: Instant) {
        self.agent.handle_timeout(now);
    }

    /// The next datagram for our end.
    pub(crate) fn poll_transmit(&mut self) -> Option<Vec<u8>> {
        while self.agent.poll_event().is_some() {}
        self.agent.poll_transmit().map(|transmit| transmit.contents.to_vec())
    }
}
