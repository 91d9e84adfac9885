//! Nonces that cost no memory: whoever shows one has received it at the 5-tuple it was made for.

use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac::{Hmac, Mac};
use sha2::Sha256;
use subtle::ConstantTimeEq;

use super::output::FiveTuple;

/// The length of a nonce in bytes: short, as it makes up much of what strangers are answered.
pub(crate) const LEN: usize = 16;

/// For how long a nonce is good (RFC 8656 §5 wants no more than an hour).
const LIFETIME_MINUTES: u32 = 60;

/// Three bytes of time, nine of an HMAC over time and 5-tuple, both in base64.
pub(crate) struct Nonces {
    key: Hmac<Sha256>,
    start: Instant,
}

impl Nonces {
    pub(crate) fn new(key: [u8; 32], start: Instant) -> Self {
        Self {
            key: <Hmac<Sha256> as Mac>::new_from_slice(&key)
                .expect("HMAC takes keys of any length"),
            start,
        }
    }

    pub(crate) fn issue(&self, client: &FiveTuple, now: Instant) -> [u8; LEN] {
        let mut nonce = [0; LEN];
        let written =
            URL_SAFE_NO_PAD.encode_slice(self.plain(self.minute(now), client), &mut nonce);
        debug_assert_eq!(written, Ok(LEN));
        nonce
    }

    pub(crate) fn is_valid(&self, nonce: &[u8], client: &FiveTuple, now: Instant) -> bool {
        let mut plain = [0; 12];
        if nonce.len() != LEN || URL_SAFE_NO_PAD.decode_slice(nonce, &mut plain) != Ok(plain.len())
        {
            return false;
        }
        let minute = u32::from_be_bytes([0, plain[0], plain[1], plain[2]]);
        let age = self.minute(now).wrapping_sub(minute) & 0x00ff_ffff;
        age <= LIFETIME_MINUTES && bool::from(plain.ct_eq(&self.plain(minute, client)))
    }

    fn minute(&self, now: Instant) -> u32 {
        (now.saturating_duration_since(self.start).as_secs() / 60) as u32 & 0x00ff_ffff
    }

    fn plain(&self, minute: u32, client: &FiveTuple) -> [u8; 12] {
        let time = &minute.to_be_bytes()[1..];
        let mut mac = self.key.clone();
        mac.update(time);
        mac.update(&client.transport.number().to_be_bytes());
        for address in [client.remote, client.local] {
            update_with_address(&mut mac, address);
        }
        let mut plain = [0; 12];
        plain[..3].copy_from_slice(time);
        plain[3..].copy_from_slice(&mac.finalize().into_bytes()[..9]);
        plain
    }
}

fn update_with_address(mac: &mut Hmac<Sha256>, address: SocketAddr) {
    match address.ip() {
        IpAddr::V4(ip) => mac.update(&ip.to_ipv6_mapped().octets()),
        IpAddr::V6(ip) => mac.update(&ip.octets()),
    }
    mac.update(&address.port().to_be_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::Transport;
    use std::time::Duration;

    #[test]
    fn a_nonce_is_good_for_its_client_for_an_hour() {
        let start = Instant::now();
        let nonces = Nonces::new([1; 32], start);
        let client = |port, transport| FiveTuple {
            transport,
            remote: ([192, 0, 2, 1], port).into(),
            local: ([203, 0, 113, 1], 3478).into(),
        };
        let at = start + Duration::from_secs(1000);
        let nonce = nonces.issue(&client(1, Transport::Udp), at);
        assert!(nonce.iter().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(byte)));

        let is_valid =
            |client, seconds| nonces.is_valid(&nonce, &client, at + Duration::from_secs(seconds));
        assert!(is_valid(client(1, Transport::Udp), 0));
        assert!(is_valid(client(1, Transport::Udp), 59 * 60));
        assert!(!is_valid(client(1, Transport::Udp), 62 * 60));
        assert!(!is_valid(client(2, Transport::Udp), 0));
        assert!(!is_valid(client(1, Transport::Stream(0)), 0));
        assert!(!Nonces::new([2; 32], start).is_valid(&nonce, &client(1, Transport::Udp), at));
        for at in 0..LEN {
            let mut other = nonce;
            other[at] ^= 1;
            assert!(!nonces.is_valid(
                &other,
                &client(1, Transport::Udp),
                start + Duration::from_secs(1000)
            ));
        }
        assert!(!nonces.is_valid(
            b"dfc6523b-1e54-e153-dfed-ce67710",
            &client(1, Transport::Udp),
            at
        ));
    }
}
