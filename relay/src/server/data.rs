//! What passes between a client and its peers.

use std::net::SocketAddr;

use connlib_stun::{Attribute, ChannelData, MAGIC_COOKIE, Message, XorAddress, padding};
use rand::{Rng, RngExt};

use super::allocation::Allocation;
use super::counters::Drop;
use super::output::{Prefix, ToClient, ToPeer};
use super::peers::PeerPolicy;

/// Type of a Data indication.
const DATA_INDICATION: [u8; 2] = [0x00, 0x17];

/// A Send indication's peer and payload. RFC 8656 §11.2.
pub(crate) fn parse_indication<'a>(
    indication: &Message<'a>,
) -> Result<(SocketAddr, &'a [u8]), Drop> {
    let peer = indication
        .xor_addresses(Attribute::XOR_PEER_ADDRESS)
        .next()
        .flatten()
        .ok_or(Drop::Malformed)?;
    let payload = indication.first(Attribute::DATA).ok_or(Drop::Malformed)?;
    match indication.unknown().next() {
        None => Ok((peer, payload)),
        Some(_) => Err(Drop::Malformed),
    }
}

impl Allocation {
    /// RFC 8656 §12.6.
    pub(crate) fn forward<'a>(
        &self,
        data: ChannelData<'a>,
        policy: &PeerPolicy,
    ) -> Result<ToPeer<'a>, Drop> {
        let peer = self.peer_of(data.channel).ok_or(Drop::NoChannel)?;
        if !policy.lets_through(peer) {
            return Err(Drop::ForbiddenPeer);
        }
        Ok(ToPeer { allocation: self.id, port: self.port, peer, payload: data.payload })
    }

    /// RFC 8656 §11.2.
    pub(crate) fn send<'a>(
        &self,
        peer: SocketAddr,
        payload: &'a [u8],
        policy: &PeerPolicy,
    ) -> Result<ToPeer<'a>, Drop> {
        if !self.has_permission(&peer.ip()) && self.channel_to(peer).is_none() {
            return Err(Drop::NoPermission);
        }
        if !policy.lets_through(peer) {
            return Err(Drop::ForbiddenPeer);
        }
        Ok(ToPeer { allocation: self.id, port: self.port, peer, payload })
    }

    /// Frames a peer's datagram of `len` bytes. RFC 8656 §11.3, §12.7.
    pub(crate) fn receive(
        &self,
        peer: SocketAddr,
        len: usize,
        rng: &mut impl Rng,
    ) -> Result<ToClient, Drop> {
        let client = self.client;
        let payload_len = u16::try_from(len).map_err(|_| Drop::TooLong)?;
        if let Some(channel) = self.channel_to(peer) {
            let padding = if client.transport.is_stream() { padding(len) } else { 0 };
            let prefix = Prefix::new(&[&ChannelData::header(channel, payload_len)]);
            return Ok(ToClient { client, prefix, padding });
        }
        if !self.has_permission(&peer.ip()) {
            return Err(Drop::NoPermission);
        }
        let transaction = rng.random();
        let peer = XorAddress::new(Attribute::XOR_PEER_ADDRESS, peer, &transaction);
        let attributes = peer.as_bytes().len() + 4 + len + padding(len);
        let prefix = Prefix::new(&[
            &DATA_INDICATION,
            &u16::try_from(attributes).map_err(|_| Drop::TooLong)?.to_be_bytes(),
            &MAGIC_COOKIE,
            &transaction,
            peer.as_bytes(),
            &Attribute::DATA.0.to_be_bytes(),
            &payload_len.to_be_bytes(),
        ]);
        Ok(ToClient { client, prefix, padding: padding(len) })
    }
}
