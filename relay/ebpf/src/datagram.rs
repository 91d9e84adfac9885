//! Reading the headers.

use connlib_relay_xdp_types::{
    Address, Config, ETHERNET, Family, Framing, Own, Shape, number, word,
};

use crate::{
    checksum::Sum,
    packet::{LONGEST, Packet},
};

/// Where Ethernet says what it carries, in words.
pub const ETHER_TYPE: usize = IP - 1;
/// Where the IP header starts, in words.
pub const IP: usize = ETHERNET / 2;
/// Ether types.
pub const IPV4: u16 = word(0x0800);
pub const IPV6: u16 = word(0x86dd);
/// The only protocol for us.
pub const UDP: u8 = 17;
/// Version 4, and a header of five times four bytes: no options.
pub const PLAIN_IPV4: u8 = 0x45;
/// The flag that forbids routers to fragment.
pub const DONT_FRAGMENT: u16 = word(0x4000);

const V4: Shape = Shape { family: Family::V4, framing: Framing::Udp };
const V6: Shape = Shape { family: Family::V6, framing: Framing::Udp };
const V4_UDP: usize = V4.udp() / 2;
const V6_UDP: usize = V6.udp() / 2;

/// A UDP datagram in a single, plain IP packet. Addresses, ports and the checksum are in words, other numbers are numbers.
pub struct Datagram {
    pub family: Family,
    pub source: Address,
    pub destination: Address,
    pub source_port: u16,
    pub destination_port: u16,
    /// Of the UDP header and what follows it, in bytes
    pub length: u16,
    pub checksum: u16,
    pub hops: u8,
    /// DSCP and ECN
    pub traffic_class: u8,
    /// IPv4's; zero for IPv6
    pub identification: u16,
    /// IPv4's flag in its place; set for IPv6
    pub dont_fragment: u16,
}

impl Datagram {
    /// Nothing, if it is anything else than what could be for the relay: another protocol, with a VLAN tag, options,
    /// extension headers, in fragments, or longer or shorter than it says.
    #[inline(always)]
    pub fn read(packet: Packet<'_>) -> Option<Self> {
        let front: &[u16; IP] = packet.front()?;
        let datagram = match front[ETHER_TYPE] {
            IPV4 => Self::read_v4(packet)?,
            IPV6 => Self::read_v6(packet)?,
            _ => return None,
        };
        let shape = Shape { family: datagram.family, framing: Framing::Udp };
        let is_whole = packet.has(shape.udp() + usize::from(datagram.length & LONGEST));
        let is_sound = datagram.length >= shape.udp_length(0) && datagram.length <= LONGEST;
        (is_whole && is_sound).then_some(datagram)
    }

    #[inline(always)]
    fn read_v4(packet: Packet<'_>) -> Option<Self> {
        let front: &[u16; V4.payload() / 2] = packet.front()?;
        let [version, traffic_class] = front[IP].to_ne_bytes();
        let [hops, protocol] = front[IP + 4].to_ne_bytes();
        let fragmentation = front[IP + 3];
        if version != PLAIN_IPV4 || protocol != UDP || fragmentation & !DONT_FRAGMENT != 0 {
            return None;
        }
        let length = number(front[V4_UDP + 2]);
        if u32::from(number(front[IP + 1])) != Family::V4.header() as u32 + u32::from(length) {
            return None;
        }
        // A header that is broken must not get a checksum that says otherwise.
        let sum = front[IP..V4_UDP].iter().fold(Sum::ZERO, |sum, word| sum.add(*word));
        if sum.checksum() != 0 {
            return None;
        }
        Some(Self {
            family: Family::V4,
            source: Address([front[IP + 6], front[IP + 7], 0, 0, 0, 0, 0, 0]),
            destination: Address([front[IP + 8], front[IP + 9], 0, 0, 0, 0, 0, 0]),
            source_port: front[V4_UDP],
            destination_port: front[V4_UDP + 1],
            length,
            checksum: front[V4_UDP + 3],
            hops,
            traffic_class,
            identification: front[IP + 2],
            dont_fragment: fragmentation,
        })
    }

    #[inline(always)]
    fn read_v6(packet: Packet<'_>) -> Option<Self> {
        let front: &[u16; V6.payload() / 2] = packet.front()?;
        let version_and_class = number(front[IP]);
        let [protocol, hops] = front[IP + 3].to_ne_bytes();
        let length = number(front[V6_UDP + 2]);
        let checksum = front[V6_UDP + 3];
        // RFC 8200 §8.1: there is always a checksum.
        if version_and_class >> 12 != 6
            || protocol != UDP
            || number(front[IP + 2]) != length
            || checksum == 0
        {
            return None;
        }
        Some(Self {
            family: Family::V6,
            source: address(front, IP + 4),
            destination: address(front, IP + 12),
            source_port: front[V6_UDP],
            destination_port: front[V6_UDP + 1],
            length,
            checksum,
            hops,
            traffic_class: (version_and_class >> 4) as u8,
            identification: 0,
            dont_fragment: DONT_FRAGMENT,
        })
    }

    /// Whether it came to an address of the relay's.
    #[inline(always)]
    pub fn is_for(&self, config: &Config) -> bool {
        let local = own(config, self.family).local;
        self.destination == local && local != Address::NONE
    }

    /// Whether it says that the relay has sent it: such a packet never comes from outside, and the kernel takes none that
    /// says so (RFC 1812 §5.3.8).
    #[inline(always)]
    pub fn is_from(&self, config: &Config) -> bool {
        let own = own(config, self.family);
        self.source == own.local || self.source == own.public
    }

    /// Length of what follows the UDP header.
    #[inline(always)]
    pub fn payload(&self) -> u16 {
        self.length - Shape { family: self.family, framing: Framing::Udp }.udp_length(0)
    }
}

/// The relay's addresses of a family.
#[inline(always)]
pub fn own(config: &Config, family: Family) -> &Own {
    match family {
        Family::V4 => &config.v4,
        Family::V6 => &config.v6,
    }
}

#[inline(always)]
fn address<const WORDS: usize>(front: &[u16; WORDS], at: usize) -> Address {
    Address([
        front[at],
        front[at + 1],
        front[at + 2],
        front[at + 3],
        front[at + 4],
        front[at + 5],
        front[at + 6],
        front[at + 7],
    ])
}
