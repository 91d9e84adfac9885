//! One flow that is translated: how it is known at either end, and when it ends.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use connlib_packet::{EchoKind, Headers, Quoted, TcpFlags, Transport};

/// RFC 5382 §5, REQ-5.
const TCP_TIMEOUT: Duration = Duration::from_secs(2 * 60 * 60 + 4 * 60);
/// RFC 4787 §4.3, REQ-5.
const UDP_TIMEOUT: Duration = Duration::from_secs(2 * 60);
/// RFC 5508 §3.2, REQ-2.
const ICMP_TIMEOUT: Duration = Duration::from_secs(2 * 60);
/// Nobody has answered yet.
const UNCONFIRMED_TIMEOUT: Duration = Duration::from_secs(60);
/// Both ends have finished: what is still under way is the last acknowledgements.
const FINISHED_TIMEOUT: Duration = Duration::from_secs(5);
/// One end has reset the connection.
const RESET_TIMEOUT: Duration = Duration::from_secs(1);

/// The protocols that are translated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Protocol {
    Tcp,
    Udp,
    Icmp,
}

/// What a flow is known by, seen from the client: its own port or echo identifier, and the other end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Tuple {
    pub(super) protocol: Protocol,
    pub(super) port: u16,
    pub(super) remote: IpAddr,
    /// 0 for ICMP.
    pub(super) remote_port: u16,
}

/// Which way a packet travels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Direction {
    /// From the client.
    Outgoing,
    /// To the client.
    Incoming,
}

#[derive(Debug)]
pub(super) struct Session {
    /// With the proxy address: what the client knows.
    pub(super) inside: Tuple,
    /// With the real address, and perhaps another port: what the resource knows.
    pub(super) outside: Tuple,
    pub(super) serial: u32,
    last_packet: Instant,
    confirmed: bool,
    finished_outgoing: bool,
    finished_incoming: bool,
    reset: bool,
}

impl Tuple {
    /// Of a packet from the client. `None` for what isn't translated: other protocols, and answers to pings that
    /// nobody can have sent.
    pub(super) fn of_outgoing(headers: &Headers) -> Option<Self> {
        Self::new(headers.transport(), EchoKind::Request, headers.destination())
    }

    /// Of a packet to the client.
    pub(super) fn of_incoming(headers: &Headers) -> Option<Self> {
        let transport = match headers.transport() {
            Transport::Tcp { source, destination } => {
                Transport::Tcp { source: destination, destination: source }
            }
            Transport::Udp { source, destination } => {
                Transport::Udp { source: destination, destination: source }
            }
            other => other,
        };
        Self::new(transport, EchoKind::Reply, headers.source())
    }

    /// Of a packet from the client that an error on its way back quotes.
    pub(super) fn of_quoted(quoted: &Quoted) -> Option<Self> {
        Self::new(quoted.transport(), EchoKind::Request, quoted.destination())
    }

    fn new(transport: Transport, echo: EchoKind, remote: IpAddr) -> Option<Self> {
        let (protocol, port, remote_port) = match transport {
            Transport::Tcp { source, destination } => (Protocol::Tcp, source, destination),
            Transport::Udp { source, destination } => (Protocol::Udp, source, destination),
            Transport::IcmpEcho { kind, identifier } if kind == echo => {
                (Protocol::Icmp, identifier, 0)
            }
            _ => return None,
        };
        Some(Self { protocol, port, remote, remote_port })
    }
}

impl Session {
    pub(super) fn new(inside: Tuple, outside: Tuple, serial: u32, now: Instant) -> Self {
        Self {
            inside,
            outside,
            serial,
            last_packet: now,
            confirmed: false,
            finished_outgoing: false,
            finished_incoming: false,
            reset: false,
        }
    }

    /// A packet passes.
    #[inline]
    pub(super) fn pass(&mut self, direction: Direction, flags: Option<TcpFlags>, now: Instant) {
        self.last_packet = now;
        self.confirmed |= direction == Direction::Incoming;
        let Some(flags) = flags else { return };
        self.reset |= flags.contains(TcpFlags::RST);
        if flags.contains(TcpFlags::FIN) {
            match direction {
                Direction::Outgoing => self.finished_outgoing = true,
                Direction::Incoming => self.finished_incoming = true,
            }
        }
    }

    /// Whether this packet of the client's opens a new connection in the place of one that has ended.
    #[inline]
    pub(super) fn is_succeeded_by(&self, flags: Option<TcpFlags>) -> bool {
        (self.is_finished() || self.reset)
            && flags.is_some_and(|flags| {
                flags.contains(TcpFlags::SYN) && !flags.contains(TcpFlags::ACK)
            })
    }

    /// When it ends unless another packet comes.
    #[inline]
    pub(super) fn ends_at(&self) -> Instant {
        let timeout = match self.outside.protocol {
            _ if self.reset => RESET_TIMEOUT,
            _ if self.is_finished() => FINISHED_TIMEOUT,
            _ if !self.confirmed => UNCONFIRMED_TIMEOUT,
            Protocol::Tcp => TCP_TIMEOUT,
            Protocol::Udp => UDP_TIMEOUT,
            Protocol::Icmp => ICMP_TIMEOUT,
        };
        self.last_packet + timeout
    }

    #[inline]
    pub(super) fn has_ended(&self, now: Instant) -> bool {
        self.ends_at() <= now
    }

    fn is_finished(&self) -> bool {
        self.finished_outgoing && self.finished_incoming
    }
}
