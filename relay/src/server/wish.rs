//! What requests ask for. Where they can't be understood, the error is the code to answer with.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use connlib_stun::{Attribute, FAMILY_IP4, FAMILY_IP6, Message};

use super::allocation::CHANNEL_NUMBERS;
use super::output::Families;
use super::peers::PeerPolicy;

const DEFAULT_LIFETIME: Duration = Duration::from_secs(600);
const MAX_LIFETIME: Duration = Duration::from_secs(3600);
const UDP: u8 = 17;

/// Peers that one CreatePermission request may name.
const MAX_PEERS: usize = 64;

/// The allocation that a client would like to have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Wish {
    pub(crate) families: Families,
    /// What it wanted, too, but the relay hasn't.
    pub(crate) missing: Families,
    pub(crate) lifetime: Duration,
    pub(crate) must_be_even: bool,
}

impl Wish {
    /// Reads an Allocate request (RFC 8656 §7.2).
    pub(crate) fn parse(request: &Message<'_>, available: Families) -> Result<Self, u16> {
        let transport = request.first(Attribute::REQUESTED_TRANSPORT).ok_or(400_u16)?;
        match transport {
            [UDP, _, _, _] => {}
            [_, _, _, _] => return Err(442),
            _ => return Err(400),
        }
        let requested = family(request, Attribute::REQUESTED_ADDRESS_FAMILY)?;
        let additional = family(request, Attribute::ADDITIONAL_ADDRESS_FAMILY)?;
        let even_port = request.first(Attribute::EVEN_PORT);
        if request.first(Attribute::RESERVATION_TOKEN).is_some() {
            let is_exclusive = requested.is_none() && additional.is_none() && even_port.is_none();
            // No port is ever reserved, so that no token is valid.
            return Err(if is_exclusive { 508 } else { 400 });
        }
        let reserves_next = match even_port {
            None => false,
            Some(&[flags]) => flags & 0x80 != 0,
            Some(_) => return Err(400),
        };
        let wanted = match (requested, additional) {
            (Some(_), Some(_)) => return Err(400),
            (_, Some(family)) if family.ip4 || reserves_next => return Err(400),
            (_, Some(_)) => Families { ip4: true, ip6: true },
            (Some(family), None) => family,
            (None, None) => Families { ip4: true, ip6: false },
        };
        let lifetime =
            lifetime(request)?.unwrap_or(DEFAULT_LIFETIME).clamp(DEFAULT_LIFETIME, MAX_LIFETIME);
        let families = wanted.and(available);
        if families.is_empty() {
            return Err(440);
        }
        if reserves_next {
            return Err(508);
        }
        Ok(Self {
            families,
            missing: wanted.without(available),
            lifetime,
            must_be_even: even_port.is_some(),
        })
    }
}

/// What a Refresh request asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refresh {
    Extend(Duration),
    /// The allocation ends, or of two families these.
    End(Families),
}

impl Refresh {
    /// Reads a Refresh request for an allocation of these families (RFC 8656 §8.2).
    pub(crate) fn parse(request: &Message<'_>, has: Families) -> Result<Self, u16> {
        let families = family(request, Attribute::REQUESTED_ADDRESS_FAMILY)?.unwrap_or(has);
        if families.and(has) != families {
            return Err(443);
        }
        Ok(match lifetime(request)? {
            Some(Duration::ZERO) => Self::End(families),
            lifetime => Self::Extend(
                lifetime.unwrap_or(DEFAULT_LIFETIME).clamp(DEFAULT_LIFETIME, MAX_LIFETIME),
            ),
        })
    }
}

/// A channel that a client would like to have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Bind {
    pub(crate) number: u16,
    pub(crate) peer: SocketAddr,
}

impl Bind {
    /// Reads a ChannelBind request for an allocation of these families (RFC 8656 §12.2).
    pub(crate) fn parse(
        request: &Message<'_>,
        has: Families,
        policy: &PeerPolicy,
    ) -> Result<Self, u16> {
        let number = match request.first(Attribute::CHANNEL_NUMBER) {
            Some(&[a, b, _, _]) => u16::from_be_bytes([a, b]),
            _ => return Err(400),
        };
        let peer =
            request.xor_addresses(Attribute::XOR_PEER_ADDRESS).next().flatten().ok_or(400_u16)?;
        if !CHANNEL_NUMBERS.contains(&number) {
            return Err(400);
        }
        if !has.has(peer) {
            return Err(443);
        }
        if !policy.allows(peer.ip()) || !policy.allows_port(peer) {
            return Err(403);
        }
        Ok(Self { number, peer })
    }
}

/// Reads a CreatePermission request for an allocation of these families (RFC 8656 §10.2).
pub(crate) fn permissions(
    request: &Message<'_>,
    has: Families,
    policy: &PeerPolicy,
) -> Result<Vec<IpAddr>, u16> {
    let mut ips = Vec::new();
    for peer in request.xor_addresses(Attribute::XOR_PEER_ADDRESS) {
        let peer = peer.ok_or(400_u16)?;
        if !has.has(peer) {
            return Err(443);
        }
        if !policy.allows(peer.ip()) {
            return Err(403);
        }
        if ips.len() == MAX_PEERS {
            return Err(508);
        }
        ips.push(peer.ip());
    }
    if ips.is_empty() { Err(400) } else { Ok(ips) }
}

fn lifetime(request: &Message<'_>) -> Result<Option<Duration>, u16> {
    let Some(value) = request.first(Attribute::LIFETIME) else { return Ok(None) };
    let seconds = u32::from_be_bytes(value.try_into().map_err(|_| 400_u16)?);
    Ok(Some(Duration::from_secs(seconds.into())))
}

/// An attribute that names an address family; one that nobody knows is unsupported.
fn family(request: &Message<'_>, kind: Attribute) -> Result<Option<Families>, u16> {
    match request.first(kind) {
        None => Ok(None),
        Some([FAMILY_IP4, _, _, _]) => Ok(Some(Families { ip4: true, ip6: false })),
        Some([FAMILY_IP6, _, _, _]) => Ok(Some(Families { ip4: false, ip6: true })),
        Some([_, _, _, _]) => Err(440),
        Some(_) => Err(400),
    }
}
