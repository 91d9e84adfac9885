//! Writing the headers.

use connlib_relay_xdp_types::{
    Address, Config, Family, Framing, Leg, Own, Pass, Path, Shape, word,
};

use crate::{
    checksum::Sum,
    datagram::{Datagram, ETHER_TYPE, IP, IPV4, IPV6, PLAIN_IPV4, UDP, own},
    packet::Packet,
    route::Way,
};

/// What a packet brings to be relayed.
pub struct Data {
    /// How it came
    pub framing: Framing,
    /// Its length in bytes
    pub length: u16,
    /// How many bytes are behind it
    pub padding: u16,
    /// Those, and what is in front of it behind the UDP header, taken out of the checksum
    pub removed: Sum,
}

/// What a packet is to become.
pub struct Departure<'a> {
    pub source: &'a Address,
    /// A word, as the destination's is
    pub source_port: u16,
    pub to: &'a Leg,
    pub data: Data,
    framing: Framing,
}

impl<'a> Departure<'a> {
    /// Channel data for a client.
    #[inline(always)]
    pub fn to_client(to: &'a Leg, config: &'a Config, data: Data) -> Self {
        let source = &own(config, family_of(to)).local;
        Self { source, source_port: config.listen_port, to, data, framing: Framing::Channel }
    }

    /// A datagram for a peer, from an allocation.
    #[inline(always)]
    pub fn to_peer(to: &'a Leg, own: &'a Own, data: Data) -> Self {
        Self { source: &own.local, source_port: to.tag, to, data, framing: Framing::Udp }
    }

    #[inline(always)]
    pub fn family(&self) -> Family {
        family_of(self.to)
    }

    /// The way that a datagram takes through the relay to become this.
    #[inline(always)]
    pub fn path(&self, datagram: &Datagram) -> Path {
        Path {
            from: Shape { family: datagram.family, framing: self.data.framing },
            to: self.shape(),
        }
    }

    #[inline(always)]
    fn shape(&self) -> Shape {
        Shape { family: self.family(), framing: self.framing }
    }

    /// Length of the UDP header and what follows it, in bytes.
    #[inline(always)]
    pub fn length(&self) -> u16 {
        self.shape().udp_length(self.data.length)
    }

    /// Makes a packet that was read as `datagram` into this. It is as it was if there is an error.
    #[inline(always)]
    pub fn write(
        &self,
        packet: Packet<'_>,
        datagram: &Datagram,
        way: &Way<'_>,
    ) -> Result<(), Pass> {
        let checksum = self.checksum(datagram)?;
        if !packet.shrink_front(self.path(datagram).shrinks_by()) {
            return Err(Pass::NoRoom);
        }
        let written = match self.family() {
            Family::V4 => self.write_v4(packet, datagram, way, checksum),
            Family::V6 => self.write_v6(packet, datagram, way, checksum),
        };
        // The front was just moved to fit, so it is there.
        written.ok_or(Pass::NoRoom)?;
        packet.trim(self.data.padding);
        Ok(())
    }

    /// That of UDP.
    #[inline(always)]
    fn checksum(&self, datagram: &Datagram) -> Result<u16, Pass> {
        if datagram.checksum == 0 {
            // RFC 768, RFC 8200 §8.1: IPv4 does without.
            return if self.family() == Family::V4 { Ok(0) } else { Err(Pass::Checksum) };
        }
        let (old, new) = (word(datagram.length), word(self.length()));
        let ends = Sum::ZERO.add_all(&datagram.source.0).add_all(&datagram.destination.0).add(old);
        // What the kernel has not finished yet has the sum of the pseudo-header there. It may be several datagrams in one.
        if datagram.checksum == ends.add(word(UDP.into())).folded() {
            return Err(Pass::Unfinished);
        }
        let mut sum = self.data.removed;
        if let Framing::Channel = self.framing {
            sum = sum.add(self.to.tag).add(word(self.data.length));
        }
        // The length is summed twice: of the header, and of the pseudo-header.
        let sum = sum
            .add(!datagram.checksum)
            .remove(ends.folded())
            .remove(datagram.source_port)
            .remove(datagram.destination_port)
            .remove(old)
            .add_all(&self.source.0)
            .add_all(&self.to.address.0)
            .add(self.source_port)
            .add(self.to.port)
            .add(new)
            .add(new);
        Ok(sum.udp_checksum())
    }

    #[inline(always)]
    fn write_v4(
        &self,
        packet: Packet<'_>,
        old: &Datagram,
        way: &Way<'_>,
        checksum: u16,
    ) -> Option<()> {
        const SHAPE: Shape = Shape { family: Family::V4, framing: Framing::Udp };
        const START: usize = SHAPE.udp() / 2;
        let front: &mut [u16; SHAPE.payload() / 2] = packet.front_mut()?;
        way.write(front);
        front[ETHER_TYPE] = IPV4;

        let length = Family::V4.header() as u16 + self.length();
        front[IP] = u16::from_ne_bytes([PLAIN_IPV4, old.traffic_class]);
        front[IP + 1] = word(length);
        front[IP + 2] = old.identification;
        front[IP + 3] = old.dont_fragment;
        front[IP + 4] = u16::from_ne_bytes([old.hops - 1, UDP]);
        front[IP + 5] = 0;
        [front[IP + 6], front[IP + 7]] = [self.source.0[0], self.source.0[1]];
        [front[IP + 8], front[IP + 9]] = [self.to.address.0[0], self.to.address.0[1]];
        let sum = front[IP..START].iter().fold(Sum::ZERO, |sum, word| sum.add(*word));
        front[IP + 5] = sum.checksum();

        self.write_udp(&mut front[START..], checksum);
        self.write_channel::<{ SHAPE.payload() / 2 + 2 }>(packet)
    }

    #[inline(always)]
    fn write_v6(
        &self,
        packet: Packet<'_>,
        old: &Datagram,
        way: &Way<'_>,
        checksum: u16,
    ) -> Option<()> {
        const SHAPE: Shape = Shape { family: Family::V6, framing: Framing::Udp };
        const START: usize = SHAPE.udp() / 2;
        let front: &mut [u16; SHAPE.payload() / 2] = packet.front_mut()?;
        way.write(front);
        front[ETHER_TYPE] = IPV6;

        // No flow label: this is another flow than the one it came by (RFC 8656 §14).
        front[IP] = word(6 << 12 | u16::from(old.traffic_class) << 4);
        front[IP + 1] = 0;
        front[IP + 2] = word(self.length());
        front[IP + 3] = u16::from_ne_bytes([UDP, old.hops - 1]);
        front[IP + 4..IP + 12].copy_from_slice(&self.source.0);
        front[IP + 12..IP + 20].copy_from_slice(&self.to.address.0);

        self.write_udp(&mut front[START..], checksum);
        self.write_channel::<{ SHAPE.payload() / 2 + 2 }>(packet)
    }

    #[inline(always)]
    fn write_udp(&self, header: &mut [u16], checksum: u16) {
        header[0] = self.source_port;
        header[1] = self.to.port;
        header[2] = word(self.length());
        header[3] = checksum;
    }

    /// The two words in front of the data, if it is to have them.
    #[inline(always)]
    fn write_channel<const WORDS: usize>(&self, packet: Packet<'_>) -> Option<()> {
        if let Framing::Channel = self.framing {
            let front: &mut [u16; WORDS] = packet.front_mut()?;
            front[WORDS - 2] = self.to.tag;
            front[WORDS - 1] = word(self.data.length);
        }
        Some(())
    }
}

/// The family of a leg's address.
#[inline(always)]
pub fn family_of(leg: &Leg) -> Family {
    if leg.family == Family::V4 as u16 { Family::V4 } else { Family::V6 }
}
