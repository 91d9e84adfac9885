//! Who may talk WireGuard to us: handshakes of strangers cost as little as possible.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use boringtun::noise::handshake::parse_handshake_anon;
use boringtun::noise::rate_limiter::RateLimiter;
use boringtun::noise::{Packet, TunnResult};
use boringtun::x25519::{PublicKey, StaticSecret};

use crate::demux::Demux;
use crate::index::LinkIndex;
use crate::wireguard::clock;

/// Handshake messages a second beyond which a sender has to prove its address by a cookie.
const HANDSHAKES_PER_SECOND: u64 = 100;

/// Our key, and what protects it from having to be used too often.
pub(crate) struct Gate {
    private_key: StaticSecret,
    public_key: PublicKey,
    rate_limiter: Arc<RateLimiter>,
}

/// What became of a message at the gate.
pub(crate) enum Admitted {
    /// It is for the link in this slot.
    Link(usize),
    /// Its sender has to prove its address first, by answering this.
    Cookie(Vec<u8>),
    /// It is for nobody.
    Nobody,
}

impl Gate {
    pub(crate) fn new(key: [u8; 32], now: Instant) -> Self {
        let private_key = StaticSecret::from(key);
        let public_key = PublicKey::from(&private_key);
        clock::follow(now);
        // Each handshake message is verified twice: before its link is known, and by the link.
        let rate_limiter = Arc::new(RateLimiter::new(&public_key, 2 * HANDSHAKES_PER_SECOND));
        Self { private_key, public_key, rate_limiter }
    }

    pub(crate) fn private_key(&self) -> StaticSecret {
        self.private_key.clone()
    }

    pub(crate) fn public_key(&self) -> [u8; 32] {
        self.public_key.to_bytes()
    }

    pub(crate) fn rate_limiter(&self) -> Arc<RateLimiter> {
        Arc::clone(&self.rate_limiter)
    }

    /// Which link a handshake or cookie message is for. An initiation names its sender only in encrypted form, which
    /// costs a Diffie-Hellman computation: so the cheap checks, and the proof of its address under load, come first.
    pub(crate) fn admit(
        &self,
        from: IpAddr,
        payload: &[u8],
        demux: &mut Demux,
        now: Instant,
    ) -> Admitted {
        clock::follow(now);
        self.rate_limiter.reset_count();
        let mut cookie = [0; 64];
        let slot = match self.rate_limiter.verify_packet(Some(from), payload, &mut cookie) {
            Ok(Packet::HandshakeInit(initiation)) => {
                parse_handshake_anon(&self.private_key, &self.public_key, &initiation)
                    .ok()
                    .and_then(|half| demux.by_public_key(&half.peer_static_public))
            }
            Ok(Packet::HandshakeResponse(response)) => {
                demux.by_index(LinkIndex::of_receiver(response.receiver_idx))
            }
            Ok(Packet::PacketCookieReply(reply)) => {
                demux.by_index(LinkIndex::of_receiver(reply.receiver_idx))
            }
            Err(TunnResult::WriteToNetwork(reply)) => return Admitted::Cookie(reply.to_vec()),
            Ok(Packet::PacketData(_)) | Err(_) => None,
        };
        slot.map_or(Admitted::Nobody, Admitted::Link)
    }
}
