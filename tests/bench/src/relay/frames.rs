//! A load of frames that no socket sends or receives: they reach the relay's interface as a network card's driver hands
//! them over, the same for all relays, and what the relay sends is taken off the cable as cheaply.
//!
//! Sockets are only for allocating. The rest is a program in the kernel, which gets its frames from here.

use std::{
    net::{SocketAddr, SocketAddrV4, UdpSocket},
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use connlib_e2e::Namespace;
use etherparse::PacketBuilder;
use nix::ifaddrs::getifaddrs;

use super::{
    load::{CHANNEL, Direction, Kind, Load, SMALLEST_PAYLOAD, Shape, Transfer, payload},
    network::{Network, PEERS_BESIDE_CLIENTS, RELAY, reached_at},
    program::Program,
    subject::user_of,
    turn::{Allocation, CHANNEL_HEADER, channel_data},
};

/// As hosts do.
const HOPS: u8 = 64;
const FIRST_PORT: u16 = 4000;

/// Clients with allocations, and frames of theirs and their peers'.
pub(super) struct Frames {
    flows: Vec<Flow>,
    clients: Namespace,
    interface: String,
    run: usize,
    program: Program,
}

#[derive(Debug)]
struct Flow {
    allocation: Allocation,
    channel: u16,
    peer: SocketAddrV4,
}

/// Who the ends of the clients' cable are, to Ethernet.
#[derive(Debug, Clone, Copy)]
struct Ends {
    clients: [u8; 6],
    relay: [u8; 6],
}

impl Frames {
    pub(super) fn set_up(network: &Network, shape: Shape) -> Result<Self> {
        let ends = Ends {
            clients: hardware_address(&network.clients, &network.at_clients)?,
            relay: hardware_address(&network.relay, &network.interfaces[0])?,
        };
        let mut flows = Vec::new();
        let mut frames = Vec::new();
        let first = Kind::Frames.first_flow();
        for number in first..first + shape.flows {
            let flow = Flow::set_up(network, number)?;
            frames.extend(flow.frames(number, &shape, ends)?);
            flows.push(flow);
        }
        let program = Program::load(&frames)?;
        let (clients, interface) = (network.clients.clone(), network.at_clients.clone());
        Ok(Self { flows, clients, interface, run: shape.run, program })
    }
}

impl Load for Frames {
    fn refresh(&mut self) -> Result<()> {
        self.flows.iter_mut().try_for_each(|flow| {
            flow.allocation.refresh()?;
            flow.allocation.bind(flow.channel, flow.peer.into())
        })
    }

    fn run(&mut self, rate: f64, duration: Duration) -> Result<Transfer> {
        let Self { clients, interface, run, program, .. } = self;
        clients.enter(|| program.run(interface, rate, *run, duration))?
    }
}

impl Flow {
    fn set_up(network: &Network, number: u32) -> Result<Self> {
        let client = network.clients.enter(|| UdpSocket::bind("10.0.1.2:0"))??;
        client.connect(RELAY)?;
        let mut allocation = Allocation::open(client, user_of(number))?;
        let number = u16::try_from(number)?;
        let (channel, port) = (CHANNEL + number, FIRST_PORT + number);
        let peer = SocketAddrV4::new(PEERS_BESIDE_CLIENTS, port);
        allocation.bind(channel, peer.into())?;
        Ok(Self { allocation, channel, peer })
    }

    /// A frame for each direction.
    fn frames(&self, number: u32, shape: &Shape, ends: Ends) -> Result<Vec<Vec<u8>>> {
        // Fillings begin such that all frames are the same behind their fronts.
        let payload = |header| payload(number, shape.payload, header + SMALLEST_PAYLOAD);
        let SocketAddr::V4(client) = self.allocation.socket().local_addr()? else {
            bail!("the client's address is not of IPv4");
        };
        let data = channel_data(self.channel, &payload(CHANNEL_HEADER));
        let up = || ends.frame(client, RELAY, &data);
        let down = || ends.frame(self.peer, reached_at(self.allocation.relayed()), &payload(0));
        Ok(match shape.direction {
            Direction::Up => vec![up()?],
            Direction::Down => vec![down()?],
            Direction::Both => vec![up()?, down()?],
        })
    }
}

impl Ends {
    /// A frame for the relay.
    fn frame(self, from: SocketAddrV4, to: SocketAddrV4, data: &[u8]) -> Result<Vec<u8>> {
        let frame = PacketBuilder::ethernet2(self.clients, self.relay)
            .ipv4(from.ip().octets(), to.ip().octets(), HOPS)
            .udp(from.port(), to.port());
        let mut bytes = Vec::with_capacity(frame.size(data.len()));
        frame.write(&mut bytes, data)?;
        Ok(bytes)
    }
}

fn hardware_address(namespace: &Namespace, interface: &str) -> Result<[u8; 6]> {
    let address = namespace.enter(|| -> Result<_> {
        let mut addresses = getifaddrs()?.filter(|address| address.interface_name == interface);
        Ok(addresses.find_map(|address| address.address?.as_link_addr()?.addr()))
    })??;
    address.with_context(|| format!("{interface} has no address"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::relay::program::FRONT;

    #[test]
    fn frames_differ_in_their_fronts_alone() {
        let ends = Ends { clients: [2, 0, 0, 0, 0, 1], relay: [2, 0, 0, 0, 0, 2] };
        let address = |port| SocketAddrV4::new([10, 0, 1, 2].into(), port);
        let data = channel_data(CHANNEL, &payload(1, 100, SMALLEST_PAYLOAD + CHANNEL_HEADER));
        let up = ends.frame(address(4000), RELAY, &data).unwrap();
        let down = ends.frame(address(4001), RELAY, &payload(2, 100, SMALLEST_PAYLOAD)).unwrap();
        assert_eq!(up.len(), down.len() + CHANNEL_HEADER);
        assert_eq!(up[FRONT..down.len()], down[FRONT..]);
    }
}
