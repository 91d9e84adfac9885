//! The program of a relay, without its sockets.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

use base64::Engine;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use connlib_packet::Ecn;
use connlib_relay::server::{
    AllocationId, Config, Credentials, FiveTuple, FromClient, Now, Output, Server, Transport,
};
use connlib_tunnel::{Relay, RelayCredentials};
use sha2::{Digest, Sha256};
use uuid::Uuid;

use super::{Alarm, Effect};
use crate::internet::Datagram;
use crate::model::ProbeId;

/// Where relays listen.
const PORT: u16 = 3478;

/// The wall clock when the world begins.
const BEGIN: u64 = 1_800_000_000;

pub(crate) struct RelayHost {
    number: usize,
    server: Server,
    started: Instant,
    ports: BTreeMap<u16, AllocationId>,
    pub(crate) alarm: Alarm,
}

impl RelayHost {
    pub(crate) fn new(number: usize, seed: [u8; 32], now: Instant) -> Self {
        let stamp_secrets = vec![secret(number)];
        let credentials = Credentials { stamp_secrets, ..Credentials::default() };
        let mut config = Config::new(credentials, seed);
        for address in addresses(number) {
            match address.ip() {
                IpAddr::V4(ip) => config.public_ip4 = Some(ip),
                IpAddr::V6(ip) => config.public_ip6 = Some(ip),
            }
        }
        let server = Server::new(config, now).expect("settings that can be served");
        Self { number, server, started: now, ports: BTreeMap::new(), alarm: Alarm::default() }
    }

    /// What the portal tells a peer with this key, after it has renewed the credentials so often.
    pub(crate) fn announced(number: usize, key: [u8; 32], renewals: u64) -> Relay {
        let (expiry, salt) = (BEGIN + 1_000_000_000 + renewals, STANDARD_NO_PAD.encode(key));
        let digest = Sha256::digest(format!("{expiry}:{}:{salt}", secret(number)));
        let (username, password) = (format!("{expiry}:{salt}"), STANDARD_NO_PAD.encode(digest));
        Relay {
            id: Uuid::from_u128(0xe000 + number as u128),
            addresses: addresses(number).to_vec(),
            credentials: Some(RelayCredentials { username, password }),
        }
    }

    pub(crate) fn wake(&mut self, now: Instant, out: &mut Vec<Effect>) {
        if !self.alarm.ring(now) {
            out.push(Effect::Violation(format!("relay {} is woken without end", self.number)));
        }
        self.server.handle_timeout(now);
        self.drain(now, out);
    }

    pub(crate) fn handle_datagram(
        &mut self,
        datagram: &Datagram,
        now: Instant,
        out: &mut Vec<Effect>,
    ) {
        let Datagram { source, destination, payload, cargo, .. } = datagram;
        if destination.port() == PORT {
            let (transport, remote, local) = (Transport::Udp, *source, *destination);
            let client = FiveTuple { transport, remote, local };
            return self.handle_message(client, payload, *cargo, now, out);
        }
        if let Some(allocation) = self.ports.get(&destination.port())
            && let Some(data) = self.server.handle_peer(*allocation, *source, payload.len())
        {
            let padding = vec![0; data.padding];
            let bytes = [data.prefix.as_bytes(), payload, &padding].concat();
            out.push(transmit(data.client.local, data.client.remote, bytes, *cargo));
        }
        self.drain(now, out);
    }

    /// What a client says.
    pub(crate) fn handle_message(
        &mut self,
        client: FiveTuple,
        message: &[u8],
        cargo: Option<ProbeId>,
        now: Instant,
        out: &mut Vec<Effect>,
    ) {
        let unix_seconds = BEGIN + (now - self.started).as_secs();
        let time = Now { instant: now, unix_seconds };
        if let FromClient::Forward(data) = self.server.handle_client(client, message, time) {
            let [v4, v6] = addresses(self.number);
            let own = if data.peer.is_ipv4() { v4 } else { v6 };
            let local = SocketAddr::new(own.ip(), data.port);
            out.push(transmit(local, data.peer, data.payload.to_vec(), cargo));
        }
        self.drain(now, out);
    }

    pub(crate) fn handle_stream_closed(
        &mut self,
        client: FiveTuple,
        now: Instant,
        out: &mut Vec<Effect>,
    ) {
        self.server.handle_stream_closed(client);
        self.drain(now, out);
    }

    fn drain(&mut self, now: Instant, out: &mut Vec<Effect>) {
        loop {
            match self.server.poll_output() {
                Output::Send { client, bytes } => {
                    out.push(transmit(client.local, client.remote, bytes, None));
                }
                Output::OpenPort { allocation, port, .. } => {
                    self.ports.insert(port, allocation);
                    self.server.handle_port_opened(allocation, Ok(()), now);
                }
                Output::ClosePort { port, .. } => {
                    self.ports.remove(&port);
                }
                Output::Timeout(at) => {
                    self.alarm.at = at;
                    return;
                }
                Output::ChannelBound(_) | Output::ChannelUnbound(_) | Output::UsernameMoved(_) => {}
            }
        }
    }
}

/// Where a relay listens: IPv4, IPv6.
pub(crate) fn addresses(number: usize) -> [SocketAddr; 2] {
    let low = number as u8 + 1;
    let ip6 = [0x2001, 0xdb8, 0xfffe, 0, 0, 0, 0, low.into()];
    [([198, 51, 100, low], PORT).into(), (ip6, PORT).into()]
}

fn secret(number: usize) -> String {
    format!("secret of relay {number}")
}

fn transmit(
    local: SocketAddr,
    remote: SocketAddr,
    payload: Vec<u8>,
    cargo: Option<ProbeId>,
) -> Effect {
    let path = connlib_link::Path { local: Some(local), remote };
    Effect::Transmit(connlib_link::Transmit { path, payload }, Ecn::NotEct, cargo)
}
