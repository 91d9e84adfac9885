//! Applications on a client: each has a flow of packets and waits for the answers.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use connlib_packet::{EchoKind, Headers, TcpFlags, Transport, build};
use connlib_tunnel::Service;

use crate::model::ProbeId;
use crate::names::{self, Family};

/// Precedes the number of a probe in payloads.
const MAGIC: [u8; 4] = *b"prob";

/// Packets of one TCP connection: SYN, data, FIN.
const CONNECTION: u32 = 5;

/// What an application sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum What {
    /// UDP to this port, from one port of its own.
    Udp(u16),
    /// Pings.
    Ping,
    /// Short TCP connections to this port.
    Tcp(u16),
}

/// Whom an application talks to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum To {
    /// A host.
    Address(IpAddr),
    /// A name, which it looks up now and then.
    Name(String, Family),
}

/// An application.
#[derive(Debug, Clone)]
pub struct FlowSpec {
    /// The number of its client.
    pub client: usize,
    /// What it sends.
    pub what: What,
    /// To whom.
    pub to: To,
    /// How often.
    pub period: Duration,
    /// Bytes of payload; at least 8.
    pub size: usize,
}

impl FlowSpec {
    /// To an address, ten times a second.
    pub fn to_address(client: usize, what: What, address: &str) -> Self {
        Self::new(client, what, To::Address(address.parse().expect("an address")))
    }

    /// To a name, ten times a second.
    pub fn to_name(client: usize, what: What, name: &str, family: Family) -> Self {
        Self::new(client, what, To::Name(name.to_owned(), family))
    }

    /// At another pace.
    pub fn every(mut self, period: Duration) -> Self {
        self.period = period;
        self
    }

    /// With so many bytes of payload.
    pub fn of_size(mut self, size: usize) -> Self {
        self.size = size;
        self
    }

    fn new(client: usize, what: What, to: To) -> Self {
        Self { client, what, to, period: Duration::from_millis(100), size: 32 }
    }
}

/// The number of a flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FlowId(pub usize);

#[derive(Debug)]
pub(crate) struct Flow {
    pub(crate) id: FlowId,
    pub(crate) spec: FlowSpec,
    pub(crate) is_running: bool,
    /// When it began to send something, after a pause.
    pub(crate) resumed_at: Instant,
    /// The address it uses at present.
    address: Option<IpAddr>,
    looked_up_at: Option<Instant>,
    pub(crate) asked: Option<Asked>,
    port: u16,
    /// Packets of the present TCP connection, and the last one that is unanswered.
    connection: u32,
    unanswered: Option<(ProbeId, Instant)>,
}

/// A query that is not answered yet.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Asked {
    pub(crate) id: u16,
    pub(crate) at: Instant,
}

/// What an application does next.
#[derive(Debug)]
pub(crate) enum Step {
    /// It sends a probe.
    Send { to: IpAddr, port: u16, service: Service, flags: TcpFlags },
    /// It looks its name up.
    Ask { message: Vec<u8>, port: u16 },
    /// It waits.
    Wait,
}

impl Flow {
    pub(crate) fn new(id: FlowId, spec: FlowSpec, now: Instant) -> Self {
        let address = match &spec.to {
            To::Address(address) => Some(*address),
            To::Name(..) => None,
        };
        Self {
            id,
            spec,
            is_running: true,
            resumed_at: now,
            address,
            looked_up_at: None,
            asked: None,
            port: 0,
            connection: 0,
            unanswered: None,
        }
    }

    pub(crate) fn name(&self) -> Option<&str> {
        match &self.spec.to {
            To::Name(name, _) => Some(name),
            To::Address(_) => None,
        }
    }

    /// The device has restarted: what was looked up is void.
    pub(crate) fn restart(&mut self) {
        if self.name().is_some() {
            (self.address, self.asked) = (None, None);
        }
        self.connection = 0;
    }

    /// What comes next. `serial`: a number that is never given twice.
    pub(crate) fn step(&mut self, serial: u32, now: Instant) -> Step {
        let is_stale = self.looked_up_at.is_none_or(|at| now >= at + Duration::from_secs(45));
        let begins = self.spec.what.is_connection() && self.connection == 0;
        if let To::Name(name, family) = &self.spec.to
            && (self.address.is_none() || begins || is_stale)
            && self.looked_up_at != Some(now)
        {
            let id = serial as u16;
            self.asked = Some(Asked { id, at: now });
            let message = names::query(id, name, *family);
            return Step::Ask { message, port: 30_000 + self.id.0 as u16 };
        }
        let Some(to) = self.address else { return Step::Wait };
        let (service, flags) = match self.spec.what {
            What::Udp(port) => {
                self.port = 10_000 + self.id.0 as u16;
                (Service::Udp(port), TcpFlags::default())
            }
            What::Ping => {
                self.port = 10_000 + self.id.0 as u16;
                (Service::Icmp, TcpFlags::default())
            }
            What::Tcp(port) => {
                if let Some((_, sent_at)) = self.unanswered {
                    if now < sent_at + Duration::from_secs(3) {
                        return Step::Wait;
                    }
                    // It gives up and tries a new connection.
                    self.connection = 0;
                }
                if self.connection == 0 {
                    self.port = 20_000 + (serial % 10_000) as u16;
                }
                self.connection += 1;
                let flags = match self.connection {
                    1 => TcpFlags::SYN,
                    CONNECTION => TcpFlags::FIN | TcpFlags::ACK,
                    _ => TcpFlags::PSH | TcpFlags::ACK,
                };
                self.connection %= CONNECTION;
                self.unanswered = Some((ProbeId(serial), now));
                (Service::Tcp(port), flags)
            }
        };
        Step::Send { to, port: self.port, service, flags }
    }

    /// The host that it talks to by UDP, and our own port.
    pub(crate) fn peer(&self) -> Option<(SocketAddr, u16, Service)> {
        let (What::Udp(port), To::Address(address)) = (self.spec.what, &self.spec.to) else {
            return None;
        };
        Some((SocketAddr::new(*address, port), self.port, Service::Udp(port)))
    }

    pub(crate) fn handle_answer(&mut self, answer: &names::Answer, now: Instant) -> bool {
        if self.asked.is_none_or(|asked| asked.id != answer.id) {
            return false;
        }
        self.asked = None;
        self.looked_up_at = Some(now);
        // Always the same of those that are there, so that flows are flows.
        self.address = answer.addresses.get(self.id.0 % answer.addresses.len().max(1)).copied();
        true
    }

    /// The probe has an answer, or an error.
    pub(crate) fn settle(&mut self, probe: ProbeId) {
        if self.unanswered.is_some_and(|(unanswered, _)| unanswered == probe) {
            self.unanswered = None;
        }
    }

    pub(crate) fn fail(&mut self, probe: ProbeId) {
        self.settle(probe);
        self.connection = 0;
    }
}

impl What {
    fn is_connection(self) -> bool {
        matches!(self, Self::Tcp(_))
    }
}

/// A probe as a packet.
pub(crate) fn packet(
    probe: ProbeId,
    source: SocketAddr,
    to: IpAddr,
    service: Service,
    flags: TcpFlags,
    size: usize,
) -> Vec<u8> {
    let mut payload = [&MAGIC[..], &probe.0.to_be_bytes()].concat();
    payload.resize(size.max(8), 0xaa);
    let mut out = vec![0; 1280];
    let len = match service {
        Service::Udp(port) => build::udp(&mut out, source, SocketAddr::new(to, port), &payload),
        Service::Tcp(port) => {
            let (sequence, acknowledgement) = (probe.0, 1);
            let header =
                build::Tcp { sequence, acknowledgement, flags, window: 1000, options: &[] };
            let payload = if flags.contains(TcpFlags::PSH) { &payload[..] } else { &[] };
            build::tcp(&mut out, source, SocketAddr::new(to, port), header, payload)
        }
        Service::Icmp | Service::Other => {
            let (ip, identifier) = (source.ip(), source.port());
            build::echo(&mut out, ip, to, EchoKind::Request, identifier, probe.0 as u16, &payload)
        }
    };
    out.truncate(len.expect("room for it"));
    out
}

/// A probe that a host sends.
pub(crate) fn push(probe: ProbeId, host: SocketAddr, own: SocketAddr) -> Vec<u8> {
    let payload = [&MAGIC[..], &probe.0.to_be_bytes()].concat();
    let mut out = vec![0; 64];
    let len = build::udp(&mut out, host, own, &payload).expect("room for it");
    out.truncate(len);
    out
}

/// The probe that a packet is, or is the answer to. `number`: the bytes of TCP that say so.
pub(crate) fn probe_of(packet: &[u8], headers: &Headers) -> Option<ProbeId> {
    match headers.transport() {
        Transport::Tcp { .. } => {
            // Requests have it in their sequence number; answers, whose own is 1, in the acknowledgement.
            let at = headers.transport_offset() + 4;
            let sequence = u32::from_be_bytes(packet.get(at..at + 4)?.try_into().ok()?);
            let at = at + 4;
            let acknowledgement = u32::from_be_bytes(packet.get(at..at + 4)?.try_into().ok()?);
            Some(ProbeId(if sequence == 1 { acknowledgement } else { sequence }))
        }
        _ => probe_in(packet.get(headers.payload_offset()..)?),
    }
}

/// The probe that an error quotes.
pub(crate) fn probe_quoted(packet: &[u8], headers: &Headers) -> Option<ProbeId> {
    let quote = packet.get(headers.payload_offset()..)?;
    let (ip_header, protocol) = match quote.first()? >> 4 {
        4 => (20, *quote.get(9)?),
        _ => (40, *quote.get(6)?),
    };
    let transport = quote.get(ip_header..)?;
    match protocol {
        6 => Some(ProbeId(u32::from_be_bytes(transport.get(4..8)?.try_into().ok()?))),
        _ => probe_in(transport.get(8..)?),
    }
}

fn probe_in(payload: &[u8]) -> Option<ProbeId> {
    let (magic, rest) = payload.split_first_chunk::<4>()?;
    let number = u32::from_be_bytes(*rest.first_chunk()?);
    (*magic == MAGIC).then_some(ProbeId(number))
}

/// Whether the rest of the payload is as it was sent.
pub(crate) fn is_whole(packet: &[u8], headers: &Headers) -> bool {
    packet.get(headers.payload_offset() + 8..).is_none_or(|rest| rest.iter().all(|b| *b == 0xaa))
}
