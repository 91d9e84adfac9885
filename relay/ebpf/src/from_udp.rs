//! From a peer: a datagram on an allocation's port.

use connlib_relay_xdp_types::{Config, Framing, Leg, Pass};

use crate::{
    Untouched,
    checksum::Sum,
    datagram::Datagram,
    departure::{Data, Departure},
    maps,
};

/// Where a peer's datagram goes: to the client that has bound a channel to the peer.
#[inline(always)]
pub fn decide<'a>(datagram: &Datagram, config: &'a Config) -> Result<Departure<'a>, Untouched> {
    if !maps::is_allocated(datagram.family, datagram.destination_port) {
        return Err(Untouched::Foreign);
    }
    let Datagram { family, source, source_port, destination_port, .. } = *datagram;
    let peer = Leg::new(family, source, source_port, destination_port);
    let to_client = maps::other_leg(&maps::PEERS, &peer).ok_or(Pass::NoPeer)?;
    let length = datagram.payload();
    let data = Data { framing: Framing::Udp, length, padding: 0, removed: Sum::ZERO };
    Ok(Departure::to_client(to_client, config, data))
}
