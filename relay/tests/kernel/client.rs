//! A TURN client that does as it is told, right or wrong.

use std::io::ErrorKind;
use std::net::{SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use connlib_e2e::Namespace;
use stun_types::attribute::{AttributeType, ErrorCode, Nonce, RawAttribute};
use stun_types::message::{
    IntegrityAlgorithm, LongTermKeyCredentials, Message, MessageClass, MessageType,
    MessageWriteVec, Method,
};
use stun_types::prelude::*;
use turn_types::attribute::{XorPeerAddress, XorRelayedAddress};

use crate::support::SOON;

const ALLOCATE: u16 = 3;
const REFRESH: u16 = 4;
const CHANNEL_BIND: u16 = 9;

const CHANNEL_NUMBER: u16 = 0x0c;
const LIFETIME: u16 = 0x0d;
const XOR_PEER_ADDRESS: u16 = 0x12;
const REQUESTED_ADDRESS_FAMILY: u16 = 0x17;
/// REQUESTED-TRANSPORT, as it always is.
const UDP: (u16, &[u8]) = (0x19, &[17, 0, 0, 0]);
const ADDITIONAL_ADDRESS_FAMILY: u16 = 0x8000;

const REALM: &str = "firezone";
/// How often a request is repeated: the first packets of a network may be lost.
const PATIENCE: Duration = Duration::from_millis(500);

pub(super) struct Client {
    socket: UdpSocket,
    username: String,
    password: String,
    nonce: Option<String>,
    transaction: u128,
}

impl Client {
    /// The user `anna`, at a port of her own.
    pub(super) fn anna(at: &Namespace, relay: &str) -> Self {
        Self::new(at, relay, "anna", "secret")
    }

    pub(super) fn new(at: &Namespace, relay: &str, username: &str, password: &str) -> Self {
        let relay: SocketAddr = if relay.contains(':') {
            format!("[{relay}]:3478").parse().unwrap()
        } else {
            format!("{relay}:3478").parse().unwrap()
        };
        let socket = socket(at, relay);
        socket.connect(relay).unwrap();
        let [username, password] = [username, password].map(str::to_owned);
        Self { socket, username, password, nonce: None, transaction: 1 }
    }

    /// Where it sends from.
    pub(super) fn address(&self) -> SocketAddr {
        self.socket.local_addr().unwrap()
    }

    /// An allocation of both families: its port.
    pub(super) fn allocate(&mut self) -> u16 {
        self.allocate_with(&[UDP, (ADDITIONAL_ADDRESS_FAMILY, &[2, 0, 0, 0])])
    }

    pub(super) fn allocate_of_ipv4(&mut self) -> u16 {
        self.allocate_with(&[UDP])
    }

    fn allocate_with(&mut self, attributes: &[(u16, &[u8])]) -> u16 {
        let answer = self.ask(ALLOCATE, attributes);
        let message = Message::from_bytes(&answer).unwrap();
        let relayed = message.attribute::<XorRelayedAddress>();
        let relayed = relayed.unwrap_or_else(|_| panic!("refused: {:?}", code(&answer)));
        relayed.addr(message.transaction_id()).port()
    }

    /// Binds a channel, and says by which code that was refused, if it was.
    pub(super) fn bind(&mut self, channel: u16, peer: SocketAddr) -> Option<u16> {
        let [a, b] = channel.to_be_bytes();
        // The next one's: a peer's address depends on it.
        loop {
            let transaction = self.transaction + 1;
            let xor = XorPeerAddress::new(peer, transaction.into()).to_raw().value.to_vec();
            let attributes = [(CHANNEL_NUMBER, &[a, b, 0, 0][..]), (XOR_PEER_ADDRESS, &xor)];
            let answer = self.ask_once(CHANNEL_BIND, &attributes);
            if !self.learn_nonce(&answer) {
                return code(&answer);
            }
        }
    }

    /// Gives the allocation back.
    pub(super) fn end(&mut self) {
        assert_eq!(code(&self.ask(REFRESH, &[(LIFETIME, &[0; 4])])), None);
    }

    /// Gives back the addresses of one family.
    pub(super) fn end_family(&mut self, is_v4: bool) {
        let family = [if is_v4 { 1 } else { 2 }, 0, 0, 0];
        let attributes = [(LIFETIME, &[0; 4][..]), (REQUESTED_ADDRESS_FAMILY, &family)];
        assert_eq!(code(&self.ask(REFRESH, &attributes)), None);
    }

    pub(super) fn send(&self, channel: u16, data: &[u8], padding: &[u8]) {
        let length = u16::try_from(data.len()).unwrap();
        let message = [&channel.to_be_bytes(), &length.to_be_bytes(), data, padding].concat();
        // A network that is gone says so.
        drop(self.socket.send(&message));
    }

    /// The next channel data, with the number of its channel; nothing if there is none for a while.
    pub(super) fn receive(&self) -> Option<(u16, Vec<u8>)> {
        let message = receive(&self.socket)?.0;
        let number = |at: usize| u16::from_be_bytes([message[at], message[at + 1]]);
        assert!((0x4000..0x8000).contains(&number(0)), "no channel data: {message:02x?}");
        let (channel, length) = (number(0), usize::from(number(2)));
        assert_eq!(message.len(), 4 + length, "padded or joined: {message:02x?}");
        Some((channel, message[4..].to_vec()))
    }

    fn ask(&mut self, method: u16, attributes: &[(u16, &[u8])]) -> Vec<u8> {
        loop {
            let answer = self.ask_once(method, attributes);
            if !self.learn_nonce(&answer) {
                return answer;
            }
        }
    }

    /// Whether there was a new one.
    fn learn_nonce(&mut self, answer: &[u8]) -> bool {
        let message = Message::from_bytes(answer).unwrap();
        let nonce = message.attribute::<Nonce>().ok().map(|nonce| nonce.nonce().to_owned());
        let is_new = nonce.is_some() && self.nonce != nonce;
        self.nonce = nonce.or_else(|| self.nonce.take());
        is_new
    }

    fn ask_once(&mut self, method: u16, attributes: &[(u16, &[u8])]) -> Vec<u8> {
        self.transaction += 1;
        let kind = MessageType::from_class_method(MessageClass::Request, Method::new(method));
        let mut request = Message::builder(kind, self.transaction.into(), MessageWriteVec::new());
        let mut add = |kind: u16, value: &[u8]| {
            request.add_attribute(&RawAttribute::new(AttributeType::new(kind), value)).unwrap();
        };
        attributes.iter().for_each(|(kind, value)| add(*kind, value));
        add(0x06, self.username.as_bytes());
        add(0x14, REALM.as_bytes());
        if let Some(nonce) = &self.nonce {
            add(0x15, nonce.as_bytes());
        }
        let [username, password] = [&self.username, &self.password].map(Clone::clone);
        let credentials = LongTermKeyCredentials::new(username, password, REALM.to_owned());
        request.add_message_integrity(&credentials.into(), IntegrityAlgorithm::Sha1).unwrap();
        let request = request.finish();

        let start = Instant::now();
        while start.elapsed() < SOON {
            drop(self.socket.send(&request));
            while let Some((answer, _)) = receive(&self.socket) {
                if answer.get(8..20) == Some(&request[8..20]) {
                    return answer;
                }
            }
        }
        panic!("no answer to request {method}");
    }
}

/// The error code of a response.
fn code(response: &[u8]) -> Option<u16> {
    let message = Message::from_bytes(response).unwrap();
    message.attribute::<ErrorCode>().ok().map(|error| error.code())
}

/// A socket of the family of `like`, on any port.
pub(super) fn socket(at: &Namespace, like: SocketAddr) -> UdpSocket {
    let any: SocketAddr = if like.is_ipv4() { ([0; 4], 0).into() } else { ([0; 16], 0).into() };
    let socket = at.enter(|| UdpSocket::bind(any)).unwrap().unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket
}

/// The next datagram; nothing if there is none for a while.
pub(super) fn receive(socket: &UdpSocket) -> Option<(Vec<u8>, SocketAddr)> {
    let mut buffer = vec![0; 1 << 16];
    loop {
        match socket.recv_from(&mut buffer) {
            Ok((length, from)) => return Some((buffer[..length].to_vec(), from)),
            Err(error) if error.kind() == ErrorKind::WouldBlock => return None,
            // Of an earlier datagram, for which there was nobody.
            Err(error) if error.kind() == ErrorKind::ConnectionRefused => {}
            Err(error) if error.kind() == ErrorKind::HostUnreachable => {}
            Err(error) => panic!("{error}"),
        }
    }
}
