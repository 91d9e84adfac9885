//! What a relay does with a datagram, in plain words.

use std::net::{IpAddr, SocketAddr};

use connlib_relay_xdp::{Action, Binding, Config, Family};

use crate::{
    frame::{Frame, channel_data},
    lab::{NEIGHBOURS, ROUTER, SIDE, UPLINK, ethernet_of, family},
};

/// The relay's bindings, and what it does by them.
pub(crate) struct Model {
    config: Config,
    pub(crate) bindings: Vec<Binding>,
    uplink: [u8; 6],
    side: [u8; 6],
}

impl Model {
    pub(crate) fn new(config: Config) -> Self {
        let (uplink, side) = (ethernet_of(UPLINK), ethernet_of(SIDE));
        Self { config, bindings: Vec::new(), uplink, side }
    }

    /// The frame that leaves for one that comes, and by which way. Nothing, if there is no binding for it.
    pub(crate) fn relay(&self, frame: &Frame) -> Option<(Action, Frame)> {
        if frame.destination.port() == self.config.listen_port {
            let (channel, data) = parse_channel_data(&frame.payload)?;
            let binding = self
                .bindings
                .iter()
                .find(|binding| binding.client == frame.source && binding.channel == channel)?;
            if !self.is_own(binding.peer) {
                let source = self.local(binding.peer, binding.allocation_port);
                return Some(self.send(frame, source, binding.peer, data.to_vec()));
            }
            let from = self.public(binding.peer, binding.allocation_port);
            return self.to_client(frame, from, binding.peer.port(), data);
        }
        self.to_client(frame, frame.source, frame.destination.port(), &frame.payload)
    }

    fn to_client(
        &self,
        frame: &Frame,
        peer: SocketAddr,
        allocation_port: u16,
        data: &[u8],
    ) -> Option<(Action, Frame)> {
        let binding = self.bindings.iter().find(|binding| {
            binding.allocation_port == allocation_port
                && self.canonical(binding.peer) == self.canonical(peer)
        })?;
        let source = self.local(binding.client, self.config.listen_port);
        Some(self.send(frame, source, binding.client, channel_data(binding.channel, data, &[])))
    }

    fn send(
        &self,
        old: &Frame,
        source: SocketAddr,
        destination: SocketAddr,
        payload: Vec<u8>,
    ) -> (Action, Frame) {
        let next = NEIGHBOURS
            .iter()
            .find(|neighbour| neighbour.address.parse() == Ok(destination.ip()))
            .map_or((UPLINK, ROUTER), |neighbour| (neighbour.interface, neighbour.ethernet));
        let (action, own) = match next.0 {
            UPLINK => (Action::Transmit, self.uplink),
            _ => (Action::Redirect, self.side),
        };
        let from_v4 = old.source.is_ipv4();
        let frame = Frame {
            ethernet: [next.1, own],
            source,
            destination,
            hops: old.hops - 1,
            class: old.class,
            identification: if from_v4 { old.identification } else { 0 },
            dont_fragment: !from_v4 || old.dont_fragment,
            has_checksum: old.has_checksum,
            payload,
        };
        (action, frame)
    }

    /// The relay's own addresses of a family: on its interface, and as announced.
    pub(crate) fn own(&self, family: Family) -> [IpAddr; 2] {
        match family {
            Family::V4 => self.config.v4.map(|own| [own.local.into(), own.public.into()]),
            Family::V6 => self.config.v6.map(|own| [own.local.into(), own.public.into()]),
        }
        .unwrap()
    }

    /// Whether an address is the relay's, by any of its names.
    fn is_own(&self, address: SocketAddr) -> bool {
        self.canonical(address) == self.public(address, address.port())
    }

    fn canonical(&self, address: SocketAddr) -> SocketAddr {
        if address == self.local(address, address.port()) {
            return self.public(address, address.port());
        }
        address
    }

    /// The relay's own address on its interface, of the family of `like`.
    fn local(&self, like: SocketAddr, port: u16) -> SocketAddr {
        SocketAddr::new(self.own(family(like))[0], port)
    }

    fn public(&self, like: SocketAddr, port: u16) -> SocketAddr {
        SocketAddr::new(self.own(family(like))[1], port)
    }
}

fn parse_channel_data(payload: &[u8]) -> Option<(u16, &[u8])> {
    let (header, data) = payload.split_at_checked(4)?;
    let channel = u16::from_be_bytes([header[0], header[1]]);
    let length = u16::from_be_bytes([header[2], header[3]]);
    Some((channel, data.get(..length.into())?))
}
