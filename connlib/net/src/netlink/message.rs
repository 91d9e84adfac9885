//! Netlink messages as bytes: a builder, and two readers that accept any input.
//!
//! The formats are those of `linux/netlink.h`: native byte order, everything aligned to four bytes.

use std::io;

/// `NLM_F_REQUEST`: every message to the kernel carries it.
const REQUEST: u16 = libc::NLM_F_REQUEST as u16;
/// `NLM_F_ACK`: the kernel answers, even on success.
pub(crate) const ACK: u16 = libc::NLM_F_ACK as u16;
/// `NLM_F_DUMP`: list all objects.
pub(crate) const DUMP: u16 = libc::NLM_F_DUMP as u16;
/// `NLM_F_CREATE`: make the object if it does not exist.
pub(crate) const CREATE: u16 = libc::NLM_F_CREATE as u16;
/// `NLM_F_EXCL`: fail if the object exists.
pub(crate) const EXCLUSIVE: u16 = libc::NLM_F_EXCL as u16;
/// `NLM_F_APPEND`: place the object behind others of the same key.
pub(crate) const APPEND: u16 = libc::NLM_F_APPEND as u16;
/// `NLM_F_DUMP_INTR`: the table changed while it was being listed.
pub(crate) const DUMP_INTERRUPTED: u16 = libc::NLM_F_DUMP_INTR as u16;

const HEADER_LEN: usize = 16;
const ATTRIBUTE_HEADER_LEN: usize = 4;
const NESTED: u16 = libc::NLA_F_NESTED as u16;
/// The bits of an attribute's type that are not flags.
const ATTRIBUTE_TYPE: u16 = libc::NLA_TYPE_MASK as u16;

/// A request to the kernel.
pub(crate) struct Message(Vec<u8>);

impl Message {
    /// A request of this type; `header` is the fixed struct that the type puts before its attributes.
    pub(crate) fn new(kind: u16, flags: u16, header: &[u8], attributes: &Attributes) -> Self {
        let header_len = (HEADER_LEN + header.len()).next_multiple_of(4);
        let len = header_len + attributes.0.len();
        let mut bytes = Vec::with_capacity(len);
        bytes.extend_from_slice(&(len as u32).to_ne_bytes());
        bytes.extend_from_slice(&kind.to_ne_bytes());
        bytes.extend_from_slice(&(REQUEST | flags).to_ne_bytes());
        bytes.extend_from_slice(&[0; 8]);
        bytes.extend_from_slice(header);
        bytes.resize(header_len, 0);
        bytes.extend_from_slice(&attributes.0);
        Self(bytes)
    }

    /// The bytes, numbered so that the answer can be told from others.
    pub(crate) fn into_bytes(mut self, sequence: u32) -> Vec<u8> {
        self.0[8..12].copy_from_slice(&sequence.to_ne_bytes());
        self.0
    }
}

/// Attributes of a request, or of another attribute.
#[derive(Clone, Default)]
pub(crate) struct Attributes(Vec<u8>);

impl Attributes {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    /// Adds bytes. They are at most 64 KiB long: all of ours are names, numbers, addresses and a few of those.
    pub(crate) fn bytes(mut self, kind: u16, value: &[u8]) -> Self {
        let len = (ATTRIBUTE_HEADER_LEN + value.len()) as u16;
        self.0.extend_from_slice(&len.to_ne_bytes());
        self.0.extend_from_slice(&kind.to_ne_bytes());
        self.0.extend_from_slice(value);
        self.0.resize(self.0.len().next_multiple_of(4), 0);
        self
    }

    /// Adds a number in native byte order, as route netlink wants it.
    pub(crate) fn u32(self, kind: u16, value: u32) -> Self {
        self.bytes(kind, &value.to_ne_bytes())
    }

    /// Adds a number in network byte order, as nf_tables wants it.
    pub(crate) fn be32(self, kind: u16, value: u32) -> Self {
        self.bytes(kind, &value.to_be_bytes())
    }

    /// Adds a string with the NUL at its end.
    pub(crate) fn str(self, kind: u16, value: &str) -> Self {
        self.bytes(kind, &[value.as_bytes(), &[0]].concat())
    }

    /// Adds an attribute that consists of others.
    pub(crate) fn nested(self, kind: u16, attributes: &Self) -> Self {
        self.bytes(kind | NESTED, &attributes.0)
    }
}

/// One message out of a datagram from the kernel.
pub(crate) struct Received<'a> {
    pub(crate) kind: u16,
    pub(crate) flags: u16,
    pub(crate) sequence: u32,
    /// The port of the socket whose request caused this message; 0 is the kernel itself.
    pub(crate) port: u32,
    pub(crate) payload: &'a [u8],
}

impl Received<'_> {
    /// What an `NLMSG_ERROR` says: `Ok` for an acknowledgement. `None` for any other message.
    pub(crate) fn outcome(&self) -> Option<io::Result<()>> {
        if self.kind != libc::NLMSG_ERROR as u16 {
            return None;
        }
        Some(match self.payload.first_chunk() {
            Some([0, 0, 0, 0]) => Ok(()),
            // The kernel sends negated error numbers.
            Some(code) => {
                Err(io::Error::from_raw_os_error(i32::from_ne_bytes(*code).saturating_neg()))
            }
            None => Err(io::ErrorKind::InvalidData.into()),
        })
    }
}

/// The messages in a datagram; ends at the first that is malformed.
pub(crate) fn messages(mut datagram: &[u8]) -> impl Iterator<Item = Received<'_>> {
    std::iter::from_fn(move || {
        let len = u32::from_ne_bytes(*datagram.first_chunk()?) as usize;
        let message = datagram.get(..len)?;
        let (header, payload) = message.split_at_checked(HEADER_LEN)?;
        datagram = datagram.get(len.next_multiple_of(4)..).unwrap_or_default();
        Some(Received {
            kind: u16_at(header, 4)?,
            flags: u16_at(header, 6)?,
            sequence: u32_at(header, 8)?,
            port: u32_at(header, 12)?,
            payload,
        })
    })
}

/// The attributes behind a fixed header of `header_len` bytes; ends at the first that is malformed.
pub(crate) fn attributes(
    payload: &[u8],
    header_len: usize,
) -> impl Iterator<Item = (u16, &[u8])> + '_ {
    let mut rest = payload.get(header_len..).unwrap_or_default();
    std::iter::from_fn(move || {
        let len = usize::from(u16_at(rest, 0)?);
        let kind = u16_at(rest, 2)? & ATTRIBUTE_TYPE;
        let value = rest.get(ATTRIBUTE_HEADER_LEN..len)?;
        rest = rest.get(len.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    })
}

/// A number of two bytes in native order.
fn u16_at(bytes: &[u8], offset: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(*bytes.get(offset..)?.first_chunk()?))
}

/// A number of four bytes in native order.
pub(crate) fn u32_at(bytes: &[u8], offset: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(*bytes.get(offset..)?.first_chunk()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_built_reads_back() {
        let built = Attributes::new()
            .bytes(1, b"abc")
            .nested(2, &Attributes::new().u32(3, 7).str(4, "tun"))
            .be32(5, 0x0102_0304);
        let bytes = Message::new(24, ACK, &[1, 2, 3, 4, 5], &built).into_bytes(42);

        let [message] = messages(&bytes).collect::<Vec<_>>().try_into().ok().unwrap();
        assert_eq!((message.kind, message.sequence, message.port), (24, 42, 0));
        assert_eq!(message.flags, REQUEST | ACK);

        let outer: Vec<_> = attributes(message.payload, 8).collect();
        assert_eq!(outer[0], (1, &b"abc"[..]));
        assert_eq!(outer[1].0, 2);
        assert_eq!(outer[2], (5, &[1, 2, 3, 4][..]));
        let inner: Vec<_> = attributes(outer[1].1, 0).collect();
        assert_eq!(inner, [(3, &7u32.to_ne_bytes()[..]), (4, &b"tun\0"[..])]);
    }

    #[test]
    fn truncated_and_lying_input_ends_the_iteration() {
        let two = Attributes::new().bytes(1, b"abcd").bytes(2, b"e");
        let good = Message::new(24, 0, &[0; 4], &two).into_bytes(1);
        for len in 0..good.len() {
            assert_eq!(messages(&good[..len]).count(), 0, "a message cut to {len} bytes");
        }
        let payload = &good[HEADER_LEN..];
        for len in 0..payload.len() {
            assert!(attributes(&payload[..len], 4).count() < 2 || len > 16);
        }
        // Lengths that would not advance, and such that point past the end.
        for len in [0u32, 1, 15, u32::MAX] {
            assert_eq!(messages(&[&len.to_ne_bytes()[..], &[0; 20]].concat()).count(), 0);
        }
        for len in [0u16, 3, u16::MAX] {
            assert_eq!(attributes(&[&len.to_ne_bytes()[..], &[0; 20]].concat(), 0).count(), 0);
        }
    }
}
