//! The STUN messages that servers and relays understand (RFC 8489, RFC 8656): written and read.
//!
//! `stun-types` was weighed: it logs at WARN what strangers send, and takes locks for the names of attributes.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use hmac::{Hmac, Mac};
use md5::{Digest, Md5};
use sha1::Sha1;

use super::{HEADER, MAGIC_COOKIE, Transaction, is_stun};

/// What a message is about (RFC 8489 §18.2, RFC 8656 §17).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Method {
    Binding = 0x001,
    Allocate = 0x003,
    Refresh = 0x004,
    Data = 0x007,
    ChannelBind = 0x009,
}

/// Which part of an exchange a message is (RFC 8489 §5).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Class {
    Request = 0x000,
    Indication = 0x010,
    Success = 0x100,
    Error = 0x110,
}

/// The attributes that we write or read (RFC 8489 §18.3, RFC 8656 §18).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Attribute {
    MappedAddress = 0x0001,
    Username = 0x0006,
    MessageIntegrity = 0x0008,
    ErrorCode = 0x0009,
    ChannelNumber = 0x000c,
    Lifetime = 0x000d,
    XorPeerAddress = 0x0012,
    Data = 0x0013,
    Realm = 0x0014,
    Nonce = 0x0015,
    XorRelayedAddress = 0x0016,
    RequestedTransport = 0x0019,
    XorMappedAddress = 0x0020,
    AdditionalAddressFamily = 0x8000,
}

/// The key of long-term credentials (RFC 8489 §9.2.2).
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Key([u8; 16]);

impl Key {
    pub(crate) fn new(username: &str, realm: &str, password: &str) -> Self {
        Self(Md5::digest(format!("{username}:{realm}:{password}")).into())
    }

    fn hmac(&self) -> Hmac<Sha1> {
        // INVARIANT: HMAC takes keys of any length.
        Hmac::new_from_slice(&self.0).expect("a key of 16 bytes")
    }
}

/// A message that is being written.
#[derive(Debug)]
pub(crate) struct Builder {
    bytes: Vec<u8>,
}

impl Builder {
    pub(crate) fn new(method: Method, class: Class, transaction: Transaction) -> Self {
        let mut bytes = Vec::with_capacity(192);
        bytes.extend(message_type(method, class).to_be_bytes());
        bytes.extend(0u16.to_be_bytes());
        bytes.extend(MAGIC_COOKIE.to_be_bytes());
        bytes.extend(transaction);
        Self { bytes }
    }

    /// Adds an attribute. Its value is cut where its length does not fit any more.
    pub(crate) fn attribute(mut self, attribute: Attribute, value: &[u8]) -> Self {
        let value = &value[..value.len().min(MAX_VALUE)];
        self.bytes.extend((attribute as u16).to_be_bytes());
        self.bytes.extend((value.len() as u16).to_be_bytes());
        self.bytes.extend(value);
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
        self.set_len(self.bytes.len() - HEADER);
        self
    }

    /// Adds an address, obfuscated (RFC 8489 §14.2).
    pub(crate) fn xor_address(self, attribute: Attribute, address: SocketAddr) -> Self {
        let mut xor = [0; 16];
        xor.copy_from_slice(&self.bytes[4..HEADER]);
        let mut value = vec![0, if address.is_ipv4() { 1 } else { 2 }];
        value.extend(address.port().to_be_bytes());
        match address.ip() {
            IpAddr::V4(ip) => value.extend(ip.octets()),
            IpAddr::V6(ip) => value.extend(ip.octets()),
        }
        let (head, ip) = value.split_at_mut(4);
        for (byte, mask) in head[2..].iter_mut().zip(xor).chain(ip.iter_mut().zip(xor)) {
            *byte ^= mask;
        }
        self.attribute(attribute, &value)
    }

    /// Adds the proof that whoever wrote the message has the key (RFC 8489 §14.5). Nothing may follow.
    pub(crate) fn integrity(mut self, key: &Key) -> Self {
        self.set_len(self.bytes.len() - HEADER + 4 + MAC);
        let mac = key.hmac().chain_update(&self.bytes).finalize().into_bytes();
        self.attribute(Attribute::MessageIntegrity, &mac)
    }

    pub(crate) fn finish(self) -> Vec<u8> {
        self.bytes
    }

    fn set_len(&mut self, len: usize) {
        self.bytes[2..4].copy_from_slice(&(len as u16).to_be_bytes());
    }
}

/// A message that came, as far as its attributes are covered by its integrity.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Message<'a> {
    header: &'a [u8],
    attributes: &'a [u8],
}

impl<'a> Message<'a> {
    /// A message whose attributes are as long as they say. `None`: it is something else.
    pub(crate) fn parse(datagram: &'a [u8]) -> Option<Self> {
        if !is_stun(datagram) {
            return None;
        }
        let (header, rest) = datagram.split_at_checked(HEADER)?;
        let len = usize::from(u16::from_be_bytes([header[2], header[3]]));
        let message = Self { header, attributes: rest.get(..len)? };
        let mut at = 0;
        while at < len {
            at += 4 + message.value_at(at)?.1.len().next_multiple_of(4);
        }
        Some(message)
    }

    /// Whether the message is of this kind.
    pub(crate) fn is(&self, method: Method, class: Class) -> bool {
        self.kind() == message_type(method, class)
    }

    pub(crate) fn is_success(&self) -> bool {
        self.kind() & CLASS == Class::Success as u16
    }

    pub(crate) fn transaction(&self) -> Transaction {
        // INVARIANT: a header has 20 bytes.
        self.header[8..HEADER].try_into().expect("twelve bytes")
    }

    /// The first attribute of this kind.
    pub(crate) fn attribute(&self, attribute: Attribute) -> Option<&'a [u8]> {
        self.attributes(attribute).next()
    }

    /// All attributes of this kind.
    fn attributes(&self, attribute: Attribute) -> impl Iterator<Item = &'a [u8]> + use<'a> {
        self.covered()
            .filter(move |(_, kind, _)| *kind == attribute as u16)
            .map(|(_, _, value)| value)
    }

    /// A text that is not longer than RFC 8489 allows.
    pub(crate) fn text(&self, attribute: Attribute) -> Option<&'a str> {
        let value = self.attribute(attribute).filter(|value| value.len() <= MAX_VALUE)?;
        std::str::from_utf8(value).ok()
    }

    /// A number of four bytes.
    pub(crate) fn number(&self, attribute: Attribute) -> Option<u32> {
        Some(u32::from_be_bytes(self.attribute(attribute)?.try_into().ok()?))
    }

    /// The addresses in all attributes of this kind that are understood.
    pub(crate) fn xor_addresses(
        &self,
        attribute: Attribute,
    ) -> impl Iterator<Item = SocketAddr> + use<'a> {
        let header = self.header;
        self.attributes(attribute)
            .filter_map(move |value| parse_address(value, header.get(4..HEADER)?.try_into().ok()?))
    }

    /// How a server sees us: XOR-MAPPED-ADDRESS, or what older servers say.
    pub(crate) fn mapped_address(&self) -> Option<SocketAddr> {
        let plain = || parse_address(self.attribute(Attribute::MappedAddress)?, [0; 16]);
        self.xor_addresses(Attribute::XorMappedAddress).next().or_else(plain)
    }

    /// The code of an error response (RFC 8489 §14.8).
    pub(crate) fn error_code(&self) -> Option<u16> {
        if self.kind() & CLASS != Class::Error as u16 {
            return None;
        }
        match self.attribute(Attribute::ErrorCode)? {
            [_, _, class, number, ..] => Some(u16::from(class & 7) * 100 + u16::from(*number)),
            _ => None,
        }
    }

    /// Whether the message proves that its sender has the key. `None`: it does not try to.
    pub(crate) fn is_authentic(&self, key: &Key) -> Option<bool> {
        let of_integrity =
            |(_, kind, _): &(usize, u16, &[u8])| *kind == Attribute::MessageIntegrity as u16;
        let (at, _, mac) = self.covered().find(of_integrity)?;
        let mut header: [u8; HEADER] = self.header.try_into().ok()?;
        header[2..4].copy_from_slice(&((at + 4 + MAC) as u16).to_be_bytes());
        let computed = key.hmac().chain_update(header).chain_update(&self.attributes[..at]);
        Some(computed.verify_slice(mac).is_ok())
    }

    fn kind(&self) -> u16 {
        u16::from_be_bytes([self.header[0], self.header[1]])
    }

    /// All attributes up to MESSAGE-INTEGRITY: what follows it could come from anybody.
    fn covered(&self) -> impl Iterator<Item = (usize, u16, &'a [u8])> + use<'a> {
        let message = *self;
        let mut at = Some(0);
        std::iter::from_fn(move || {
            let start = at?;
            let (kind, value) = message.value_at(start)?;
            let is_last = kind == Attribute::MessageIntegrity as u16;
            at = (!is_last).then(|| start + 4 + value.len().next_multiple_of(4));
            Some((start, kind, value))
        })
    }

    fn value_at(&self, at: usize) -> Option<(u16, &'a [u8])> {
        let (head, rest) = self.attributes.get(at..)?.split_first_chunk::<4>()?;
        let len = usize::from(u16::from_be_bytes([head[2], head[3]]));
        Some((u16::from_be_bytes([head[0], head[1]]), rest.get(..len)?))
    }
}

/// The longest text of an attribute: 763 bytes (RFC 8489 §14.3, §14.9).
const MAX_VALUE: usize = 763;

/// The length of an HMAC-SHA1.
const MAC: usize = 20;

/// The bits of a message's type that say which class it is.
const CLASS: u16 = 0x110;

/// All methods that we know are below 16, where their bits are in one piece.
const fn message_type(method: Method, class: Class) -> u16 {
    method as u16 | class as u16
}

/// An address attribute, with the bytes that it is obfuscated by: cookie and transaction id, or zeros.
fn parse_address(value: &[u8], xor: [u8; 16]) -> Option<SocketAddr> {
    let (head, ip) = value.split_at_checked(4)?;
    let port = u16::from_be_bytes([head[2] ^ xor[0], head[3] ^ xor[1]]);
    let ip: IpAddr = match (head[1], ip.len()) {
        (1, 4) => Ipv4Addr::from(std::array::from_fn::<u8, 4, _>(|i| ip[i] ^ xor[i])).into(),
        (2, 16) => Ipv6Addr::from(std::array::from_fn::<u8, 16, _>(|i| ip[i] ^ xor[i])).into(),
        _ => return None,
    };
    Some(SocketAddr::new(ip, port))
}

#[cfg(test)]
mod tests {
    use super::*;

    // RFC 5769 §2.2 and §2.3: sample responses, cut after the mapped address.
    const SAMPLE_V4: &[u8] =
        b"\x01\x01\x00\x0c\x21\x12\xa4\x42\xb7\xe7\xa7\x01\xbc\x34\xd6\x86\xfa\x87\xdf\xae\
        \x00\x20\x00\x08\x00\x01\xa1\x47\xe1\x12\xa6\x43";
    const SAMPLE_V6: &[u8] = b"\x01\x01\x00\x18\x21\x12\xa4\x42\xb7\xe7\xa7\x01\xbc\x34\xd6\x86\xfa\x87\xdf\xae\
        \x00\x20\x00\x14\x00\x02\xa1\x47\x01\x13\xa9\xfa\xa5\xd3\xf1\x79\xbc\x25\xf4\xb5\xbe\xd2\xb9\xd9";

    // RFC 5769 §2.4: a request with long-term credentials; the user name is "マトリックス" in katakana.
    const SAMPLE_LONG_TERM: &[u8] =
        b"\x00\x01\x00\x60\x21\x12\xa4\x42\x78\xad\x34\x33\xc6\xad\x72\xc0\x29\xda\x41\x2e\
        \x00\x06\x00\x12\xe3\x83\x9e\xe3\x83\x88\xe3\x83\xaa\xe3\x83\x83\xe3\x82\xaf\xe3\x82\xb9\x00\x00\
        \x00\x15\x00\x1cf//499k954d6OL34oL9FSTvy64sA\
        \x00\x14\x00\x0bexample.org\x00\
        \x00\x08\x00\x14\xf6\x70\x24\x65\x6d\xd6\x4a\x3e\x02\xb8\xe0\x71\x2e\x85\xc9\xa2\x8c\xa8\x96\x66";

    fn mapped(datagram: &[u8]) -> Option<SocketAddr> {
        Message::parse(datagram)?.mapped_address()
    }

    #[test]
    fn mapped_addresses_of_the_rfc_are_understood() {
        assert_eq!(mapped(SAMPLE_V4), Some("192.0.2.1:32853".parse().unwrap()));
        assert_eq!(
            mapped(SAMPLE_V6),
            Some("[2001:db8:1234:5678:11:2233:4455:6677]:32853".parse().unwrap())
        );
    }

    #[test]
    fn truncated_messages_are_none() {
        for len in 0..SAMPLE_V6.len() {
            assert_eq!(mapped(&SAMPLE_V6[..len]), None);
        }
        for len in 0..SAMPLE_LONG_TERM.len() {
            assert!(Message::parse(&SAMPLE_LONG_TERM[..len]).is_none());
        }
    }

    #[test]
    fn integrity_is_that_of_the_rfc() {
        let key = Key::new(
            "\u{30DE}\u{30C8}\u{30EA}\u{30C3}\u{30AF}\u{30B9}",
            "example.org",
            "TheMatrIX",
        );
        let message = Message::parse(SAMPLE_LONG_TERM).unwrap();
        assert_eq!(message.is_authentic(&key), Some(true));
        assert_eq!(message.is_authentic(&Key::new("x", "example.org", "TheMatrIX")), Some(false));
        for at in 0..SAMPLE_LONG_TERM.len() {
            let mut forged = SAMPLE_LONG_TERM.to_vec();
            forged[at] ^= 1;
            let authentic = Message::parse(&forged).and_then(|m| m.is_authentic(&key));
            assert_ne!(authentic, Some(true), "byte {at}");
        }
        let username = message.attribute(Attribute::Username).unwrap();
        let rebuilt = Builder::new(Method::Binding, Class::Request, message.transaction())
            .attribute(Attribute::Username, username)
            .attribute(Attribute::Nonce, message.attribute(Attribute::Nonce).unwrap())
            .attribute(Attribute::Realm, message.attribute(Attribute::Realm).unwrap())
            .integrity(&key);
        assert_eq!(rebuilt.finish(), SAMPLE_LONG_TERM);
    }

    #[test]
    fn what_follows_the_integrity_is_not_read() {
        let key = Key::new("user", "realm", "password");
        let signed = Builder::new(Method::Refresh, Class::Success, [7; 12])
            .attribute(Attribute::Lifetime, &600u32.to_be_bytes())
            .integrity(&key)
            .attribute(Attribute::Nonce, b"forged");
        let bytes = signed.finish();
        let message = Message::parse(&bytes).unwrap();
        assert_eq!(message.is_authentic(&key), Some(true));
        assert_eq!(message.number(Attribute::Lifetime), Some(600));
        assert_eq!(message.text(Attribute::Nonce), None);
    }

    #[test]
    fn addresses_of_both_families_are_read_as_they_were_written() {
        let addresses = ["192.0.2.7:4711".parse().unwrap(), "[2001:db8::7]:4711".parse().unwrap()];
        let built = addresses
            .iter()
            .fold(Builder::new(Method::Allocate, Class::Success, [3; 12]), |builder, address| {
                builder.xor_address(Attribute::XorRelayedAddress, *address)
            });
        let bytes = built.finish();
        let message = Message::parse(&bytes).unwrap();
        let read: Vec<_> = message.xor_addresses(Attribute::XorRelayedAddress).collect();
        assert_eq!(read, addresses);
    }
}
