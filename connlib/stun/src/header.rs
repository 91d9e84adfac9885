//! The first 20 bytes of a message (RFC 8489 §5).

/// What sets STUN apart from other protocols on the same port.
pub const MAGIC_COOKIE: [u8; 4] = 0x2112_a442_u32.to_be_bytes();

/// What tells requests apart, and the second half of what IPv6 addresses are hidden with.
pub type Transaction = [u8; 12];

/// What the beginning of a datagram says. Nothing else of it is known to be in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// Which part of an exchange it is.
    pub class: Class,
    /// What it is about.
    pub method: Method,
    /// Which exchange it belongs to.
    pub transaction: Transaction,
}

impl Header {
    /// The length in bytes.
    pub const LEN: usize = 20;

    /// `None`: this is no STUN. Those that share a port with it don't begin so: channel data has a larger first byte
    /// (RFC 8656 §12), as DTLS and RTP have (RFC 7983 §7); WireGuard's may be smaller than 4, but it has no cookie.
    #[inline]
    pub fn parse(datagram: &[u8]) -> Option<Self> {
        let header = datagram.first_chunk::<{ Self::LEN }>()?;
        if header[0] > 3 || header[4..8] != MAGIC_COOKIE {
            return None;
        }
        let kind = u16::from_be_bytes([header[0], header[1]]);
        Some(Self {
            class: Class::of(kind),
            method: Method::of(kind),
            transaction: *header.last_chunk()?,
        })
    }
}

/// Which part of an exchange a message is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u16)]
pub enum Class {
    /// It wants a response.
    Request = 0x000,
    /// It does not.
    Indication = 0x010,
    /// What a request asked for is done.
    Success = 0x100,
    /// It is not, and ERROR-CODE says why.
    Error = 0x110,
}

impl Class {
    const fn of(kind: u16) -> Self {
        match kind & 0x110 {
            0x000 => Self::Request,
            0x010 => Self::Indication,
            0x100 => Self::Success,
            _ => Self::Error,
        }
    }
}

/// What a message is about (RFC 8489 §18.2, RFC 8656 §17).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Method(pub u16);

#[allow(missing_docs)]
impl Method {
    pub const BINDING: Self = Self(0x001);
    pub const ALLOCATE: Self = Self(0x003);
    pub const REFRESH: Self = Self(0x004);
    pub const SEND: Self = Self(0x006);
    pub const DATA: Self = Self(0x007);
    pub const CREATE_PERMISSION: Self = Self(0x008);
    pub const CHANNEL_BIND: Self = Self(0x009);

    /// Its bits stand around the two of the class.
    const fn of(kind: u16) -> Self {
        Self((kind & 0x000f) | (kind & 0x00e0) >> 1 | (kind & 0x3e00) >> 2)
    }

    /// What a message of this method begins with.
    pub(crate) const fn with(self, class: Class) -> u16 {
        (self.0 & 0x000f) | (self.0 & 0x0070) << 1 | (self.0 & 0x0f80) << 2 | class as u16
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(kind: u16) -> [u8; Header::LEN] {
        let mut bytes = [7; Header::LEN];
        bytes[..2].copy_from_slice(&kind.to_be_bytes());
        bytes[4..8].copy_from_slice(&MAGIC_COOKIE);
        bytes
    }

    #[test]
    fn class_and_method_are_taken_apart_and_put_together() {
        for (kind, class, method) in [
            (0x0001, Class::Request, Method::BINDING),
            (0x0011, Class::Indication, Method::BINDING),
            (0x0101, Class::Success, Method::BINDING),
            (0x0111, Class::Error, Method::BINDING),
            (0x0016, Class::Indication, Method::SEND),
            (0x02ef, Class::Request, Method(0x0ff)),
            (0x03ff, Class::Error, Method(0x0ff)),
        ] {
            let expected = Header { class, method, transaction: [7; 12] };
            assert_eq!(Header::parse(&header(kind)), Some(expected));
            assert_eq!(method.with(class), kind);
        }
        assert_eq!(Method(0xfff).with(Class::Error), 0x3fff);
    }

    #[test]
    fn other_protocols_are_no_stun() {
        let binding = header(1);
        for len in 0..Header::LEN {
            assert_eq!(Header::parse(&binding[..len]), None);
        }
        for at in 4..8 {
            let mut without_cookie = binding;
            without_cookie[at] ^= 1;
            assert_eq!(Header::parse(&without_cookie), None);
        }
        for first in 4..=255 {
            let mut other = binding;
            other[0] = first;
            assert_eq!(Header::parse(&other), None);
        }
    }
}
