//! The hosts behind a gateway. All addresses have one, which answers whatever it gets.

use connlib_packet::{EchoKind, Headers, IcmpError, TcpFlags, Transport, Unreachable, build};

/// UDP to this port is answered by "port unreachable".
pub const CLOSED_PORT: u16 = 9;

/// UDP to this port is not answered.
pub const SILENT_PORT: u16 = 10;

/// What the host that a packet is for answers.
pub(crate) fn answer(packet: &[u8]) -> Option<Vec<u8>> {
    let headers = Headers::parse(packet).ok()?;
    let (from, to) = (headers.destination(), headers.source());
    let payload = packet.get(headers.payload_offset()..)?;
    let mut out = vec![0; 1280];
    let len = match headers.transport() {
        Transport::IcmpEcho { kind: EchoKind::Request, identifier } => {
            let sequence = sequence(packet, &headers);
            build::echo(&mut out, from, to, EchoKind::Reply, identifier, sequence, payload).ok()?
        }
        Transport::Udp { destination: CLOSED_PORT, .. } => {
            IcmpError::Unreachable(Unreachable::Port).answer(packet, &mut out)?
        }
        Transport::Udp { destination: SILENT_PORT, .. } => return None,
        Transport::Udp { .. } => {
            let (from, to) = (headers.destination_socket()?, headers.source_socket()?);
            build::udp(&mut out, from, to, payload).ok()?
        }
        Transport::Tcp { .. } => {
            let (from, to) = (headers.destination_socket()?, headers.source_socket()?);
            let sent = headers.tcp_flags()?;
            let flags = match () {
                () if sent.contains(TcpFlags::RST) => return None,
                () if sent.contains(TcpFlags::SYN) => TcpFlags::SYN | TcpFlags::ACK,
                () if sent.contains(TcpFlags::FIN) => TcpFlags::FIN | TcpFlags::ACK,
                () => TcpFlags::PSH | TcpFlags::ACK,
            };
            let acknowledgement = tcp_sequence(packet, &headers);
            let header =
                build::Tcp { sequence: 1, acknowledgement, flags, window: 1000, options: &[] };
            build::tcp(&mut out, from, to, header, payload).ok()?
        }
        _ => return None,
    };
    out.truncate(len);
    Some(out)
}

/// The sequence number of an echo message.
pub(crate) fn sequence(packet: &[u8], headers: &Headers) -> u16 {
    let at = headers.transport_offset() + 6;
    packet.get(at..at + 2).map_or(0, |bytes| u16::from_be_bytes([bytes[0], bytes[1]]))
}

/// The sequence number of a TCP segment.
fn tcp_sequence(packet: &[u8], headers: &Headers) -> u32 {
    let at = headers.transport_offset() + 4;
    let bytes = packet.get(at..at + 4).and_then(|bytes| bytes.try_into().ok());
    bytes.map_or(0, u32::from_be_bytes)
}
