//! From a client: channel data on the listen port.

use connlib_relay_xdp_types::{Address, Config, Framing, Leg, Pass, Shape, number};

use crate::{
    checksum::Sum,
    datagram::{Datagram, own},
    departure::{Data, Departure, family_of},
    maps,
    packet::Packet,
};

/// The first byte of channel data is one of sixteen (RFC 8656 §12).
const CHANNELS: u16 = 0x4;
/// Channel data is padded to a multiple of this over TCP, and may be over UDP (RFC 8656 §12.5).
const PADDED_TO: u16 = 4;

/// Where channel data goes: to a peer, or straight to another client if the peer is an allocation of this relay.
#[inline(always)]
pub fn decide<'a>(
    packet: Packet<'_>,
    datagram: &Datagram,
    config: &'a Config,
) -> Result<Departure<'a>, Pass> {
    let arrived = Shape { family: datagram.family, framing: Framing::Channel };
    let (channel, length) = header(packet, arrived).ok_or(Pass::Control)?;
    if number(channel) >> 12 != CHANNELS {
        return Err(Pass::Control);
    }
    let payload = number(length);
    let padding = datagram.length.wrapping_sub(arrived.udp_length(payload));
    if payload > datagram.length || padding >= PADDED_TO {
        return Err(Pass::Length);
    }

    let client = Leg::new(datagram.family, datagram.source, datagram.source_port, channel);
    let to_peer = maps::other_leg(&maps::CHANNELS, &client).ok_or(Pass::NoChannel)?;
    let removed = without_padding(packet, arrived, payload, padding)?;
    let removed = removed.remove(channel).remove(length);
    let data = Data { framing: Framing::Channel, length: payload, padding, removed };

    let family = family_of(to_peer);
    let own = own(config, family);
    if to_peer.address != own.public || own.public == Address::NONE {
        return Ok(Departure::to_peer(to_peer, own, data));
    }
    // A packet to ourselves would leave and not come back. The other client knows this one by its allocation.
    if !maps::is_allocated(family, to_peer.port) {
        return Err(Pass::NoPeer);
    }
    let peer = Leg::new(family, own.public, to_peer.tag, to_peer.port);
    let to_client = maps::other_leg(&maps::PEERS, &peer).ok_or(Pass::NoPeer)?;
    Ok(Departure::to_client(to_client, config, data))
}

/// Channel number and length, as words.
#[inline(always)]
fn header(packet: Packet<'_>, shape: Shape) -> Option<(u16, u16)> {
    use connlib_relay_xdp_types::Family::{V4, V6};
    const V4_WORDS: usize = Shape { family: V4, framing: Framing::Channel }.payload() / 2;
    const V6_WORDS: usize = Shape { family: V6, framing: Framing::Channel }.payload() / 2;
    match shape.family {
        V4 => packet.front::<V4_WORDS>().map(|front| (front[V4_WORDS - 2], front[V4_WORDS - 1])),
        V6 => packet.front::<V6_WORDS>().map(|front| (front[V6_WORDS - 2], front[V6_WORDS - 1])),
    }
}

/// What the checksum loses with the bytes behind the data.
#[inline(always)]
fn without_padding(
    packet: Packet<'_>,
    shape: Shape,
    payload: u16,
    padding: u16,
) -> Result<Sum, Pass> {
    let mut removed = Sum::ZERO;
    for index in 0..PADDED_TO - 1 {
        if index < padding {
            // The data starts at a word.
            let offset = payload + index;
            let before = shape.payload() as u16 - 1 + offset;
            let byte = packet.byte_behind(before).ok_or(Pass::Length)?;
            let bytes = if offset.is_multiple_of(2) { [byte, 0] } else { [0, byte] };
            removed = removed.remove(u16::from_ne_bytes(bytes));
        }
    }
    Ok(removed)
}
