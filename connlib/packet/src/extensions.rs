//! What stands between the fixed IP header and the transport: IPv4 options and IPv6 extension headers.

use crate::bytes::u16_at;
use crate::headers::{IPV6_HEADER, ParseError};

/// IPv6 extension headers (RFC 8200 §4, RFC 4302).
mod extension {
    pub(super) const HOP_BY_HOP: u8 = 0;
    pub(super) const ROUTING: u8 = 43;
    pub(super) const FRAGMENT: u8 = 44;
    pub(super) const AUTHENTICATION: u8 = 51;
    pub(super) const DESTINATION_OPTIONS: u8 = 60;
    /// More of them in one packet are an attack, not a packet.
    pub(super) const MAX: usize = 8;
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fragmentation {
    Whole,
    /// Not the whole packet. The walk has ended at the fragment header.
    Fragment,
}

/// Walks over IPv6 extension headers; `bytes` begin with the fixed header. Returns the transport's protocol number
/// and offset.
pub(crate) fn walk_extensions(
    first: u8,
    bytes: &[u8],
) -> Result<(u8, usize, Fragmentation), ParseError> {
    let mut protocol = first;
    let mut offset = IPV6_HEADER;
    for _ in 0..=extension::MAX {
        let step = match protocol {
            extension::HOP_BY_HOP | extension::ROUTING | extension::DESTINATION_OPTIONS => 8,
            extension::AUTHENTICATION => 4,
            extension::FRAGMENT => 0,
            _ => return Ok((protocol, offset, Fragmentation::Whole)),
        };
        let header = bytes
            .get(offset..)
            .and_then(|rest| rest.first_chunk::<8>())
            .ok_or(ParseError::Truncated)?;
        if protocol == extension::ROUTING && header[3] != 0 {
            return Err(ParseError::SourceRouted);
        }
        // RFC 8200 §4.5: the offset's 13 bits, two reserved bits, more fragments.
        if protocol == extension::FRAGMENT && u16_at(header, 2) & 0xfff9 != 0 {
            return Ok((protocol, offset, Fragmentation::Fragment));
        }
        // RFC 4302 §2.2: the authentication header counts its length in 4 bytes, minus 2.
        offset += 8 + usize::from(header[1]) * step;
        protocol = header[0];
    }
    Err(ParseError::ExtensionHeaders)
}

pub(crate) fn check_ipv4_options(mut options: &[u8]) -> Result<(), ParseError> {
    // RFC 791 §3.1
    const END: u8 = 0;
    const NO_OPERATION: u8 = 1;
    const LOOSE_SOURCE_ROUTE: u8 = 131;
    const STRICT_SOURCE_ROUTE: u8 = 137;

    while let Some(&kind) = options.first() {
        let len = match kind {
            END => break,
            NO_OPERATION => 1,
            LOOSE_SOURCE_ROUTE | STRICT_SOURCE_ROUTE => return Err(ParseError::SourceRouted),
            _ => match options.get(1) {
                Some(&len @ 2..) => usize::from(len),
                _ => return Err(ParseError::HeaderLength),
            },
        };
        options = options.get(len..).ok_or(ParseError::HeaderLength)?;
    }
    Ok(())
}
