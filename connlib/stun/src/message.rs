//! Messages as they come in.

use std::net::SocketAddr;

use crate::address::{XorAddress, read_plain};
use crate::attribute::{Attribute, MAX_VALUE, split};
use crate::header::{Class, Header, Method, Transaction};
use crate::integrity::{Algorithm, Key, fingerprint};

/// A well-formed message: its attributes are whole, and FINGERPRINT is right if there is one.
///
/// Where it is signed, only what the signature covers is read: what follows could come from anybody.
#[derive(Debug, Clone, Copy)]
pub struct Message<'a> {
    bytes: &'a [u8],
    header: Header,
    /// Where the attributes end that integrity covers, or all.
    end: usize,
    sha1: Option<&'a [u8]>,
    sha256: Option<(usize, &'a [u8])>,
    has_fingerprint: bool,
}

impl<'a> Message<'a> {
    /// A whole datagram, or what [`message_len`](crate::message_len) cut from a stream. `None`: it is something else, or
    /// malformed.
    pub fn parse(bytes: &'a [u8]) -> Option<Self> {
        let header = Header::parse(bytes)?;
        let len = usize::from(u16::from_be_bytes([bytes[2], bytes[3]]));
        if len != bytes.len() - Header::LEN || len % 4 != 0 {
            return None;
        }
        let mut message = Self {
            bytes,
            header,
            end: bytes.len(),
            sha1: None,
            sha256: None,
            has_fingerprint: false,
        };
        message.find_end()?;
        Some(message)
    }

    /// Walks over all attributes. What follows MESSAGE-INTEGRITY is ignored, but for MESSAGE-INTEGRITY-SHA256 and
    /// FINGERPRINT, which is the last one (RFC 8489 §14.5 to §14.7).
    fn find_end(&mut self) -> Option<()> {
        let mut at = Header::LEN;
        while at < self.bytes.len() {
            let (kind, value, len) = split(&self.bytes[at..])?;
            let is_signed = self.sha1.is_some() || self.sha256.is_some();
            match kind {
                Attribute::MESSAGE_INTEGRITY if !is_signed => {
                    let len = Algorithm::Sha1.signature_len();
                    self.sha1 = Some(value).filter(|value| value.len() == len);
                    self.sha1?;
                    self.end = at;
                }
                Attribute::MESSAGE_INTEGRITY_SHA256 if self.sha256.is_none() => {
                    (16..=32).contains(&value.len()).then_some(())?;
                    self.sha256 = Some((at, value));
                    self.end = self.end.min(at);
                }
                Attribute::FINGERPRINT => {
                    (at + 8 == self.bytes.len() && value == fingerprint(&self.bytes[..at]))
                        .then_some(())?;
                    self.has_fingerprint = true;
                    self.end = self.end.min(at);
                }
                _ => {}
            }
            at += len;
        }
        Some(())
    }

    /// The whole message.
    pub fn as_bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// Which part of an exchange it is.
    #[inline]
    pub fn class(&self) -> Class {
        self.header.class
    }

    /// What it is about.
    #[inline]
    pub fn method(&self) -> Method {
        self.header.method
    }

    /// Which exchange it belongs to.
    pub fn transaction(&self) -> Transaction {
        self.header.transaction
    }

    /// Whether it is of this kind.
    pub fn is(&self, method: Method, class: Class) -> bool {
        self.header.method == method && self.header.class == class
    }

    /// Whether it ends with a FINGERPRINT.
    pub fn has_fingerprint(&self) -> bool {
        self.has_fingerprint
    }

    /// The attributes before the integrity, with their values.
    #[inline]
    pub fn attributes(&self) -> impl Iterator<Item = (Attribute, &'a [u8])> + use<'a> {
        let mut rest = &self.bytes[Header::LEN..self.end];
        std::iter::from_fn(move || {
            let (kind, value, len) = split(rest)?;
            rest = &rest[len..];
            Some((kind, value))
        })
    }

    /// The value of an attribute. Of several, the first counts (RFC 8489 §14).
    #[inline]
    pub fn first(&self, attribute: Attribute) -> Option<&'a [u8]> {
        self.all(attribute).next()
    }

    #[inline]
    fn all(&self, attribute: Attribute) -> impl Iterator<Item = &'a [u8]> + use<'a> {
        self.attributes().filter(move |(kind, _)| *kind == attribute).map(|(_, value)| value)
    }

    /// A text that is not longer than [`MAX_VALUE`].
    pub fn text(&self, attribute: Attribute) -> Option<&'a str> {
        str::from_utf8(self.first(attribute).filter(|value| value.len() <= MAX_VALUE)?).ok()
    }

    /// A number of four bytes.
    pub fn number(&self, attribute: Attribute) -> Option<u32> {
        Some(u32::from_be_bytes(self.first(attribute)?.try_into().ok()?))
    }

    /// The addresses in all attributes of this kind (RFC 8489 §14.2), `None` for one that can't be read.
    pub fn xor_addresses(
        &self,
        attribute: Attribute,
    ) -> impl Iterator<Item = Option<SocketAddr>> + use<'a> {
        let transaction = self.header.transaction;
        self.all(attribute).map(move |value| XorAddress::read(value, &transaction))
    }

    /// How a server sees us: XOR-MAPPED-ADDRESS, or what older servers say (RFC 8489 §14.1).
    pub fn mapped_address(&self) -> Option<SocketAddr> {
        let plain = || read_plain(self.first(Attribute::MAPPED_ADDRESS)?);
        self.xor_addresses(Attribute::XOR_MAPPED_ADDRESS).flatten().next().or_else(plain)
    }

    /// The code of an error response (RFC 8489 §14.8).
    pub fn error_code(&self) -> Option<u16> {
        match (self.class(), self.first(Attribute::ERROR_CODE)?) {
            (Class::Error, [_, _, class, number, ..]) => {
                Some(u16::from(class & 7) * 100 + u16::from(*number))
            }
            _ => None,
        }
    }

    /// Attributes that have to be understood, but aren't (RFC 8489 §6.3.1).
    pub fn unknown(&self) -> impl Iterator<Item = Attribute> + use<'a> {
        self.attributes().map(|(kind, _)| kind).filter(|kind| kind.is_unknown())
    }

    /// What its signature is made with; the stronger if there are both (RFC 8489 §9.2.4).
    pub fn integrity(&self) -> Option<Algorithm> {
        self.signature().map(|(algorithm, _, _)| algorithm)
    }

    /// Whether it is signed with this key.
    pub fn is_signed_with(&self, key: &Key) -> bool {
        self.signature().is_some_and(|(algorithm, at, signature)| {
            let (head, rest) = self.signed(at, signature);
            key.verifies(algorithm, [&head, rest], signature)
        })
    }

    /// Where the signature that counts begins, and what it is.
    fn signature(&self) -> Option<(Algorithm, usize, &'a [u8])> {
        match (self.sha1, self.sha256) {
            (_, Some((at, signature))) => Some((Algorithm::Sha256, at, signature)),
            (Some(signature), None) => Some((Algorithm::Sha1, self.end, signature)),
            (None, None) => None,
        }
    }

    /// What is signed by a signature that begins there: the length in the header is one that ends with it.
    fn signed(&self, at: usize, signature: &[u8]) -> ([u8; 4], &'a [u8]) {
        let len = (at - Header::LEN + 4 + signature.len()) as u16;
        let [a, b] = len.to_be_bytes();
        ([self.bytes[0], self.bytes[1], a, b], &self.bytes[4..at])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::builder::Builder;

    /// RFC 5769 §2.1: a request with short-term credentials.
    const REQUEST: &[u8] =
        b"\x00\x01\x00\x58\x21\x12\xa4\x42\xb7\xe7\xa7\x01\xbc\x34\xd6\x86\xfa\x87\xdf\xae\
        \x80\x22\x00\x10STUN test client\
        \x00\x24\x00\x04\x6e\x00\x01\xff\
        \x80\x29\x00\x08\x93\x2f\xf9\xb1\x51\x26\x3b\x36\
        \x00\x06\x00\x09evtj:h6vY\x20\x20\x20\
        \x00\x08\x00\x14\x9a\xea\xa7\x0c\xbf\xd8\xcb\x56\x78\x1e\xf2\xb5\xb2\xd3\xf2\x49\xc1\xb5\x71\xa2\
        \x80\x28\x00\x04\xe5\x7a\x3b\xcf";

    /// RFC 5769 §2.2: a response from IPv4.
    const RESPONSE_V4: &[u8] =
        b"\x01\x01\x00\x3c\x21\x12\xa4\x42\xb7\xe7\xa7\x01\xbc\x34\xd6\x86\xfa\x87\xdf\xae\
        \x80\x22\x00\x0btest vector\x20\
        \x00\x20\x00\x08\x00\x01\xa1\x47\xe1\x12\xa6\x43\
        \x00\x08\x00\x14\x2b\x91\xf5\x99\xfd\x9e\x90\xc3\x8c\x74\x89\xf9\x2a\xf9\xba\x53\xf0\x6b\xe7\xd7\
        \x80\x28\x00\x04\xc0\x7d\x4c\x96";

    /// RFC 5769 §2.3: a response from IPv6.
    const RESPONSE_V6: &[u8] =
        b"\x01\x01\x00\x48\x21\x12\xa4\x42\xb7\xe7\xa7\x01\xbc\x34\xd6\x86\xfa\x87\xdf\xae\
        \x80\x22\x00\x0btest vector\x20\
        \x00\x20\x00\x14\x00\x02\xa1\x47\
        \x01\x13\xa9\xfa\xa5\xd3\xf1\x79\xbc\x25\xf4\xb5\xbe\xd2\xb9\xd9\
        \x00\x08\x00\x14\xa3\x82\x95\x4e\x4b\xe6\x7b\xf1\x17\x84\xc9\x7c\x82\x92\xc2\x75\xbf\xe3\xed\x41\
        \x80\x28\x00\x04\xc8\xfb\x0b\x4c";

    /// RFC 5769 §2.4: a request with long-term credentials; the user name is "マトリックス" in katakana.
    const LONG_TERM: &[u8] =
        b"\x00\x01\x00\x60\x21\x12\xa4\x42\x78\xad\x34\x33\xc6\xad\x72\xc0\x29\xda\x41\x2e\
        \x00\x06\x00\x12\xe3\x83\x9e\xe3\x83\x88\xe3\x83\xaa\xe3\x83\x83\xe3\x82\xaf\xe3\x82\xb9\x00\x00\
        \x00\x15\x00\x1cf//499k954d6OL34oL9FSTvy64sA\
        \x00\x14\x00\x0bexample.org\x00\
        \x00\x08\x00\x14\xf6\x70\x24\x65\x6d\xd6\x4a\x3e\x02\xb8\xe0\x71\x2e\x85\xc9\xa2\x8c\xa8\x96\x66";

    const SHORT_TERM_PASSWORD: &[u8] = b"VOkJxbRl1RmTxUk/WvJxBt";

    fn long_term_key() -> Key {
        Key::new("\u{30DE}\u{30C8}\u{30EA}\u{30C3}\u{30AF}\u{30B9}", "example.org", "TheMatrIX")
    }

    #[test]
    fn samples_of_the_rfc_are_understood() {
        for sample in [REQUEST, RESPONSE_V4, RESPONSE_V6] {
            let message = Message::parse(sample).unwrap();
            assert_eq!(message.transaction(), *b"\xb7\xe7\xa7\x01\xbc\x34\xd6\x86\xfa\x87\xdf\xae");
            assert!(message.has_fingerprint());
            let (algorithm, at, signature) = message.signature().unwrap();
            let (head, rest) = message.signed(at, signature);
            let computed = algorithm.sign(SHORT_TERM_PASSWORD, [&head, rest]);
            assert_eq!((algorithm, &computed[..20]), (Algorithm::Sha1, signature));
        }
        let request = Message::parse(REQUEST).unwrap();
        assert!(request.is(Method::BINDING, Class::Request));
        assert_eq!(request.text(Attribute::SOFTWARE), Some("STUN test client"));
        assert_eq!(request.text(Attribute::USERNAME), Some("evtj:h6vY"));
        assert_eq!(request.unknown().collect::<Vec<_>>(), [Attribute(0x0024)]);
        assert_eq!(request.mapped_address(), None);
        for (response, address) in [
            (RESPONSE_V4, "192.0.2.1:32853"),
            (RESPONSE_V6, "[2001:db8:1234:5678:11:2233:4455:6677]:32853"),
        ] {
            let response = Message::parse(response).unwrap();
            assert!(response.is(Method::BINDING, Class::Success));
            assert_eq!(response.text(Attribute::SOFTWARE), Some("test vector"));
            assert_eq!(response.mapped_address(), Some(address.parse().unwrap()));
            assert_eq!(response.error_code(), None);
        }
    }

    #[test]
    fn long_term_integrity_is_that_of_the_rfc() {
        let message = Message::parse(LONG_TERM).unwrap();
        assert!(message.is_signed_with(&long_term_key()) && !message.has_fingerprint());
        assert!(!message.is_signed_with(&Key::new("x", "example.org", "TheMatrIX")));
        let nonce = message.first(Attribute::NONCE).unwrap();
        let rebuilt = Builder::new(Method::BINDING, Class::Request, message.transaction())
            .attribute(Attribute::USERNAME, message.first(Attribute::USERNAME).unwrap())
            .attribute(Attribute::NONCE, nonce)
            .attribute(Attribute::REALM, message.first(Attribute::REALM).unwrap())
            .sign(&long_term_key(), Algorithm::Sha1);
        assert_eq!(rebuilt.finish(), LONG_TERM);
    }

    #[test]
    fn any_other_byte_breaks_form_or_signature() {
        let key = long_term_key();
        let both = |algorithm| {
            let message = Message::parse(LONG_TERM).unwrap();
            let builder = Builder::new(Method::ALLOCATE, Class::Request, message.transaction());
            message
                .attributes()
                .fold(builder, |builder, (kind, value)| builder.attribute(kind, value))
                .sign(&key, algorithm)
                .fingerprint()
                .finish()
        };
        let signed = [LONG_TERM.to_vec(), both(Algorithm::Sha1), both(Algorithm::Sha256)];
        for datagram in signed {
            let is_fine =
                |datagram: &[u8]| Message::parse(datagram).is_some_and(|m| m.is_signed_with(&key));
            assert!(is_fine(&datagram));
            // An attribute after the signature that is no FINGERPRINT any more is ignored.
            let is_kind_of_last = |at: usize| {
                datagram.len() > LONG_TERM.len() && (7..=8).contains(&(datagram.len() - at))
            };
            let bytes = (0..datagram.len()).filter(|at| !is_kind_of_last(*at));
            for (at, bit) in bytes.flat_map(|at| (0..8).map(move |bit| (at, bit))) {
                let mut other = datagram.clone();
                other[at] ^= 1 << bit;
                assert!(!is_fine(&other), "bit {bit} of byte {at}");
            }
            for len in 0..datagram.len() {
                assert!(Message::parse(&datagram[..len]).is_none());
            }
            assert!(Message::parse(&[&datagram, [0; 4].as_slice()].concat()).is_none());
        }
    }

    #[test]
    fn what_follows_the_integrity_is_not_read() {
        let key = Key::new("user", "realm", "password");
        for algorithm in [Algorithm::Sha1, Algorithm::Sha256] {
            let bytes = Builder::new(Method::REFRESH, Class::Success, [7; 12])
                .number(Attribute::LIFETIME, 600)
                .sign(&key, algorithm)
                .attribute(Attribute::NONCE, b"forged")
                .attribute(Attribute(0x7fff), b"")
                .finish();
            let message = Message::parse(&bytes).unwrap();
            assert!(message.is_signed_with(&key));
            assert_eq!(message.integrity(), Some(algorithm));
            assert_eq!(message.number(Attribute::LIFETIME), Some(600));
            assert_eq!(message.text(Attribute::NONCE), None);
            assert_eq!(message.unknown().count(), 0);
        }
    }

    #[test]
    fn of_two_signatures_the_stronger_counts() {
        let (ours, other) = (Key::new("a", "b", "c"), Key::new("x", "y", "z"));
        let bytes = Builder::new(Method::REFRESH, Class::Request, [7; 12])
            .sign(&ours, Algorithm::Sha1)
            .sign(&other, Algorithm::Sha256)
            .finish();
        let message = Message::parse(&bytes).unwrap();
        assert_eq!(message.integrity(), Some(Algorithm::Sha256));
        assert!(message.is_signed_with(&other) && !message.is_signed_with(&ours));
    }

    #[test]
    fn a_short_signature_is_taken_if_it_is_long_enough() {
        let key = Key::new("a", "b", "c");
        let empty = || Builder::new(Method::REFRESH, Class::Request, [7; 12]);
        for (len, is_fine) in [(12, false), (16, true), (28, true), (32, true), (36, false)] {
            // RFC 8489 §14.6: the length in the header is that with the short one.
            let with_room = empty().attribute(Attribute::MESSAGE_INTEGRITY_SHA256, &[0; 36][..len]);
            let signed = &with_room.as_bytes()[..Header::LEN];
            let mut signature = key.sign(Algorithm::Sha256, [signed, &[]]).to_vec();
            signature.resize(len, 0);
            let bytes = empty().attribute(Attribute::MESSAGE_INTEGRITY_SHA256, &signature).finish();
            let message = Message::parse(&bytes);
            assert_eq!(message.is_some_and(|m| m.is_signed_with(&key)), is_fine, "{len}");
        }
    }

    #[test]
    fn errors_are_read_as_they_were_written() {
        let error = |class| Builder::new(Method::ALLOCATE, class, [1; 12]).error_code(508).finish();
        assert_eq!(Message::parse(&error(Class::Error)).unwrap().error_code(), Some(508));
        assert_eq!(Message::parse(&error(Class::Success)).unwrap().error_code(), None);
    }

    #[test]
    fn long_values_are_cut_and_never_break_a_message() {
        let bytes = Builder::new(Method::ALLOCATE, Class::Request, [1; 12])
            .attribute(Attribute::USERNAME, &[b'x'; 70_000])
            .attribute(Attribute::REALM, b"realm")
            .finish();
        let message = Message::parse(&bytes).unwrap();
        assert_eq!(message.text(Attribute::USERNAME).map(str::len), Some(MAX_VALUE));
        assert_eq!(message.text(Attribute::REALM), Some("realm"));
    }

    #[test]
    fn reading_allocates_nothing() {
        let bytes = Builder::new(Method::ALLOCATE, Class::Success, [1; 12])
            .xor_address(Attribute::XOR_RELAYED_ADDRESS, "192.0.2.7:4711".parse().unwrap())
            .number(Attribute::LIFETIME, 600)
            .sign(&long_term_key(), Algorithm::Sha256)
            .fingerprint()
            .finish();
        let key = long_term_key();
        let counted = allocation_counter::measure(|| {
            let message = Message::parse(&bytes).unwrap();
            assert_eq!(message.xor_addresses(Attribute::XOR_RELAYED_ADDRESS).count(), 1);
            assert_eq!(message.number(Attribute::LIFETIME), Some(600));
            assert!(message.is_signed_with(&key) && message.unknown().next().is_none());
        });
        assert_eq!(counted.count_total, 0);
    }
}
