//! A client of the relay (RFC 8656): it asks one thing after the other, and keeps what comes meanwhile.

use std::{
    collections::VecDeque,
    net::SocketAddr,
    time::{Duration, Instant},
};

use anyhow::{Result, bail};
use rand::{RngExt as _, rngs::SmallRng};
use stun_types::{
    attribute::{Attribute as _, AttributeType, ErrorCode, Nonce, RawAttribute},
    message::{
        IntegrityAlgorithm, LongTermKeyCredentials, Message, MessageClass, MessageType,
        MessageWriteVec, Method, TransactionId,
    },
    prelude::*,
};
use turn_types::attribute::{Data, XorPeerAddress, XorRelayedAddress};

use super::link::Link;

pub(super) const REALM: &str = "firezone";

pub(super) const BINDING: u16 = 1;
pub(super) const ALLOCATE: u16 = 3;
const REFRESH: u16 = 4;
const SEND: u16 = 6;
const CREATE_PERMISSION: u16 = 8;
const CHANNEL_BIND: u16 = 9;

const USERNAME: u16 = 0x06;
const CHANNEL_NUMBER: u16 = 0x0c;
const LIFETIME: u16 = 0x0d;
const PEER: u16 = 0x12;
const DATA: u16 = 0x13;
const REALM_ATTRIBUTE: u16 = 0x14;
const NONCE: u16 = 0x15;
const FAMILY: u16 = 0x17;
const ADDITIONAL_FAMILY: u16 = 0x8000;
/// REQUESTED-TRANSPORT, and its value for UDP.
pub(super) const TRANSPORT: (u16, &[u8]) = (0x19, &[17, 0, 0, 0]);
/// IPv6 as a value of the two above.
const IP6: &[u8] = &[2, 0, 0, 0];

const UNAUTHENTICATED: u16 = 401;
const STALE_NONCE: u16 = 438;
const MISMATCH: u16 = 437;

/// An answer comes by then. Over UDP, so many attempts are made meanwhile.
const PATIENCE: Duration = Duration::from_secs(8);
const ATTEMPTS: u32 = 10;
/// How often the relay may ask who we are before it believes us.
const CHALLENGES: u32 = 2;
/// What waits to be looked at, at most.
const WAITING: usize = 4096;

/// Who asks.
#[derive(Debug, Clone)]
pub(super) struct Identity {
    pub(super) username: String,
    pub(super) password: String,
}

/// Addresses that an allocation is to have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Families {
    Ip4,
    Ip6,
    Both,
}

/// An error response.
#[derive(Debug, thiserror::Error)]
#[error("the relay answers method {method} by error {code}")]
pub(super) struct Refusal {
    method: u16,
    code: u16,
}

impl Refusal {
    pub(super) fn code(&self) -> u16 {
        self.code
    }
}

/// A payload, and whom it is from.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Received {
    Channel(u16, Vec<u8>),
    From(SocketAddr, Vec<u8>),
}

pub(super) struct Client {
    link: Link,
    identity: Identity,
    nonce: Option<String>,
    rng: SmallRng,
    waiting: VecDeque<Received>,
}

impl Client {
    pub(super) fn new(link: Link, identity: Identity, rng: SmallRng) -> Self {
        Self { link, identity, nonce: None, rng, waiting: VecDeque::new() }
    }

    pub(super) fn link(&self) -> &Link {
        &self.link
    }

    /// Allocates. Returns the addresses where peers find this client, one for each family.
    pub(super) fn allocate(&mut self, families: Families) -> Result<Vec<SocketAddr>> {
        let mut attributes = vec![attribute(TRANSPORT.0, TRANSPORT.1)];
        match families {
            Families::Ip4 => {}
            Families::Ip6 => attributes.push(attribute(FAMILY, IP6)),
            Families::Both => attributes.push(attribute(ADDITIONAL_FAMILY, IP6)),
        }
        self.ask(ALLOCATE, |_| attributes.clone())
    }

    /// Prolongs the allocation.
    pub(super) fn refresh(&mut self) -> Result<()> {
        self.ask(REFRESH, |_| vec![attribute(LIFETIME, &600_u32.to_be_bytes())]).map(drop)
    }

    /// Gives the allocation back. Fine if there is none any more.
    pub(super) fn give_back(&mut self) -> Result<()> {
        let result = self.ask(REFRESH, |_| vec![attribute(LIFETIME, &[0; 4])]);
        match result {
            Err(error)
                if error.downcast_ref().is_some_and(|Refusal { code, .. }| *code == MISMATCH) =>
            {
                Ok(())
            }
            result => result.map(drop),
        }
    }

    /// Permits peers.
    pub(super) fn permit(&mut self, peers: &[SocketAddr]) -> Result<()> {
        self.ask(CREATE_PERMISSION, |id| peers.iter().map(|at| peer(*at, id)).collect()).map(drop)
    }

    /// Binds a channel, or prolongs it.
    pub(super) fn bind(&mut self, channel: u16, at: SocketAddr) -> Result<()> {
        let [high, low] = channel.to_be_bytes();
        self.ask(CHANNEL_BIND, |id| {
            vec![attribute(CHANNEL_NUMBER, &[high, low, 0, 0]), peer(at, id)]
        })
        .map(drop)
    }

    /// Sends by a channel.
    pub(super) fn send_by_channel(&mut self, channel: u16, payload: &[u8]) -> Result<()> {
        let length = u16::try_from(payload.len())?;
        self.link.send(&[&channel.to_be_bytes(), &length.to_be_bytes(), payload].concat())
    }

    /// Sends by a Send indication.
    pub(super) fn send_to(&mut self, at: SocketAddr, payload: &[u8]) -> Result<()> {
        let id = transaction(&mut self.rng);
        let kind = MessageType::from_class_method(MessageClass::Indication, Method::new(SEND));
        let mut message = Message::builder(kind, id, MessageWriteVec::new());
        for Attribute { kind, value } in [peer(at, id), attribute(DATA, payload)] {
            message.add_attribute(&RawAttribute::new(AttributeType::new(kind), &value))?;
        }
        self.link.send(&message.finish())
    }

    /// The next payload, if one comes until `deadline`.
    pub(super) fn receive(&mut self, deadline: Instant) -> Result<Option<Received>> {
        loop {
            if let Some(received) = self.waiting.pop_front() {
                return Ok(Some(received));
            }
            let Some(message) = self.link.receive(deadline)? else { return Ok(None) };
            self.keep(&message);
        }
    }

    /// Asks until there is an answer other than a challenge. Returns the relayed addresses of the answer.
    fn ask(
        &mut self,
        method: u16,
        attributes: impl Fn(TransactionId) -> Vec<Attribute>,
    ) -> Result<Vec<SocketAddr>> {
        for _ in 0..=CHALLENGES {
            let id = transaction(&mut self.rng);
            let nonce = self.nonce.as_deref().map(|nonce| (&self.identity, nonce));
            let message = request(method, id, &attributes(id), nonce)?;
            match self.answer(&message, id)? {
                Answer::Success(relayed) => return Ok(relayed),
                Answer::Error(UNAUTHENTICATED | STALE_NONCE, Some(nonce))
                    if self.nonce.as_ref() != Some(&nonce) =>
                {
                    self.nonce = Some(nonce);
                }
                Answer::Error(code, _) => return Err(Refusal { method, code }.into()),
            }
        }
        Err(Refusal { method, code: UNAUTHENTICATED }.into())
    }

    /// Sends a request until it is answered.
    fn answer(&mut self, message: &[u8], id: TransactionId) -> Result<Answer> {
        let attempts = if self.link.is_datagrams() { ATTEMPTS } else { 1 };
        for _ in 0..attempts {
            self.link.send(message)?;
            let deadline = Instant::now() + PATIENCE / attempts;
            while let Some(message) = self.link.receive(deadline)? {
                match Answer::parse(&message, id) {
                    Some(answer) => return Ok(answer),
                    None => self.keep(&message),
                }
            }
        }
        bail!("no answer from the relay")
    }

    fn keep(&mut self, message: &[u8]) {
        if let Some(received) = Received::parse(message)
            && self.waiting.len() < WAITING
        {
            self.waiting.push_back(received);
        }
    }
}

#[derive(Debug, Clone)]
pub(super) struct Attribute {
    kind: u16,
    value: Vec<u8>,
}

pub(super) fn attribute(kind: u16, value: &[u8]) -> Attribute {
    Attribute { kind, value: value.to_vec() }
}

fn peer(at: SocketAddr, id: TransactionId) -> Attribute {
    attribute(PEER, &XorPeerAddress::new(at, id).to_raw().value)
}

pub(super) fn transaction(rng: &mut SmallRng) -> TransactionId {
    (rng.random::<u128>() >> 32).into()
}

/// A request, signed if there is a nonce to sign it with.
pub(super) fn request(
    method: u16,
    id: TransactionId,
    attributes: &[Attribute],
    credentials: Option<(&Identity, &str)>,
) -> Result<Vec<u8>> {
    let kind = MessageType::from_class_method(MessageClass::Request, Method::new(method));
    let mut message = Message::builder(kind, id, MessageWriteVec::new());
    for Attribute { kind, value } in attributes {
        message.add_attribute(&RawAttribute::new(AttributeType::new(*kind), value))?;
    }
    if let Some((Identity { username, password }, nonce)) = credentials {
        for (kind, value) in
            [(USERNAME, username.as_str()), (REALM_ATTRIBUTE, REALM), (NONCE, nonce)]
        {
            let value = value.as_bytes();
            message.add_attribute(&RawAttribute::new(AttributeType::new(kind), value))?;
        }
        let (user, password) = (username.clone(), password.clone());
        let key = LongTermKeyCredentials::new(user, password, REALM.to_owned());
        message.add_message_integrity(&key.into(), IntegrityAlgorithm::Sha1)?;
    }
    Ok(message.finish())
}

/// What a relay says to a request.
#[derive(Debug, PartialEq, Eq)]
enum Answer {
    /// With the relayed addresses.
    Success(Vec<SocketAddr>),
    /// With the nonce that comes along.
    Error(u16, Option<String>),
}

impl Answer {
    /// None if this is no answer to this request.
    fn parse(bytes: &[u8], id: TransactionId) -> Option<Self> {
        let message = Message::from_bytes(bytes).ok()?;
        if message.transaction_id() != id {
            return None;
        }
        if message.has_class(MessageClass::Success) {
            let all = message.iter_attributes().map(|(_, attribute)| attribute);
            let relayed = all.filter(|raw| raw.get_type() == XorRelayedAddress::TYPE);
            let relayed = relayed.filter_map(|raw| XorRelayedAddress::from_raw_ref(&raw).ok());
            return Some(Self::Success(relayed.map(|relayed| relayed.addr(id)).collect()));
        }
        let code = message.attribute::<ErrorCode>().ok()?.code();
        let nonce = message.attribute::<Nonce>().ok().map(|nonce| nonce.nonce().to_owned());
        Some(Self::Error(code, nonce))
    }
}

impl Received {
    /// None if this carries no payload.
    fn parse(bytes: &[u8]) -> Option<Self> {
        if let [a @ 0x40..=0x4f, b, high, low, payload @ ..] = bytes {
            let length = usize::from(u16::from_be_bytes([*high, *low]));
            let payload = payload.get(..length)?;
            return Some(Self::Channel(u16::from_be_bytes([*a, *b]), payload.to_vec()));
        }
        let message = Message::from_bytes(bytes).ok()?;
        if !message.has_class(MessageClass::Indication) {
            return None;
        }
        let at = message.attribute::<XorPeerAddress>().ok()?.addr(message.transaction_id());
        Some(Self::From(at, message.attribute::<Data>().ok()?.data().to_vec()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn payloads_are_taken_out_of_what_carries_them() {
        let channel = Received::Channel(0x4001, b"hello".to_vec());
        assert_eq!(Received::parse(b"\x40\x01\0\x05hello\0\0\0"), Some(channel));
        assert_eq!(Received::parse(b"\x40\x01\0\x09hello"), None);

        let at: SocketAddr = "[2001:db8::7]:9".parse().unwrap();
        let kind = MessageType::from_class_method(MessageClass::Indication, Method::new(7));
        let mut message = Message::builder(kind, 5_u128.into(), MessageWriteVec::new());
        for Attribute { kind, value } in [peer(at, 5_u128.into()), attribute(DATA, b"hello")] {
            let raw = RawAttribute::new(AttributeType::new(kind), &value).into_owned();
            message.add_attribute(&raw).unwrap();
        }
        let received = Received::parse(&message.finish());
        assert_eq!(received, Some(Received::From(at, b"hello".to_vec())));
    }
}
