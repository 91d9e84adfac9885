//! A client of a TURN relay over UDP (RFC 8656), as small as it can be: it asks one thing after the other.

use std::{
    io::ErrorKind,
    net::{Ipv4Addr, SocketAddr, SocketAddrV4, UdpSocket},
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use stun_types::{
    attribute::{AttributeType, ErrorCode, Nonce, RawAttribute},
    message::{
        IntegrityAlgorithm, LongTermKeyCredentials, Message, MessageClass, MessageType,
        MessageWriteVec, Method, TransactionId,
    },
    prelude::*,
};
use turn_types::attribute::{XorPeerAddress, XorRelayedAddress};

pub(super) const REALM: &str = "firezone";
pub(super) const PASSWORD: &str = "bench";

/// What stands before the payload of channel data: number and length (RFC 8656 §12.4).
pub(super) const CHANNEL_HEADER: usize = 4;

const ALLOCATE: u16 = 3;
const REFRESH: u16 = 4;
const CHANNEL_BIND: u16 = 9;
const USERNAME: u16 = 0x06;
const CHANNEL_NUMBER: u16 = 0x0c;
const LIFETIME: u16 = 0x0d;
const PEER: u16 = 0x12;
const REALM_ATTRIBUTE: u16 = 0x14;
const NONCE: u16 = 0x15;
/// REQUESTED-TRANSPORT, and its value for UDP.
const TRANSPORT: (u16, &[u8]) = (0x19, &[17, 0, 0, 0]);
/// The longest that relays agree to.
const LIFETIME_SECONDS: u32 = 3600;

const UNAUTHENTICATED: u16 = 401;
const STALE_NONCE: u16 = 438;

const PATIENCE: Duration = Duration::from_millis(400);
const ATTEMPTS: u32 = 10;

/// An address on a relay that its owner sends and receives by.
#[derive(Debug)]
pub(super) struct Allocation {
    socket: UdpSocket,
    user: String,
    nonce: Option<String>,
    relayed: SocketAddr,
}

impl Allocation {
    /// Allocates by a socket that is connected to the relay.
    pub(super) fn open(socket: UdpSocket, user: String) -> Result<Self> {
        socket.set_read_timeout(Some(PATIENCE))?;
        let nowhere = SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 0).into();
        let mut allocation = Self { socket, user, nonce: None, relayed: nowhere };
        allocation.relayed = allocation
            .ask(ALLOCATE, |_| vec![attribute(TRANSPORT.0, TRANSPORT.1), lifetime()])?
            .context("the relay allocated no address")?;
        Ok(allocation)
    }

    /// Where peers send to.
    pub(super) fn relayed(&self) -> SocketAddr {
        self.relayed
    }

    pub(super) fn socket(&self) -> &UdpSocket {
        &self.socket
    }

    /// Binds a channel to a peer, or prolongs it. The socket has to be blocking.
    pub(super) fn bind(&mut self, channel: u16, peer: SocketAddr) -> Result<()> {
        self.ask(CHANNEL_BIND, |id| {
            let [high, low] = channel.to_be_bytes();
            let peer = XorPeerAddress::new(peer, id);
            vec![
                attribute(CHANNEL_NUMBER, &[high, low, 0, 0]),
                attribute(PEER, &peer.to_raw().value),
            ]
        })?;
        Ok(())
    }

    /// Prolongs the allocation. The socket has to be blocking.
    pub(super) fn refresh(&mut self) -> Result<()> {
        self.ask(REFRESH, |_| vec![lifetime()]).map(drop)
    }

    /// Asks until there is an answer other than a challenge. Returns the relayed address if the answer has one.
    fn ask(
        &mut self,
        method: u16,
        attributes: impl Fn(TransactionId) -> Vec<Attribute>,
    ) -> Result<Option<SocketAddr>> {
        for _ in 0..ATTEMPTS {
            let id = next_transaction();
            self.socket.send(&self.request(method, id, &attributes(id))?)?;
            match self.answer(id)? {
                None => {}
                Some(Answer::Success { relayed }) => return Ok(relayed),
                Some(Answer::Error { code: UNAUTHENTICATED | STALE_NONCE, nonce: Some(nonce) })
                    if self.nonce.as_ref() != Some(&nonce) =>
                {
                    self.nonce = Some(nonce);
                }
                Some(Answer::Error { code, .. }) => {
                    bail!("the relay refused method {method} with error {code}")
                }
            }
        }
        bail!("no answer from the relay")
    }

    fn request(&self, method: u16, id: TransactionId, attributes: &[Attribute]) -> Result<Vec<u8>> {
        let kind = MessageType::from_class_method(MessageClass::Request, Method::new(method));
        let mut message = Message::builder(kind, id, MessageWriteVec::new());
        for Attribute { kind, value } in attributes {
            message.add_attribute(&RawAttribute::new(AttributeType::new(*kind), value))?;
        }
        if let Some(nonce) = &self.nonce {
            for (kind, value) in
                [(USERNAME, &*self.user), (REALM_ATTRIBUTE, REALM), (NONCE, nonce.as_str())]
            {
                message.add_attribute(&RawAttribute::new(
                    AttributeType::new(kind),
                    value.as_bytes(),
                ))?;
            }
            let (user, password) = (self.user.clone(), PASSWORD.to_owned());
            let credentials = LongTermKeyCredentials::new(user, password, REALM.to_owned());
            message.add_message_integrity(&credentials.into(), IntegrityAlgorithm::Sha1)?;
        }
        Ok(message.finish())
    }

    /// The answer to a request, if it comes soon. What else comes meanwhile is dropped.
    fn answer(&self, id: TransactionId) -> Result<Option<Answer>> {
        let mut buffer = [0; 65_535];
        loop {
            match self.socket.recv(&mut buffer) {
                Ok(length) => {
                    let answer = buffer.get(..length).and_then(|bytes| Answer::parse(bytes, id));
                    if answer.is_some() {
                        return Ok(answer);
                    }
                }
                Err(error)
                    if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) =>
                {
                    return Ok(None);
                }
                Err(error) => return Err(error.into()),
            }
        }
    }
}

struct Attribute {
    kind: u16,
    value: Vec<u8>,
}

fn attribute(kind: u16, value: &[u8]) -> Attribute {
    Attribute { kind, value: value.to_vec() }
}

fn lifetime() -> Attribute {
    attribute(LIFETIME, &LIFETIME_SECONDS.to_be_bytes())
}

fn next_transaction() -> TransactionId {
    static LAST: AtomicU64 = AtomicU64::new(1);
    u128::from(LAST.fetch_add(1, Ordering::Relaxed)).into()
}

/// What a relay says to a request.
#[derive(Debug, PartialEq, Eq)]
enum Answer {
    Success { relayed: Option<SocketAddr> },
    Error { code: u16, nonce: Option<String> },
}

impl Answer {
    /// None if this is no answer to this request.
    fn parse(bytes: &[u8], id: TransactionId) -> Option<Self> {
        let message = Message::from_bytes(bytes).ok()?;
        if message.transaction_id() != id {
            return None;
        }
        if message.has_class(MessageClass::Success) {
            let relayed = message.attribute::<XorRelayedAddress>().ok();
            return Some(Self::Success { relayed: relayed.map(|relayed| relayed.addr(id)) });
        }
        let code = message.attribute::<ErrorCode>().ok()?.code();
        let nonce = message.attribute::<Nonce>().ok().map(|nonce| nonce.nonce().to_owned());
        Some(Self::Error { code, nonce })
    }
}

/// Channel data with this payload, as a datagram.
pub(super) fn channel_data(channel: u16, payload: &[u8]) -> Vec<u8> {
    let length = u16::try_from(payload.len()).unwrap_or(u16::MAX);
    [&channel.to_be_bytes(), &length.to_be_bytes(), payload].concat()
}

#[cfg(test)]
mod tests {
    use std::{
        collections::BTreeMap,
        net::SocketAddr,
        thread,
        time::{Instant, SystemTime},
    };

    use connlib_relay::server::{
        Config, Credentials, FiveTuple, FromClient, Now, Output, Server, Transport, User,
    };

    use super::*;

    /// Our relay's state machine behind one socket, until it has bound `channels`. Returns what they are bound to.
    fn serve(socket: &UdpSocket, channels: usize) -> BTreeMap<u16, SocketAddr> {
        let user = User { name: "anna".to_owned(), password: PASSWORD.to_owned() };
        let credentials = Credentials { users: vec![user], ..Credentials::default() };
        let mut config = Config::new(credentials, [7; 32]);
        config.public_ip4 = Some([203, 0, 113, 1].into());
        let mut server = Server::new(config, Instant::now()).unwrap();
        let mut bound = BTreeMap::new();
        let mut buffer = [0; 2048];
        while bound.len() < channels {
            let (length, remote) = socket.recv_from(&mut buffer).unwrap();
            let local = socket.local_addr().unwrap();
            let unix = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
            let now = Now { instant: Instant::now(), unix_seconds: unix.as_secs() };
            let client = FiveTuple { transport: Transport::Udp, remote, local };
            let handled = server.handle_client(client, &buffer[..length], now);
            assert!(matches!(handled, FromClient::Handled));
            loop {
                match server.poll_output() {
                    Output::Send { client, bytes } => {
                        socket.send_to(&bytes, client.remote).unwrap();
                    }
                    Output::OpenPort { allocation, .. } => {
                        server.handle_port_opened(allocation, Ok(()), now.instant);
                    }
                    Output::ChannelBound(binding) => {
                        bound.insert(binding.channel, binding.peer);
                    }
                    Output::Timeout(_) => break,
                    _ => {}
                }
            }
        }
        bound
    }

    #[test]
    fn a_relay_understands_what_is_asked() {
        let relay = UdpSocket::bind("127.0.0.1:0").unwrap();
        let address = relay.local_addr().unwrap();
        let relay = thread::spawn(move || serve(&relay, 1));

        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.connect(address).unwrap();
        let mut allocation = Allocation::open(socket, "anna".to_owned()).unwrap();
        assert_eq!(allocation.relayed().ip().to_string(), "203.0.113.1");
        assert!(allocation.relayed().port() >= 49152);
        allocation.refresh().unwrap();
        let peer: SocketAddr = "198.51.100.7:4000".parse().unwrap();
        allocation.bind(0x4001, peer).unwrap();
        assert_eq!(relay.join().unwrap(), BTreeMap::from([(0x4001, peer)]));
    }

    #[test]
    fn answers_to_others_are_none() {
        let kind = MessageType::from_class_method(MessageClass::Success, Method::new(REFRESH));
        let answer = Message::builder(kind, 7_u128.into(), MessageWriteVec::new()).finish();
        let success = Some(Answer::Success { relayed: None });
        assert_eq!(Answer::parse(&answer, 7_u128.into()), success);
        assert_eq!(Answer::parse(&answer, 8_u128.into()), None);
        assert_eq!(Answer::parse(&channel_data(0x4000, &[0; 40]), 7_u128.into()), None);
    }

    #[test]
    fn channel_data_says_channel_and_length() {
        assert_eq!(channel_data(0x4002, b"hello"), b"\x40\x02\0\x05hello");
    }
}
