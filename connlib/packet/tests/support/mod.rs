//! Random packets, and two judges that don't use the crate's own code: word-for-word RFC 1071, and `etherparse`.
#![allow(dead_code, unused_imports, reason = "each test uses some of it")]

#[path = "../../src/random.rs"]
mod random;

pub(crate) use self::judge::{assert_intact, checksum_of, judge, transport_checksum};
pub(crate) use self::random::Random;

mod judge;

use connlib_packet::{EchoKind, TcpFlags, build};
use std::net::{IpAddr, SocketAddr};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Tcp,
    Udp,
    Echo,
}

pub(crate) const KINDS: [Kind; 3] = [Kind::Tcp, Kind::Udp, Kind::Echo];

pub(crate) fn address(random: &mut Random, is_ipv6: bool) -> IpAddr {
    match is_ipv6 {
        false => IpAddr::from(random.array::<4>()),
        true => IpAddr::from(random.array::<16>()),
    }
}

pub(crate) fn packet(random: &mut Random, kind: Kind, is_ipv6: bool, payload: usize) -> Vec<u8> {
    let payload = random.bytes(payload);
    let (source, destination) = (address(random, is_ipv6), address(random, is_ipv6));
    let mut out = vec![0; payload.len() + 200];
    let sockets = (
        SocketAddr::new(source, random.next() as u16),
        SocketAddr::new(destination, random.next() as u16),
    );
    let len = match kind {
        Kind::Tcp => {
            let options = random.below(11) as usize * 4;
            let header = build::Tcp {
                sequence: random.next() as u32,
                acknowledgement: random.next() as u32,
                flags: TcpFlags(random.next() as u8),
                window: random.next() as u16,
                options: &random.bytes(options),
            };
            build::tcp(&mut out, sockets.0, sockets.1, header, &payload)
        }
        Kind::Udp => build::udp(&mut out, sockets.0, sockets.1, &payload),
        Kind::Echo => {
            let kind = if random.below(2) == 0 { EchoKind::Request } else { EchoKind::Reply };
            let (identifier, sequence) = (random.next() as u16, random.next() as u16);
            build::echo(&mut out, source, destination, kind, identifier, sequence, &payload)
        }
    }
    .unwrap();
    out.truncate(len);
    out
}
