//! Frames, built by other means than the program's.

use std::net::{IpAddr, SocketAddr};

use etherparse::{
    EtherType, Ethernet2Header, IpNumber, Ipv4Header, Ipv6FlowLabel, Ipv6Header, UdpHeader,
};

/// A frame with a datagram.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Frame {
    pub(crate) ethernet: [[u8; 6]; 2],
    pub(crate) source: SocketAddr,
    pub(crate) destination: SocketAddr,
    pub(crate) hops: u8,
    pub(crate) class: u8,
    /// IPv4's
    pub(crate) identification: u16,
    /// IPv4's
    pub(crate) dont_fragment: bool,
    pub(crate) has_checksum: bool,
    /// What follows the UDP header
    pub(crate) payload: Vec<u8>,
}

impl Frame {
    pub(crate) fn bytes(&self) -> Vec<u8> {
        let udp = self.udp().to_bytes();
        let length = u16::try_from(udp.len() + self.payload.len()).unwrap();
        let (ether_type, ip) = match (self.source.ip(), self.destination.ip()) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                let mut ip = Ipv4Header::new(
                    length,
                    self.hops,
                    IpNumber::UDP,
                    source.octets(),
                    destination.octets(),
                )
                .unwrap();
                ip.dscp = (self.class >> 2).try_into().unwrap();
                ip.ecn = (self.class & 3).try_into().unwrap();
                ip.identification = self.identification;
                ip.dont_fragment = self.dont_fragment;
                ip.header_checksum = ip.calc_header_checksum();
                (EtherType::IPV4, ip.to_bytes().to_vec())
            }
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                let ip = Ipv6Header {
                    traffic_class: self.class,
                    flow_label: Ipv6FlowLabel::ZERO,
                    payload_length: length,
                    next_header: IpNumber::UDP,
                    hop_limit: self.hops,
                    source: source.octets(),
                    destination: destination.octets(),
                };
                (EtherType::IPV6, ip.to_bytes().to_vec())
            }
            mixed => panic!("no packet has addresses of both families: {mixed:?}"),
        };
        let [destination, source] = self.ethernet;
        let ethernet = Ethernet2Header { source, destination, ether_type };
        [&ethernet.to_bytes()[..], &ip, &udp, &self.payload].concat()
    }

    /// The UDP checksum.
    pub(crate) fn checksum(&self) -> u16 {
        self.udp().checksum
    }

    fn udp(&self) -> UdpHeader {
        let (from, to) = (self.source.port(), self.destination.port());
        let payload = &self.payload;
        match (self.source.ip(), self.destination.ip()) {
            _ if !self.has_checksum => UdpHeader::without_ipv4_checksum(from, to, payload.len()),
            (IpAddr::V4(source), IpAddr::V4(destination)) => UdpHeader::with_ipv4_checksum(
                from,
                to,
                &Ipv4Header::new(0, 0, IpNumber::UDP, source.octets(), destination.octets())
                    .unwrap(),
                payload,
            ),
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                let ip = Ipv6Header {
                    source: source.octets(),
                    destination: destination.octets(),
                    ..Ipv6Header::default()
                };
                UdpHeader::with_ipv6_checksum(from, to, &ip, payload)
            }
            mixed => panic!("no packet has addresses of both families: {mixed:?}"),
        }
        .unwrap()
    }
}

/// Channel data, followed by padding.
pub(crate) fn channel_data(channel: u16, data: &[u8], padding: &[u8]) -> Vec<u8> {
    let length = u16::try_from(data.len()).unwrap();
    [&channel.to_be_bytes(), &length.to_be_bytes(), data, padding].concat()
}
