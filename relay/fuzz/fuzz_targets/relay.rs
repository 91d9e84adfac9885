//! A relay with one secret, and somebody who knows it.
#![allow(dead_code)] // each target uses a part

use std::time::{Duration, Instant};

use connlib_relay::server::{
    AllocationId, Config, Credentials, FiveTuple, Now, Output, PortError, Server, Transport, User,
};
use stun_types::attribute::{AttributeType, Nonce, RawAttribute};
use stun_types::message::{
    IntegrityAlgorithm, LongTermKeyCredentials, Message, MessageClass, MessageType, MessageWriteVec,
    Method,
};
use stun_types::prelude::*;

pub const REALM: &str = "firezone";

pub struct Relay {
    pub server: Server,
    pub now: Now,
    pub nonces: Vec<Option<String>>,
    pub allocations: Vec<AllocationId>,
}

impl Relay {
    pub fn new() -> Self {
        let user = |n: usize| User { name: format!("user{n}"), password: "password".to_owned() };
        let users = (0..4).map(user).collect();
        let mut config = Config::new(Credentials { users, ..Credentials::default() }, [1; 32]);
        config.public_ip4 = Some([203, 0, 113, 1].into());
        config.public_ip6 = Some("2001:db8::1".parse().unwrap());
        config.allocation_ports = 50_000..=50_007;
        config.limits.channels = 16;
        config.limits.permissions = 16;
        let now = Now { instant: Instant::now(), unix_seconds: 1_800_000_000 };
        let server = Server::new(config, now.instant).unwrap();
        Self { server, now, nonces: vec![None; 256], allocations: Vec::new() }
    }

    pub fn client(n: u8) -> FiveTuple {
        let transport = if n & 1 == 0 { Transport::Udp } else { Transport::Stream(n.into()) };
        let remote = ([198, 51, 100, n / 8], 5000 + u16::from(n)).into();
        FiveTuple { transport, remote, local: ([203, 0, 113, 1], 3478).into() }
    }

    /// Takes all outputs; ports fail as the bits say.
    pub fn drain(&mut self, client: u8, mut failures: u8) {
        loop {
            match self.server.poll_output() {
                Output::Send { client: to, bytes } => {
                    let message = Message::from_bytes(&bytes).unwrap();
                    if let (true, Ok(nonce)) =
                        (to == Self::client(client), message.attribute::<Nonce>())
                    {
                        self.nonces[usize::from(client)] = Some(nonce.nonce().to_owned());
                    }
                }
                Output::OpenPort { allocation, .. } => {
                    let result = if failures & 1 == 0 { Ok(()) } else { Err(PortError::InUse) };
                    failures >>= 1;
                    self.allocations.push(allocation);
                    self.server.handle_port_opened(allocation, result, self.now.instant);
                }
                Output::Timeout(_) => return,
                _ => {}
            }
        }
    }

    pub fn signed(&self, client: u8, method: u16, attributes: &[(u16, Vec<u8>)]) -> Option<Vec<u8>> {
        let (name, password) = (format!("user{}", client % 4), "password".to_owned());
        let kind = MessageType::from_class_method(MessageClass::Request, Method::new(method));
        let mut message = Message::builder(kind, u128::from(client).into(), MessageWriteVec::new());
        let nonce = self.nonces[usize::from(client)].clone().unwrap_or_default();
        let known = [(0x06, name.clone()), (0x14, REALM.to_owned()), (0x15, nonce)];
        let known = known.map(|(kind, value)| (kind, value.into_bytes()));
        for (kind, value) in known.iter().chain(attributes) {
            if !matches!(kind, 0x08 | 0x1c | 0x8028) {
                message.add_attribute(&RawAttribute::new(AttributeType::new(*kind), value)).ok()?;
            }
        }
        let credentials = LongTermKeyCredentials::new(name, password, REALM.to_owned()).into();
        message.add_message_integrity(&credentials, IntegrityAlgorithm::Sha1).ok()?;
        Some(message.finish())
    }

    /// An allocation with a channel, or the relay is broken.
    pub fn with_channel(client: u8) -> Self {
        let mut relay = Self::new();
        let udp = (0x19, vec![17, 0, 0, 0]);
        let peer = (0x12, vec![0, 1, 0x21, 0x13, 0x21 ^ 192, 0x12, 0xa4 ^ 2, 0x42 ^ 9]);
        let channel = (0x0c, vec![0x40, 0, 0, 0]);
        for (method, attributes) in [(3, vec![udp.clone()]), (3, vec![udp]), (9, vec![channel, peer])] {
            let request = relay.signed(client, method, &attributes).unwrap();
            relay.server.handle_client(Self::client(client), &request, relay.now);
            relay.drain(client, 0);
        }
        assert_eq!(relay.server.channels(), 1);
        relay
    }

    pub fn pass(&mut self, seconds: u16) {
        self.now.instant += Duration::from_secs(seconds.into());
        self.server.handle_timeout(self.now.instant);
    }
}
