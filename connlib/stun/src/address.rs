//! Attributes that are addresses (RFC 8489 §14.1, §14.2).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::attribute::Attribute;
use crate::header::{MAGIC_COOKIE, Transaction};

/// IPv4 in REQUESTED-ADDRESS-FAMILY (RFC 8656 §18.6), its siblings, and all addresses.
pub const FAMILY_IP4: u8 = 1;

/// IPv6.
pub const FAMILY_IP6: u8 = 2;

/// An attribute that is an address, hidden from NATs that rewrite what looks like one (RFC 8489 §14.2).
#[derive(Debug, Clone, Copy)]
pub struct XorAddress {
    bytes: [u8; Self::MAX],
    len: u8,
}

impl XorAddress {
    /// The length in bytes of one for IPv6; of one for IPv4 it is 12.
    pub const MAX: usize = 24;

    /// Writes one.
    #[inline]
    pub fn new(attribute: Attribute, address: SocketAddr, transaction: &Transaction) -> Self {
        let mut bytes = [0; Self::MAX];
        bytes[..2].copy_from_slice(&attribute.0.to_be_bytes());
        bytes[6..8].copy_from_slice(&port(address.port().to_be_bytes(), &MAGIC_COOKIE));
        match address.ip() {
            IpAddr::V4(ip) => {
                (bytes[3], bytes[5]) = (8, FAMILY_IP4);
                bytes[8..12].copy_from_slice(&hidden(ip.octets(), transaction));
                Self { bytes, len: 12 }
            }
            IpAddr::V6(ip) => {
                (bytes[3], bytes[5]) = (20, FAMILY_IP6);
                bytes[8..24].copy_from_slice(&hidden(ip.octets(), transaction));
                Self { bytes, len: 24 }
            }
        }
    }

    /// The whole attribute.
    #[inline]
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len)]
    }

    /// Reads the value of one. `None`: it is of another family or length.
    #[inline]
    pub fn read(value: &[u8], transaction: &Transaction) -> Option<SocketAddr> {
        let (family, port_bytes, ip) = split(value)?;
        let port = u16::from_be_bytes(port(port_bytes, &MAGIC_COOKIE));
        let ip: IpAddr = match family {
            FAMILY_IP4 => Ipv4Addr::from(hidden(ip.try_into().ok()?, transaction)).into(),
            FAMILY_IP6 => Ipv6Addr::from(hidden::<16>(ip.try_into().ok()?, transaction)).into(),
            _ => return None,
        };
        Some(SocketAddr::new(ip, port))
    }
}

/// Reads the value of MAPPED-ADDRESS, which is not hidden.
pub(crate) fn read_plain(value: &[u8]) -> Option<SocketAddr> {
    let (family, port, ip) = split(value)?;
    let ip: IpAddr = match family {
        FAMILY_IP4 => <[u8; 4]>::try_from(ip).ok()?.into(),
        FAMILY_IP6 => <[u8; 16]>::try_from(ip).ok()?.into(),
        _ => return None,
    };
    Some(SocketAddr::new(ip, u16::from_be_bytes(port)))
}

/// Family, port and IP address.
fn split(value: &[u8]) -> Option<(u8, [u8; 2], &[u8])> {
    let (&[_, family, a, b], ip) = value.split_first_chunk()?;
    Some((family, [a, b], ip))
}

fn port([a, b]: [u8; 2], mask: &[u8; 4]) -> [u8; 2] {
    [a ^ mask[0], b ^ mask[1]]
}

/// Hides an IP address, or shows it again.
fn hidden<const N: usize>(mut ip: [u8; N], transaction: &Transaction) -> [u8; N] {
    for (byte, mask) in ip.iter_mut().zip(MAGIC_COOKIE.iter().chain(transaction)) {
        *byte ^= mask;
    }
    ip
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_both_families_are_read_as_they_were_written() {
        for address in ["192.0.2.7:4711", "[2001:db8::7]:4711"] {
            let address = address.parse().unwrap();
            let written = XorAddress::new(Attribute::XOR_PEER_ADDRESS, address, &[3; 12]);
            let value = &written.as_bytes()[4..];
            assert_eq!(usize::from(written.as_bytes()[3]), value.len());
            assert_eq!(XorAddress::read(value, &[3; 12]), Some(address));
            assert_ne!(read_plain(value), Some(address));
            for len in 0..value.len() {
                assert_eq!(XorAddress::read(&value[..len], &[3; 12]), None);
            }
            let longer = [value, &[0]].concat();
            assert_eq!((XorAddress::read(&longer, &[3; 12]), read_plain(&longer)), (None, None));
        }
        assert_eq!(XorAddress::read(&[0, 3, 0, 0, 0, 0, 0, 0], &[3; 12]), None);
    }

    #[test]
    fn plain_addresses_are_read_too() {
        let v4 = read_plain(&[0, 1, 0x12, 0x67, 192, 0, 2, 7]);
        assert_eq!(v4, Some("192.0.2.7:4711".parse().unwrap()));
        let v6 = read_plain(b"\0\x02\x12\x67\x20\x01\x0d\xb8\0\0\0\0\0\0\0\0\0\0\0\x07");
        assert_eq!(v6, Some("[2001:db8::7]:4711".parse().unwrap()));
    }
}
