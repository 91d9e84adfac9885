//! Control messages: what travels beside the bytes of `sendmsg(2)` and `recvmsg(2)`.
//!
//! A message is a header (length as `size_t`, level and type as `int`) and its data, each padded to the size of a
//! pointer. Encoded and decoded as bytes, so nothing here depends on alignment.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use libc::c_int;

const LENGTH: usize = size_of::<usize>();
const INT: usize = size_of::<c_int>();
const HEADER: usize = padded(LENGTH + 2 * INT);

/// Room for all that we ask the kernel for: a local address, ECN and a segment size, with some to spare.
pub(super) const SPACE: usize = 128;

const fn padded(length: usize) -> usize {
    length.next_multiple_of(LENGTH)
}

/// Control messages for `sendmsg`.
pub(super) struct Outgoing {
    bytes: [u8; SPACE],
    length: usize,
}

impl Outgoing {
    pub(super) fn new() -> Self {
        Self { bytes: [0; SPACE], length: 0 }
    }

    pub(super) fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.length]
    }

    /// The lower two bits of the traffic class (RFC 3168 §5). DSCP stays 0.
    pub(super) fn push_ecn(&mut self, ecn: u8, is_ipv4: bool) {
        let class = c_int::from(ecn & 0b11).to_ne_bytes();
        if is_ipv4 {
            self.push(libc::IPPROTO_IP, libc::IP_TOS, &class);
        } else {
            self.push(libc::IPPROTO_IPV6, libc::IPV6_TCLASS, &class);
        }
    }

    /// The address to send from.
    pub(super) fn push_source(&mut self, source: IpAddr) {
        match source {
            // in_pktinfo: interface index (0: any), source, destination (unused on sending).
            IpAddr::V4(source) => {
                let mut info = [0; 12];
                info[4..8].copy_from_slice(&source.octets());
                self.push(libc::IPPROTO_IP, libc::IP_PKTINFO, &info);
            }
            // in6_pktinfo: address, interface index (0: any).
            IpAddr::V6(source) => {
                let mut info = [0; 20];
                info[..16].copy_from_slice(&source.octets());
                self.push(libc::IPPROTO_IPV6, libc::IPV6_PKTINFO, &info);
            }
        }
    }

    /// Where the kernel is to cut. A `u16` here, though `UDP_GRO` reports an `int`.
    pub(super) fn push_segment_size(&mut self, size: u16) {
        self.push(libc::SOL_UDP, libc::UDP_SEGMENT, &size.to_ne_bytes());
    }

    fn push(&mut self, level: c_int, kind: c_int, data: &[u8]) {
        let message = &mut self.bytes[self.length..];
        message[..LENGTH].copy_from_slice(&(HEADER + data.len()).to_ne_bytes());
        message[LENGTH..LENGTH + INT].copy_from_slice(&level.to_ne_bytes());
        message[LENGTH + INT..LENGTH + 2 * INT].copy_from_slice(&kind.to_ne_bytes());
        message[HEADER..HEADER + data.len()].copy_from_slice(data);
        self.length += HEADER + padded(data.len());
    }
}

/// What the kernel tells about a datagram, or a run of equal ones.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Incoming {
    /// The address it was sent to.
    pub(super) local: Option<IpAddr>,
    /// The lower two bits of the traffic class.
    pub(super) ecn: u8,
    /// Size of each datagram but the last. `None`: there is only one.
    pub(super) segment_size: Option<usize>,
}

impl Incoming {
    pub(super) fn parse(mut control: &[u8]) -> Self {
        let mut incoming = Self::default();
        while let Some((level, kind, data, rest)) = split_message(control) {
            incoming.take(level, kind, data);
            control = rest;
        }
        incoming
    }

    fn take(&mut self, level: c_int, kind: c_int, data: &[u8]) {
        match (level, kind) {
            (libc::IPPROTO_IP, libc::IP_TOS) => {
                self.ecn = data.first().copied().unwrap_or_default() & 0b11;
            }
            (libc::IPPROTO_IPV6, libc::IPV6_TCLASS) => {
                self.ecn = int(data).unwrap_or_default() as u8 & 0b11;
            }
            (libc::IPPROTO_IP, libc::IP_PKTINFO) => {
                self.local = data
                    .get(8..12)
                    .and_then(<[u8]>::first_chunk::<4>)
                    .map(|octets| Ipv4Addr::from(*octets).into());
            }
            (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO) => {
                self.local = data.first_chunk::<16>().map(|octets| Ipv6Addr::from(*octets).into());
            }
            (libc::SOL_UDP, libc::UDP_GRO) => {
                self.segment_size = int(data).and_then(|size| usize::try_from(size).ok());
            }
            _ => {}
        }
    }
}

fn split_message(control: &[u8]) -> Option<(c_int, c_int, &[u8], &[u8])> {
    let length = usize::from_ne_bytes(*control.first_chunk()?);
    let level = int(&control[LENGTH..])?;
    let kind = int(control.get(LENGTH + INT..)?)?;
    let data = control.get(HEADER..length)?;
    Some((level, kind, data, control.get(padded(length)..).unwrap_or_default()))
}

fn int(bytes: &[u8]) -> Option<c_int> {
    bytes.first_chunk().map(|bytes| c_int::from_ne_bytes(*bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_back() {
        for address in ["192.0.2.7", "2001:db8::7"] {
            let address: IpAddr = address.parse().unwrap();
            let mut outgoing = Outgoing::new();
            outgoing.push_ecn(0b11, address.is_ipv4());
            outgoing.push_source(address);
            outgoing.push_segment_size(1312);
            let incoming = Incoming::parse(outgoing.as_bytes());
            assert_eq!(incoming.ecn, 0b11);
            // IPv4 writes the source where reading finds nothing: the kernel reports the destination in another field.
            let expected = if address.is_ipv4() { IpAddr::from([0, 0, 0, 0]) } else { address };
            assert_eq!(incoming.local, Some(expected));
            assert_eq!(incoming.segment_size, None, "UDP_SEGMENT is not UDP_GRO");
        }
    }

    /// The layout is the kernel's: the C library's own macros agree with it.
    #[test]
    fn the_layout_is_that_of_the_c_library() {
        for length in 0..32u32 {
            // SAFETY: these macros only calculate.
            let (space, message_length) =
                unsafe { (libc::CMSG_SPACE(length), libc::CMSG_LEN(length)) };
            assert_eq!(HEADER + padded(length as usize), space as usize);
            assert_eq!(HEADER + length as usize, message_length as usize);
        }
    }

    #[test]
    fn damaged_control_data_ends_the_list() {
        let mut outgoing = Outgoing::new();
        outgoing.push_ecn(1, false);
        let whole = outgoing.as_bytes();
        for length in 0..whole.len() {
            let _ = Incoming::parse(&whole[..length]);
        }
        for bad_length in [0, 1, HEADER - 1, usize::MAX] {
            let mut damaged = whole.to_vec();
            damaged[..LENGTH].copy_from_slice(&bad_length.to_ne_bytes());
            assert_eq!(Incoming::parse(&damaged), Incoming::default());
        }
    }
}
