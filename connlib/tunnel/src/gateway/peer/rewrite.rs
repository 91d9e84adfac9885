//! What a session puts into packets.

use connlib_packet::{Quoted, RewriteError, Transport, TunPacket};

use super::super::nat::Rewrite;
use super::super::session::Tuple;

/// The client's packet goes to the real address.
#[inline]
pub(super) fn outgoing(packet: &mut TunPacket<'_>, rewrite: Rewrite) -> Result<(), RewriteError> {
    packet.set_destination(rewrite.remote)?;
    match packet.headers().transport() {
        Transport::IcmpEcho { identifier, .. } if identifier != rewrite.port => {
            packet.set_identifier(rewrite.port)
        }
        other if other.source_port().is_some_and(|port| port != rewrite.port) => {
            packet.set_source_port(rewrite.port)
        }
        _ => Ok(()),
    }
}

/// The answer comes from the proxy address.
#[inline]
pub(super) fn incoming(packet: &mut TunPacket<'_>, rewrite: Rewrite) -> Result<(), RewriteError> {
    packet.set_source(rewrite.remote)?;
    match packet.headers().transport() {
        Transport::IcmpEcho { identifier, .. } if identifier != rewrite.port => {
            packet.set_identifier(rewrite.port)
        }
        other if other.destination_port().is_some_and(|port| port != rewrite.port) => {
            packet.set_destination_port(rewrite.port)
        }
        _ => Ok(()),
    }
}

/// The quoted packet becomes the one that the client sent, and the error seems to come from where it went
/// (RFC 5508 REQ-4 leaves that open): a client takes packets only from addresses that it asked for.
pub(super) fn error(
    packet: &mut TunPacket<'_>,
    quoted: &Quoted,
    inside: Tuple,
) -> Result<(), RewriteError> {
    packet.set_quoted_destination(inside.remote)?;
    match quoted.transport() {
        Transport::IcmpEcho { .. } => packet.set_quoted_identifier(inside.port)?,
        _ => packet.set_quoted_source_port(inside.port)?,
    }
    packet.set_source(inside.remote)
}
