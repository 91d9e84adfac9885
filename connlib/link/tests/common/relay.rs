//! A relay on the network in memory: the real server without its sockets.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use connlib_link::{Relay, RelayCredentials};
use connlib_relay::server::{
    AllocationId, Config, Credentials, FiveTuple, FromClient, Now, Output, Server, Transport,
};
use sha2::{Digest, Sha256};
use uuid::Uuid;

const PORT: u16 = 3478;

pub struct RelayHost {
    pub server: Server,
    pub latency: Duration,
    /// Datagrams to it vanish.
    pub dead: bool,
    /// The portal names it.
    pub listed: bool,
    /// Part of the user names: another one means other credentials.
    pub salt: u32,
    pub next_timeout: Option<Instant>,
    number: u8,
    /// Goes into its secret and its id.
    generation: u8,
    ports: HashMap<u16, AllocationId>,
    /// Addresses of clients that are connected.
    streams: HashMap<SocketAddr, u64>,
    start: Instant,
}

impl RelayHost {
    pub fn new(number: u8, now: Instant) -> Self {
        Self {
            server: server(number, 0, 0, now),
            latency: Duration::ZERO,
            dead: false,
            listed: true,
            salt: 0,
            next_timeout: None,
            number,
            generation: 0,
            ports: HashMap::new(),
            streams: HashMap::new(),
            start: now,
        }
    }

    /// Loses all that it knows.
    pub fn restart(&mut self, now: Instant) {
        self.server = server(self.number, self.generation, 1, now);
        self.ports.clear();
        self.streams.clear();
    }

    /// Loses all that it knows, and has another secret and id.
    pub fn restart_as_another(&mut self, now: Instant) {
        self.generation += 1;
        self.restart(now);
    }

    pub fn has(&self, address: SocketAddr) -> bool {
        self.ips().contains(&address.ip())
    }

    /// What the portal says about it.
    pub fn announce(&self, user: &str) -> Relay {
        let (secret, salt) = (secret(self.number, self.generation), format!("{user}{}", self.salt));
        let username = format!("9000000000:{salt}");
        let digest = Sha256::digest(format!("9000000000:{secret}:{salt}"));
        Relay {
            id: Uuid::from_u128(u16::from_be_bytes([self.generation, self.number]).into()),
            addresses: self.ips().into_iter().map(|ip| SocketAddr::new(ip, PORT)).collect(),
            credentials: Some(RelayCredentials {
                username,
                password: STANDARD_NO_PAD.encode(digest),
            }),
        }
    }

    pub fn open_stream(&mut self, client: SocketAddr, number: u64) {
        self.streams.insert(client, number);
    }

    pub fn close_stream(&mut self, client: SocketAddr, to: SocketAddr, now: Instant) {
        if let Some(number) = self.streams.remove(&client) {
            let transport = Transport::Stream(number);
            let client = FiveTuple { transport, remote: client, local: to };
            self.server.handle_stream_closed(client);
            self.drain(&mut Vec::new(), now);
        }
    }

    /// Takes a datagram, or a message from a stream: what it sends on.
    pub fn handle(
        &mut self,
        from: SocketAddr,
        to: SocketAddr,
        payload: &[u8],
        now: Instant,
    ) -> Vec<(SocketAddr, SocketAddr, Vec<u8>)> {
        let mut sent = Vec::new();
        if self.dead {
            return sent;
        }
        if to.port() == PORT || self.streams.contains_key(&from) {
            let transport =
                self.streams.get(&from).map_or(Transport::Udp, |number| Transport::Stream(*number));
            let client = FiveTuple { transport, remote: from, local: to };
            let unix_seconds = 1_800_000_000 + (now - self.start).as_secs();
            let time = Now { instant: now, unix_seconds };
            if let FromClient::Forward(data) = self.server.handle_client(client, payload, time) {
                let own = self.ips().into_iter().find(|ip| ip.is_ipv4() == data.peer.is_ipv4());
                let own = SocketAddr::new(own.unwrap(), data.port);
                sent.push((own, data.peer, data.payload.to_vec()));
            }
        } else if let Some(allocation) = self.ports.get(&to.port())
            && let Some(data) = self.server.handle_peer(*allocation, from, payload.len())
        {
            let padding = vec![0; data.padding];
            let bytes = [data.prefix.as_bytes(), payload, &padding].concat();
            sent.push((data.client.local, data.client.remote, bytes));
        }
        self.drain(&mut sent, now);
        sent
    }

    pub fn handle_timeout(&mut self, now: Instant) {
        self.server.handle_timeout(now);
        self.drain(&mut Vec::new(), now);
    }

    fn drain(&mut self, sent: &mut Vec<(SocketAddr, SocketAddr, Vec<u8>)>, now: Instant) {
        loop {
            match self.server.poll_output() {
                Output::Send { client, bytes } => sent.push((client.local, client.remote, bytes)),
                Output::OpenPort { allocation, port, .. } => {
                    self.ports.insert(port, allocation);
                    self.server.handle_port_opened(allocation, Ok(()), now);
                }
                Output::ClosePort { port, .. } => {
                    self.ports.remove(&port);
                }
                Output::Timeout(at) => {
                    self.next_timeout = at;
                    return;
                }
                _ => {}
            }
        }
    }

    fn ips(&self) -> [IpAddr; 2] {
        [
            IpAddr::from([203, 0, 113, self.number]),
            IpAddr::from([0x2001, 0xdb8, 0xffff, 0, 0, 0, 0, self.number.into()]),
        ]
    }
}

fn secret(number: u8, generation: u8) -> String {
    format!("secret {generation} of relay {number}")
}

fn server(number: u8, generation: u8, seed: u8, now: Instant) -> Server {
    let stamp_secrets = vec![secret(number, generation)];
    let credentials = Credentials { stamp_secrets, ..Credentials::default() };
    let mut config = Config::new(credentials, [seed; 32]);
    config.public_ip4 = Some([203, 0, 113, number].into());
    config.public_ip6 = Some([0x2001, 0xdb8, 0xffff, 0, 0, 0, 0, number.into()].into());
    Server::new(config, now).unwrap()
}
