//! The control protocol inside the tunnel: IPv6 packets from `::` to `::` with next header 255 and hop limit 0.
//!
//! The payload is eight bytes, the event's code and seven reserved ones, and the event's body. It is protected by the
//! tunnel like any other packet, and never written to a TUN device.

use crate::bytes::{put_u16, u16_at};
use crate::headers::IPV6_HEADER;
use crate::plan;
use serde::{Deserialize, Serialize};
use std::net::IpAddr;
use uuid::Uuid;

const NEXT_HEADER: u8 = 0xff;
const EVENT_HEADER: usize = 8;
const HEADER: usize = IPV6_HEADER + EVENT_HEADER;

/// What one end tells the other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// Client to gateway: these proxy addresses stand for a domain.
    AssignedIps(AssignedIps),
    /// Gateway to client: whether the proxy addresses of a domain work.
    DomainStatus(DomainStatus),
    /// The sender has dropped its end of the connection.
    Goodbye,
    /// An event of a later version of the protocol, to be ignored.
    Unknown {
        /// Its code.
        code: u8,
    },
}

/// Proxy addresses that a client has handed out for a domain.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AssignedIps {
    /// The DNS resource that the domain belongs to.
    pub resource: Uuid,
    /// The name that was asked for, without trailing dot.
    pub domain: String,
    /// Four addresses of one family, or four of each.
    pub proxy_ips: Vec<IpAddr>,
}

/// Whether a gateway translates the proxy addresses of a domain.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DomainStatus {
    /// The DNS resource that the domain belongs to.
    pub resource: Uuid,
    /// The domain of the [`AssignedIps`] that this answers.
    pub domain: String,
    /// The status.
    pub status: NatStatus,
}

/// Whether translation works.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum NatStatus {
    /// It does.
    Active,
    /// It doesn't; also every status of a later version of the protocol.
    #[serde(other)]
    Inactive,
}

/// Why the body of a known event can't be read.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    /// The JSON is not that of the event.
    #[error("malformed body of event {code}")]
    Body {
        /// The event's code.
        code: u8,
        /// What is wrong.
        source: serde_json::Error,
    },
}

/// Why an event can't be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum EncodeError {
    /// A domain has 4 or 8 proxy addresses.
    #[error("{count} proxy addresses instead of 4 or 8")]
    ProxyIps {
        /// How many there are.
        count: usize,
    },
    /// The packet would exceed the MTU.
    #[error("too long for a packet")]
    TooLong,
    /// An event that has no meaning can't be sent.
    #[error("unknown event {code}")]
    Unknown {
        /// Its code.
        code: u8,
    },
}

/// Codes of the events.
mod code {
    pub(super) const ASSIGNED_IPS: u8 = 0;
    pub(super) const DOMAIN_STATUS: u8 = 1;
    pub(super) const GOODBYE: u8 = 2;
}

/// The code and body of a control packet, or `None` if `packet` isn't one.
fn split(packet: &[u8]) -> Option<(u8, &[u8])> {
    let (header, body) = packet.split_at_checked(HEADER)?;
    let is_control = header[0] >> 4 == 6
        && header[6] == NEXT_HEADER
        && header[8..IPV6_HEADER].iter().all(|&byte| byte == 0)
        && usize::from(u16_at(header, 4)) == packet.len() - IPV6_HEADER;
    is_control.then_some((header[IPV6_HEADER], body))
}

/// Whether `packet` is a control packet.
pub fn is_control(packet: &[u8]) -> bool {
    split(packet).is_some()
}

impl Event {
    /// The event of a control packet; `None` if `packet` isn't one.
    pub fn decode(packet: &[u8]) -> Option<Result<Self, DecodeError>> {
        let (code, body) = split(packet)?;
        let event = match code {
            code::ASSIGNED_IPS => serde_json::from_slice(body).map(Self::AssignedIps),
            code::DOMAIN_STATUS => serde_json::from_slice(body).map(Self::DomainStatus),
            code::GOODBYE => Ok(Self::Goodbye),
            code => Ok(Self::Unknown { code }),
        };
        Some(event.map_err(|source| DecodeError::Body { code, source }))
    }

    /// The whole packet.
    pub fn encode(&self) -> Result<Vec<u8>, EncodeError> {
        let mut packet = vec![0; HEADER];
        let (code, written) = match self {
            Self::AssignedIps(assigned) => {
                let count = assigned.proxy_ips.len();
                if !matches!(count, 4 | 8) {
                    return Err(EncodeError::ProxyIps { count });
                }
                (code::ASSIGNED_IPS, serde_json::to_writer(&mut packet, assigned))
            }
            Self::DomainStatus(status) => {
                (code::DOMAIN_STATUS, serde_json::to_writer(&mut packet, status))
            }
            Self::Goodbye => (code::GOODBYE, Ok(())),
            &Self::Unknown { code } => return Err(EncodeError::Unknown { code }),
        };
        // Writing strings and addresses to memory doesn't fail.
        if written.is_err() || packet.len() > usize::from(plan::MTU) {
            return Err(EncodeError::TooLong);
        }
        let payload = (packet.len() - IPV6_HEADER) as u16;
        packet[0] = 0x60;
        put_u16(&mut packet, 4, payload);
        packet[6] = NEXT_HEADER;
        packet[IPV6_HEADER] = code;
        Ok(packet)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Random;

    fn assigned(count: u8) -> AssignedIps {
        AssignedIps {
            resource: Uuid::from_u128(0x0123_4567_89ab_cdef_0123_4567_89ab_cdef),
            domain: "app.example.com".into(),
            proxy_ips: (1..=count).map(|n| IpAddr::from([100, 96, 0, n])).collect(),
        }
    }

    #[test]
    fn goodbye_has_48_bytes() {
        let mut expected = vec![0x60, 0, 0, 0, 0, 8, 0xff, 0];
        expected.extend([0; 32]);
        expected.extend([2, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(Event::Goodbye.encode().unwrap(), expected);
        assert_eq!(Event::decode(&expected).unwrap().unwrap(), Event::Goodbye);
    }

    #[test]
    fn assigned_ips_are_json() {
        let event = Event::AssignedIps(assigned(4));
        let packet = event.encode().unwrap();
        assert_eq!(
            str::from_utf8(&packet[48..]).unwrap(),
            r#"{"resource":"01234567-89ab-cdef-0123-456789abcdef","domain":"app.example.com","proxy_ips":["100.96.0.1","100.96.0.2","100.96.0.3","100.96.0.4"]}"#
        );
        assert_eq!(packet[40..48], [0; 8]);
        assert_eq!(Event::decode(&packet).unwrap().unwrap(), event);
    }

    #[test]
    fn the_longest_name_fits() {
        let mut ips = assigned(8);
        ips.domain = "a".repeat(255);
        assert!(Event::AssignedIps(ips.clone()).encode().unwrap().len() < 500);
        ips.domain = "a".repeat(1280);
        assert_eq!(Event::AssignedIps(ips).encode(), Err(EncodeError::TooLong));
    }

    #[test]
    fn a_domain_has_four_or_eight_addresses() {
        for count in [0, 3, 5, 9] {
            let refused = Event::AssignedIps(assigned(count)).encode();
            assert_eq!(refused, Err(EncodeError::ProxyIps { count: count.into() }));
        }
    }

    #[test]
    fn status_of_a_later_version_is_inactive() {
        let mut event = DomainStatus {
            resource: Uuid::nil(),
            domain: "app.example.com".into(),
            status: NatStatus::Active,
        };
        let packet = Event::DomainStatus(event.clone()).encode().unwrap();
        assert!(packet.ends_with(br#""status":"Active"}"#));
        assert_eq!(Event::decode(&packet).unwrap().unwrap(), Event::DomainStatus(event.clone()));

        let at = packet.len() - 8;
        let mut later = packet;
        later[at..at + 6].copy_from_slice(b"Absent");
        event.status = NatStatus::Inactive;
        assert_eq!(Event::decode(&later).unwrap().unwrap(), Event::DomainStatus(event));
    }

    #[test]
    fn unknown_codes_are_values() {
        let mut packet = Event::Goodbye.encode().unwrap();
        packet[40] = 77;
        assert_eq!(Event::decode(&packet).unwrap().unwrap(), Event::Unknown { code: 77 });
        assert!(Event::Unknown { code: 77 }.encode().is_err());
    }

    #[test]
    fn recognises_only_control_packets() {
        let goodbye = Event::Goodbye.encode().unwrap();
        for at in [0, 5, 6, 8, 23, 24, 39] {
            let mut other = goodbye.clone();
            other[at] ^= 0xf0;
            assert!(!is_control(&other), "byte {at}");
        }
        for len in 0..goodbye.len() {
            assert!(!is_control(&goodbye[..len]));
        }
        // Reserved bytes and the hop limit are not read.
        let mut later = goodbye;
        later[7] = 64;
        later[41..].fill(1);
        assert!(is_control(&later));
    }

    #[test]
    fn any_body() {
        let mut random = Random::new(1);
        let template = Event::AssignedIps(assigned(8)).encode().unwrap();
        for _ in 0..20_000 {
            let mut packet = template.clone();
            for _ in 0..random.below(4) {
                let at = 40 + random.below(packet.len() as u64 - 40) as usize;
                packet[at] = random.next() as u8;
            }
            let _ = Event::decode(&packet);
        }
    }
}
