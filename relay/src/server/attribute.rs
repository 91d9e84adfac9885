//! The attributes of STUN and TURN that the relay knows (RFC 8489 §18.3, RFC 8656 §18).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

pub(crate) const USERNAME: u16 = 0x0006;
pub(crate) const MESSAGE_INTEGRITY: u16 = 0x0008;
pub(crate) const ERROR_CODE: u16 = 0x0009;
pub(crate) const UNKNOWN_ATTRIBUTES: u16 = 0x000a;
pub(crate) const CHANNEL_NUMBER: u16 = 0x000c;
pub(crate) const LIFETIME: u16 = 0x000d;
pub(crate) const XOR_PEER_ADDRESS: u16 = 0x0012;
pub(crate) const DATA: u16 = 0x0013;
pub(crate) const REALM: u16 = 0x0014;
pub(crate) const NONCE: u16 = 0x0015;
pub(crate) const XOR_RELAYED_ADDRESS: u16 = 0x0016;
pub(crate) const REQUESTED_ADDRESS_FAMILY: u16 = 0x0017;
pub(crate) const EVEN_PORT: u16 = 0x0018;
pub(crate) const REQUESTED_TRANSPORT: u16 = 0x0019;
pub(crate) const MESSAGE_INTEGRITY_SHA256: u16 = 0x001c;
pub(crate) const XOR_MAPPED_ADDRESS: u16 = 0x0020;
pub(crate) const RESERVATION_TOKEN: u16 = 0x0022;
pub(crate) const ADDITIONAL_ADDRESS_FAMILY: u16 = 0x8000;
pub(crate) const ADDRESS_ERROR_CODE: u16 = 0x8001;
pub(crate) const SOFTWARE: u16 = 0x8022;
pub(crate) const FINGERPRINT: u16 = 0x8028;

/// In REQUESTED-ADDRESS-FAMILY and all addresses.
pub(crate) const FAMILY_IP4: u8 = 1;
pub(crate) const FAMILY_IP6: u8 = 2;

/// Whether an attribute has to be understood, but isn't (RFC 8489 §14). DONT-FRAGMENT is among those.
pub(crate) fn is_unknown(kind: u16) -> bool {
    const MAPPED_ADDRESS: u16 = 0x0001;
    let is_known = matches!(
        kind,
        MAPPED_ADDRESS
            | USERNAME
            | MESSAGE_INTEGRITY
            | ERROR_CODE
            | UNKNOWN_ATTRIBUTES
            | CHANNEL_NUMBER
            | LIFETIME
            | XOR_PEER_ADDRESS
            | DATA
            | REALM
            | NONCE
            | XOR_RELAYED_ADDRESS
            | REQUESTED_ADDRESS_FAMILY
            | EVEN_PORT
            | REQUESTED_TRANSPORT
            | MESSAGE_INTEGRITY_SHA256
            | XOR_MAPPED_ADDRESS
            | RESERVATION_TOKEN
    );
    kind < 0x8000 && !is_known
}

pub(crate) const MAGIC_COOKIE: [u8; 4] = 0x2112_a442_u32.to_be_bytes();

/// What tells requests apart, and the second half of what IPv6 addresses are hidden with.
pub(crate) type Transaction = [u8; 12];

/// Reads the value of an attribute that is an address (RFC 8489 §14.2).
pub(crate) fn read_xor_address(value: &[u8], transaction: &Transaction) -> Option<SocketAddr> {
    let (&[_, family, a, b], address) = value.split_first_chunk()?;
    let port = u16::from_be_bytes([a ^ MAGIC_COOKIE[0], b ^ MAGIC_COOKIE[1]]);
    let ip: IpAddr = match family {
        FAMILY_IP4 => Ipv4Addr::from(xored(address.try_into().ok()?, transaction)).into(),
        FAMILY_IP6 => Ipv6Addr::from(xored::<16>(address.try_into().ok()?, transaction)).into(),
        _ => return None,
    };
    Some(SocketAddr::new(ip, port))
}

/// A whole attribute that is an address: the first 12 bytes, or all 24 for IPv6.
pub(crate) fn xor_address(
    kind: u16,
    address: SocketAddr,
    transaction: &Transaction,
) -> ([u8; 24], usize) {
    let mut bytes = [0; 24];
    let port = address.port().to_be_bytes();
    bytes[..2].copy_from_slice(&kind.to_be_bytes());
    bytes[6..8].copy_from_slice(&[port[0] ^ MAGIC_COOKIE[0], port[1] ^ MAGIC_COOKIE[1]]);
    match address.ip() {
        IpAddr::V4(ip) => {
            (bytes[3], bytes[5]) = (8, FAMILY_IP4);
            bytes[8..12].copy_from_slice(&xored(ip.octets(), transaction));
            (bytes, 12)
        }
        IpAddr::V6(ip) => {
            (bytes[3], bytes[5]) = (20, FAMILY_IP6);
            bytes[8..24].copy_from_slice(&xored(ip.octets(), transaction));
            (bytes, 24)
        }
    }
}

fn xored<const N: usize>(mut bytes: [u8; N], transaction: &Transaction) -> [u8; N] {
    for (byte, mask) in bytes.iter_mut().zip(MAGIC_COOKIE.iter().chain(transaction)) {
        *byte ^= mask;
    }
    bytes
}
