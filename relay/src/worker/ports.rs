//! The sockets of allocations.

use std::io;
use std::net::{IpAddr, SocketAddr};

use connlib_relay::server::{AllocationId, Families, PortError};
use nix::sys::epoll::{Epoll, EpollEvent, EpollFlags};

use super::token::Token;
use crate::udp::{Sharing, UdpSocket};

/// The sockets of the allocations of one worker.
#[derive(Debug)]
pub(super) struct Ports {
    bind: BindAddresses,
    buffer: usize,
    /// By [`AllocationId::slot`].
    slots: Vec<Option<Port>>,
}

/// Where relayed sockets are bound. `None`: the family is not relayed.
#[derive(Debug, Clone, Copy)]
pub(crate) struct BindAddresses {
    pub(crate) v4: Option<IpAddr>,
    pub(crate) v6: Option<IpAddr>,
}

#[derive(Debug)]
pub(super) struct Port {
    pub(super) allocation: AllocationId,
    v4: Option<UdpSocket>,
    v6: Option<UdpSocket>,
}

impl Port {
    /// The socket of the family that `peer` has.
    pub(super) fn socket(&self, peer: SocketAddr) -> Option<&UdpSocket> {
        if peer.is_ipv4() { self.v4.as_ref() } else { self.v6.as_ref() }
    }

    pub(super) fn family(&self, is_v4: bool) -> Option<&UdpSocket> {
        if is_v4 { self.v4.as_ref() } else { self.v6.as_ref() }
    }
}

impl Ports {
    pub(super) fn new(bind: BindAddresses, buffer: usize) -> Self {
        Self { bind, buffer, slots: Vec::new() }
    }

    pub(super) fn at(&self, slot: usize) -> Option<&Port> {
        self.slots.get(slot)?.as_ref()
    }

    /// Binds the port for these families and watches it.
    pub(super) fn open(
        &mut self,
        epoll: &Epoll,
        allocation: AllocationId,
        port: u16,
        families: Families,
    ) -> Result<(), PortError> {
        let open = |is_wanted: bool, ip: Option<IpAddr>, token: Token| {
            if !is_wanted {
                return Ok(None);
            }
            let ip = ip.ok_or(PortError::Unavailable)?;
            let socket = UdpSocket::bind(SocketAddr::new(ip, port), Sharing::Alone, self.buffer)
                .map_err(|error| port_error(port, &error))?;
            let event = EpollEvent::new(EpollFlags::EPOLLIN, token.into());
            epoll.add(&socket, event).map_err(|error| port_error(port, &error.into()))?;
            Ok(Some(socket))
        };
        let slot = allocation.slot();
        let v4 = open(families.ip4, self.bind.v4, Token::Relay { slot, is_v4: true })?;
        let v6 = open(families.ip6, self.bind.v6, Token::Relay { slot, is_v4: false })?;
        if self.slots.len() <= slot {
            self.slots.resize_with(slot + 1, || None);
        }
        self.slots[slot] = Some(Port { allocation, v4, v6 });
        Ok(())
    }

    /// Whether this allocation has sockets.
    pub(super) fn has(&self, allocation: AllocationId) -> bool {
        self.at(allocation.slot()).is_some_and(|port| port.allocation == allocation)
    }

    /// Closes the sockets of these families, which ends their being watched.
    pub(super) fn close(&mut self, allocation: AllocationId, families: Families) {
        let Some(place) = self.slots.get_mut(allocation.slot()) else { return };
        let Some(port) = place.as_mut().filter(|port| port.allocation == allocation) else {
            return;
        };
        if families.ip4 {
            port.v4 = None;
        }
        if families.ip6 {
            port.v6 = None;
        }
        if port.v4.is_none() && port.v6.is_none() {
            *place = None;
        }
    }
}

fn port_error(port: u16, error: &io::Error) -> PortError {
    match error.kind() {
        io::ErrorKind::AddrInUse => PortError::InUse,
        _ => {
            tracing::debug!(port, %error, "no socket for an allocation");
            PortError::Unavailable
        }
    }
}
