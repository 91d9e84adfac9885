//! The kinds of attributes.

/// What an attribute is (RFC 8489 §18.3, RFC 8656 §18).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Attribute(pub u16);

#[allow(missing_docs)]
impl Attribute {
    pub const MAPPED_ADDRESS: Self = Self(0x0001);
    pub const USERNAME: Self = Self(0x0006);
    pub const MESSAGE_INTEGRITY: Self = Self(0x0008);
    pub const ERROR_CODE: Self = Self(0x0009);
    pub const UNKNOWN_ATTRIBUTES: Self = Self(0x000a);
    pub const CHANNEL_NUMBER: Self = Self(0x000c);
    pub const LIFETIME: Self = Self(0x000d);
    pub const XOR_PEER_ADDRESS: Self = Self(0x0012);
    pub const DATA: Self = Self(0x0013);
    pub const REALM: Self = Self(0x0014);
    pub const NONCE: Self = Self(0x0015);
    pub const XOR_RELAYED_ADDRESS: Self = Self(0x0016);
    pub const REQUESTED_ADDRESS_FAMILY: Self = Self(0x0017);
    pub const EVEN_PORT: Self = Self(0x0018);
    pub const REQUESTED_TRANSPORT: Self = Self(0x0019);
    pub const MESSAGE_INTEGRITY_SHA256: Self = Self(0x001c);
    pub const XOR_MAPPED_ADDRESS: Self = Self(0x0020);
    pub const RESERVATION_TOKEN: Self = Self(0x0022);
    pub const ADDITIONAL_ADDRESS_FAMILY: Self = Self(0x8000);
    pub const ADDRESS_ERROR_CODE: Self = Self(0x8001);
    pub const SOFTWARE: Self = Self(0x8022);
    pub const FINGERPRINT: Self = Self(0x8028);

    /// Whether it has to be understood (RFC 8489 §14), but has no name here. DONT-FRAGMENT is among those.
    pub const fn is_unknown(self) -> bool {
        let is_known = matches!(
            self,
            Self::MAPPED_ADDRESS
                | Self::USERNAME
                | Self::MESSAGE_INTEGRITY
                | Self::ERROR_CODE
                | Self::UNKNOWN_ATTRIBUTES
                | Self::CHANNEL_NUMBER
                | Self::LIFETIME
                | Self::XOR_PEER_ADDRESS
                | Self::DATA
                | Self::REALM
                | Self::NONCE
                | Self::XOR_RELAYED_ADDRESS
                | Self::REQUESTED_ADDRESS_FAMILY
                | Self::EVEN_PORT
                | Self::REQUESTED_TRANSPORT
                | Self::MESSAGE_INTEGRITY_SHA256
                | Self::XOR_MAPPED_ADDRESS
                | Self::RESERVATION_TOKEN
        );
        self.0 < 0x8000 && !is_known
    }
}

/// The longest text of an attribute in bytes (RFC 8489 §14.3, §14.9, §14.10, §14.14).
pub const MAX_VALUE: usize = 763;

/// The first attribute of what follows a header, and how many bytes it takes with its padding, which has to be there as
/// well.
#[inline]
pub(crate) fn split(attributes: &[u8]) -> Option<(Attribute, &[u8], usize)> {
    let (&[a, b, c, d], rest) = attributes.split_first_chunk()?;
    let len = usize::from(u16::from_be_bytes([c, d]));
    let padded = len.next_multiple_of(4);
    let value = rest.get(..padded)?.get(..len)?;
    Some((Attribute(u16::from_be_bytes([a, b])), value, 4 + padded))
}
