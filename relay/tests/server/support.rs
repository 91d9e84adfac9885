//! A relay whose ports open by themselves, and clients for it.

use std::collections::{BTreeMap, HashSet};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use connlib_relay::server::{
    AllocationId, ChannelBinding, Config, Credentials, Families, FiveTuple, FromClient, Now,
    Output, PortError, Server, ToPeer, Transport, User, UsernameMoved,
};
use data_encoding::BASE64_NOPAD;
use rand::RngExt;
use rand_chacha::ChaCha20Rng;
use sha2::{Digest, Sha256};
use stun_types::attribute::{AttributeType, ErrorCode, Nonce, RawAttribute, XorMappedAddress};
use stun_types::message::{
    IntegrityAlgorithm, LongTermKeyCredentials, Message, MessageClass, MessageIntegrityCredentials,
    MessageType, MessageWriteVec, Method,
};
use stun_types::prelude::*;
use turn_types::attribute::{XorPeerAddress, XorRelayedAddress};

pub(crate) const BINDING: u16 = 1;
pub(crate) const ALLOCATE: u16 = 3;
pub(crate) const REFRESH: u16 = 4;
pub(crate) const SEND: u16 = 6;
pub(crate) const CREATE_PERMISSION: u16 = 8;
pub(crate) const CHANNEL_BIND: u16 = 9;

pub(crate) const CHANNEL_NUMBER: u16 = 0x0c;
pub(crate) const LIFETIME: u16 = 0x0d;
pub(crate) const DATA: u16 = 0x13;
pub(crate) const REQUESTED_ADDRESS_FAMILY: u16 = 0x17;
pub(crate) const EVEN_PORT: u16 = 0x18;
pub(crate) const REQUESTED_TRANSPORT: u16 = 0x19;
pub(crate) const DONT_FRAGMENT: u16 = 0x1a;
pub(crate) const RESERVATION_TOKEN: u16 = 0x22;
pub(crate) const ADDITIONAL_ADDRESS_FAMILY: u16 = 0x8000;
pub(crate) const ADDRESS_ERROR_CODE: u16 = 0x8001;
pub(crate) const SOFTWARE: u16 = 0x8022;

pub(crate) const REALM: &str = "firezone";
pub(crate) const SECRET: &str = "a secret of the relay";
pub(crate) const UNIX_SECONDS: u64 = 1_800_000_000;

/// The value of REQUESTED-TRANSPORT for UDP.
pub(crate) const UDP: (u16, &[u8]) = (REQUESTED_TRANSPORT, &[17, 0, 0, 0]);
/// The value of ADDITIONAL-ADDRESS-FAMILY for IPv6.
pub(crate) const BOTH_FAMILIES: (u16, &[u8]) = (ADDITIONAL_ADDRESS_FAMILY, &[2, 0, 0, 0]);

pub(crate) fn config() -> Config {
    let credentials = Credentials {
        stamp_secrets: vec![SECRET.to_owned()],
        users: vec![User { name: "alice".to_owned(), password: "wonderland".to_owned() }],
        ..Credentials::default()
    };
    let mut config = Config::new(credentials, [3; 32]);
    config.public_ip4 = Some([203, 0, 113, 1].into());
    config.public_ip6 = Some("2001:db8::1".parse().unwrap());
    config
}

pub(crate) fn address(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

pub(crate) struct Relay {
    pub(crate) server: Server,
    pub(crate) now: Now,
    /// Ports that others have.
    pub(crate) busy_ports: HashSet<u16>,
    pub(crate) opens_ports: bool,
    pub(crate) open_ports: BTreeMap<AllocationId, (u16, Families)>,
    pub(crate) channels: Vec<ChannelBinding>,
    pub(crate) moved: Vec<UsernameMoved>,
    /// What was sent, in order.
    pub(crate) sent: Vec<(FiveTuple, Vec<u8>)>,
}

impl Relay {
    pub(crate) fn new(config: Config) -> Self {
        let now = Now { instant: Instant::now(), unix_seconds: UNIX_SECONDS };
        Self {
            server: Server::new(config, now.instant).unwrap(),
            now,
            busy_ports: HashSet::new(),
            opens_ports: true,
            open_ports: BTreeMap::new(),
            channels: Vec::new(),
            moved: Vec::new(),
            sent: Vec::new(),
        }
    }

    /// Does what the server wants, until it wants nothing more. Returns when it wants to be called again.
    pub(crate) fn run(&mut self) -> Option<Instant> {
        self.run_with(None)
    }

    /// The same with ports that now and then can't be opened.
    pub(crate) fn run_with(&mut self, mut rng: Option<&mut ChaCha20Rng>) -> Option<Instant> {
        let (mut pending, mut late) = (Vec::new(), Vec::new());
        loop {
            match self.server.poll_output() {
                Output::Send { client, bytes } => {
                    assert_eq!(bytes.len() % 4, 0);
                    self.sent.push((client, bytes));
                }
                Output::OpenPort { allocation, port, families } => {
                    pending.push((allocation, port, families))
                }
                Output::ClosePort { allocation, port, families } => {
                    if let Some(index) = pending.iter().position(|pending| pending.0 == allocation)
                    {
                        assert_eq!(pending.remove(index), (allocation, port, families));
                        late.push(allocation);
                        continue;
                    }
                    let (open_port, open) = self.open_ports.get_mut(&allocation).unwrap();
                    assert_eq!(*open_port, port);
                    open.ip4 &= !families.ip4;
                    open.ip6 &= !families.ip6;
                    if open.is_empty() {
                        self.open_ports.remove(&allocation);
                    }
                }
                Output::ChannelBound(binding) => {
                    assert!(self.open_ports.contains_key(&binding.allocation));
                    self.channels.push(binding);
                }
                Output::ChannelUnbound(binding) => {
                    let index = self.channels.iter().position(|other| *other == binding).unwrap();
                    self.channels.remove(index);
                }
                Output::UsernameMoved(moved) => self.moved.push(moved),
                Output::Timeout(at) => {
                    for allocation in late.drain(..) {
                        self.server.handle_port_opened(allocation, Ok(()), self.now.instant);
                    }
                    let Some((allocation, port, families)) = pending.pop() else { return at };
                    let result = self.bind_port(port, rng.as_deref_mut());
                    if result == Ok(()) {
                        let is_free = !self.open_ports.values().any(|(other, _)| *other == port);
                        assert!(is_free, "{port} is open already");
                        self.open_ports.insert(allocation, (port, families));
                    }
                    if self.opens_ports {
                        self.server.handle_port_opened(allocation, result, self.now.instant);
                    }
                }
            }
        }
    }

    fn bind_port(&self, port: u16, rng: Option<&mut ChaCha20Rng>) -> Result<(), PortError> {
        match rng.map_or(9, |rng| rng.random_range(0..10)) {
            0 => Err(PortError::Unavailable),
            1..4 => Err(PortError::InUse),
            _ if self.busy_ports.contains(&port) => Err(PortError::InUse),
            _ => Ok(()),
        }
    }

    /// Lets time pass, stopping wherever the server wants.
    pub(crate) fn pass(&mut self, time: Duration) {
        let until = self.now.instant + time;
        self.now.unix_seconds += time.as_secs();
        while let Some(at) = self.run().filter(|at| *at <= until) {
            assert!(at >= self.now.instant);
            self.now.instant = at;
            self.server.handle_timeout(at);
        }
        self.now.instant = until;
        self.server.handle_timeout(until);
        self.run();
    }

    /// Hands in a message and returns what is sent to its sender.
    pub(crate) fn exchange(&mut self, client: FiveTuple, message: &[u8]) -> Option<Vec<u8>> {
        let before = self.sent.len();
        self.server.handle_client(client, message, self.now);
        self.run();
        assert!(self.sent.len() <= before + 1);
        self.sent.get(before).map(|(to, bytes)| {
            assert_eq!(*to, client);
            bytes.clone()
        })
    }

    pub(crate) fn forward<'a>(&mut self, client: &Client, message: &'a [u8]) -> Option<ToPeer<'a>> {
        match self.server.handle_client(client.tuple, message, self.now) {
            FromClient::Forward(to_peer) => Some(to_peer),
            FromClient::Handled => panic!("data was taken for a request"),
            FromClient::Dropped => None,
        }
    }

    /// The whole message for the client that a peer's datagram becomes.
    pub(crate) fn receive(
        &mut self,
        allocation: AllocationId,
        peer: &str,
        payload: &[u8],
    ) -> Option<Vec<u8>> {
        let framed = self.server.handle_peer(allocation, address(peer), payload.len())?;
        Some([framed.prefix.as_bytes(), payload, &[0; 3][..framed.padding]].concat())
    }
}

pub(crate) struct Client {
    pub(crate) tuple: FiveTuple,
    pub(crate) username: String,
    pub(crate) password: String,
    pub(crate) nonce: Option<String>,
    pub(crate) algorithm: IntegrityAlgorithm,
    pub(crate) has_fingerprint: bool,
    pub(crate) transaction: u128,
}

impl Client {
    /// A client with a username of the portal's form.
    pub(crate) fn stamped(remote: &str, salt: &str) -> Self {
        Self::stamped_until(remote, UNIX_SECONDS + 24 * 60 * 60, salt)
    }

    pub(crate) fn stamped_until(remote: &str, expiry: u64, salt: &str) -> Self {
        let digest = Sha256::digest(format!("{expiry}:{SECRET}:{salt}"));
        Self::new(remote, &format!("{expiry}:{salt}"), &BASE64_NOPAD.encode(&digest))
    }

    pub(crate) fn alice(remote: &str) -> Self {
        Self::new(remote, "alice", "wonderland")
    }

    pub(crate) fn new(remote: &str, username: &str, password: &str) -> Self {
        let remote = address(remote);
        let local =
            address(if remote.is_ipv4() { "203.0.113.1:3478" } else { "[2001:db8::1]:3478" });
        Self {
            tuple: FiveTuple { transport: Transport::Udp, remote, local },
            username: username.to_owned(),
            password: password.to_owned(),
            nonce: None,
            algorithm: IntegrityAlgorithm::Sha1,
            has_fingerprint: false,
            transaction: u128::from(remote.port()) << 32,
        }
    }

    pub(crate) fn over_stream(mut self, id: u64) -> Self {
        self.tuple.transport = Transport::Stream(id);
        self
    }

    pub(crate) fn credentials(&self) -> MessageIntegrityCredentials {
        LongTermKeyCredentials::new(self.username.clone(), self.password.clone(), REALM.to_owned())
            .into()
    }

    /// A request with credentials, and a nonce if there is one.
    pub(crate) fn signed(&self, method: u16, attributes: &[(u16, &[u8])]) -> Vec<u8> {
        let mut all = attributes.to_vec();
        all.push((0x06, self.username.as_bytes()));
        all.push((0x14, REALM.as_bytes()));
        if let Some(nonce) = &self.nonce {
            all.push((0x15, nonce.as_bytes()));
        }
        let mut message = write(MessageClass::Request, method, self.transaction, &all);
        message.add_message_integrity(&self.credentials(), self.algorithm).unwrap();
        if self.has_fingerprint {
            message.add_fingerprint().unwrap();
        }
        message.finish()
    }

    /// Asks until the answer is something else than a challenge.
    pub(crate) fn ask(
        &mut self,
        relay: &mut Relay,
        method: u16,
        attributes: &[(u16, &[u8])],
    ) -> Answer {
        for _ in 0..2 {
            self.transaction += 1;
            let answer = relay.exchange(self.tuple, &self.signed(method, attributes)).unwrap();
            let answer = Answer { bytes: answer };
            answer.check(self);
            match answer.nonce() {
                Some(nonce) if self.nonce.as_ref() != Some(&nonce) => self.nonce = Some(nonce),
                _ => return answer,
            }
        }
        panic!("two challenges in a row");
    }

    /// An allocation of both families.
    pub(crate) fn allocate(&mut self, relay: &mut Relay) -> AllocationId {
        let before: HashSet<_> = relay.open_ports.keys().copied().collect();
        assert_eq!(self.ask(relay, ALLOCATE, &[UDP, BOTH_FAMILIES]).code(), None);
        *relay.open_ports.keys().find(|id| !before.contains(id)).unwrap()
    }

    pub(crate) fn bind(&mut self, relay: &mut Relay, channel: u16, peer: &str) -> Option<u16> {
        self.transaction += 1;
        let [a, b] = channel.to_be_bytes();
        let peer = xor_peer(address(peer), self.transaction);
        self.transaction -= 1;
        self.ask(relay, CHANNEL_BIND, &[(CHANNEL_NUMBER, &[a, b, 0, 0]), (0x12, &peer)]).code()
    }

    pub(crate) fn permit(&mut self, relay: &mut Relay, peers: &[&str]) -> Option<u16> {
        self.transaction += 1;
        let peers: Vec<_> =
            peers.iter().map(|peer| xor_peer(address(peer), self.transaction)).collect();
        self.transaction -= 1;
        let peers: Vec<_> = peers.iter().map(|peer| (0x12, peer.as_slice())).collect();
        self.ask(relay, CREATE_PERMISSION, &peers).code()
    }

    pub(crate) fn send_indication(&self, peer: &str, payload: &[u8]) -> Vec<u8> {
        let peer = xor_peer(address(peer), self.transaction);
        write(MessageClass::Indication, SEND, self.transaction, &[(0x12, &peer), (DATA, payload)])
            .finish()
    }
}

/// A message without integrity.
pub(crate) fn write(
    class: MessageClass,
    method: u16,
    transaction: u128,
    attributes: &[(u16, &[u8])],
) -> MessageWriteVec {
    let kind = MessageType::from_class_method(class, Method::new(method));
    let mut message = Message::builder(kind, transaction.into(), MessageWriteVec::new());
    for (kind, value) in attributes {
        message.add_attribute(&RawAttribute::new(AttributeType::new(*kind), value)).unwrap();
    }
    message
}

pub(crate) fn request(method: u16, attributes: &[(u16, &[u8])]) -> Vec<u8> {
    write(MessageClass::Request, method, 77, attributes).finish()
}

fn xor_peer(peer: SocketAddr, transaction: u128) -> Vec<u8> {
    XorPeerAddress::new(peer, transaction.into()).to_raw().value.to_vec()
}

pub(crate) fn channel_data(channel: u16, payload: &[u8]) -> Vec<u8> {
    [&channel.to_be_bytes(), &(payload.len() as u16).to_be_bytes(), payload].concat()
}

/// A response.
pub(crate) struct Answer {
    pub(crate) bytes: Vec<u8>,
}

impl Answer {
    pub(crate) fn message(&self) -> Message<'_> {
        Message::from_bytes(&self.bytes).unwrap()
    }

    pub(crate) fn code(&self) -> Option<u16> {
        let message = self.message();
        let code = message.attribute::<ErrorCode>().ok().map(|error| error.code());
        assert_eq!(message.has_class(MessageClass::Error), code.is_some());
        assert_eq!(message.has_class(MessageClass::Success), code.is_none());
        code
    }

    pub(crate) fn nonce(&self) -> Option<String> {
        Some(self.message().attribute::<Nonce>().ok()?.nonce().to_owned())
    }

    pub(crate) fn mapped(&self) -> SocketAddr {
        let message = self.message();
        message.attribute::<XorMappedAddress>().unwrap().addr(message.transaction_id())
    }

    pub(crate) fn relayed(&self) -> Vec<SocketAddr> {
        let message = self.message();
        let nth = |n| message.nth_attribute::<XorRelayedAddress>(n).ok();
        (0..).map_while(nth).map(|relayed| relayed.addr(message.transaction_id())).collect()
    }

    pub(crate) fn value(&self, kind: u16) -> Option<Vec<u8>> {
        Some(self.message().raw_attribute(AttributeType::new(kind))?.value.to_vec())
    }

    pub(crate) fn lifetime(&self) -> u32 {
        u32::from_be_bytes(self.value(LIFETIME).unwrap().try_into().unwrap())
    }

    pub(crate) fn is_signed(&self) -> bool {
        self.value(0x08).is_some() || self.value(0x1c).is_some()
    }

    /// A response to a request of `client`: of the same transaction, signed with what both know.
    pub(crate) fn check(&self, client: &Client) {
        let message = self.message();
        assert_eq!(message.transaction_id(), client.transaction.into());
        assert_eq!(self.value(0x8028).is_some(), client.has_fingerprint);
        if self.is_signed() {
            assert_eq!(
                message.validate_integrity(&client.credentials()).unwrap(),
                client.algorithm
            );
        } else {
            assert!(matches!(self.code(), Some(400 | 401)));
        }
    }
}
