//! Server-reflexive addresses by STUN Binding (RFC 8489 §3, RFC 8445 §5.1.1.2).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::{Duration, Instant};

use rand::Rng;

use crate::output::{Path, Transmit};

const MAGIC_COOKIE: u32 = 0x2112_a442;
const BINDING_REQUEST: u16 = 0x0001;
const BINDING_SUCCESS: u16 = 0x0101;
const MAPPED_ADDRESS: u16 = 0x0001;
const XOR_MAPPED_ADDRESS: u16 = 0x0020;
const HEADER: usize = 20;

/// Keeps the NAT's mapping alive; routers forget after 30 s at the earliest (RFC 4787 REQ-5 demands 2 minutes).
const REFRESH: Duration = Duration::from_secs(25);
/// A refresh is done when something else wakes us, from so long before it is due until so long after it: hardly ever
/// is there a need to wake for it alone.
const EARLY: Duration = Duration::from_secs(20);
const LATE: Duration = Duration::from_secs(4);
const FIRST_RETRY: Duration = Duration::from_millis(500);
/// A server that does not answer is asked again so often, for as long as it is configured.
const MAX_RETRY: Duration = Duration::from_secs(60);
/// A server that is asked so rarely has not answered some times.
const SILENT: Duration = Duration::from_secs(8);

/// Servers beyond this many are ignored.
const MAX_SERVERS: usize = 16;

/// Whether a datagram is a STUN message rather than WireGuard's: both begin with a small number, only STUN has the
/// magic cookie.
pub(crate) fn is_stun(datagram: &[u8]) -> bool {
    datagram.len() >= HEADER && datagram[0] < 4 && datagram[4..8] == MAGIC_COOKIE.to_be_bytes()
}

/// The transaction id of a datagram for which [`is_stun`] holds.
pub(crate) fn transaction_id(datagram: &[u8]) -> Option<[u8; 12]> {
    datagram.get(8..HEADER)?.try_into().ok()
}

/// Whether a datagram for which [`is_stun`] holds is a request (class bits 00, RFC 8489 §5).
pub(crate) fn is_request(datagram: &[u8]) -> bool {
    datagram.len() >= 2 && datagram[0] & 1 == 0 && datagram[1] & 0x10 == 0
}

/// A mapping that a server told us: `mapped` is how the world sees `local`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Mapping {
    pub(crate) local: SocketAddr,
    pub(crate) mapped: SocketAddr,
}

/// Asks servers for our address as they see it, and keeps asking.
#[derive(Debug, Default)]
pub(crate) struct StunServers {
    servers: Vec<Server>,
    families: Families,
}

/// The address families that this machine has.
#[derive(Debug, Clone, Copy)]
struct Families {
    ipv4: bool,
    ipv6: bool,
}

impl Default for Families {
    fn default() -> Self {
        Self { ipv4: true, ipv6: true }
    }
}

#[derive(Debug)]
struct Server {
    address: SocketAddr,
    transaction: [u8; 12],
    ask_at: Instant,
    backoff: Duration,
    mapping: Option<Mapping>,
}

impl StunServers {
    /// Replaces the list. Servers that stay keep their state.
    pub(crate) fn set(&mut self, addresses: &[SocketAddr], now: Instant) {
        self.servers.retain(|server| addresses.contains(&server.address));
        for address in addresses {
            if self.servers.len() >= MAX_SERVERS {
                tracing::debug!(max = MAX_SERVERS, "more STUN servers than we ask");
                break;
            }
            if !self.servers.iter().any(|server| server.address == *address) {
                self.servers.push(Server {
                    address: *address,
                    transaction: [0; 12],
                    ask_at: now,
                    backoff: FIRST_RETRY,
                    mapping: None,
                });
            }
        }
    }

    /// Asks all servers anew, as this machine has other addresses. Those of a family that it hasn't are left alone.
    pub(crate) fn restart(&mut self, hosts: &[SocketAddr], now: Instant) {
        let has = |is_ipv4| hosts.is_empty() || hosts.iter().any(|host| host.is_ipv4() == is_ipv4);
        self.families = Families { ipv4: has(true), ipv6: has(false) };
        for server in &mut self.servers {
            (server.ask_at, server.backoff, server.mapping) = (now, FIRST_RETRY, None);
        }
    }

    /// Asks servers at once that did not answer of late: somebody is about to be told our addresses.
    pub(crate) fn hurry(&mut self, now: Instant) {
        for server in self.servers.iter_mut().filter(|server| !server.is_refresh()) {
            (server.ask_at, server.backoff) = (now, FIRST_RETRY);
        }
    }

    /// The mappings known at present: at most one a family, as more would say the same. What a server said that is
    /// silent now may be out of date, and counts only if no other says anything.
    pub(crate) fn mappings(&self) -> impl Iterator<Item = Mapping> {
        let of_family = |v4: bool| {
            let known = self.servers.iter().filter_map(|server| Some((server, server.mapping?)));
            let of_family = known.filter(|(_, mapping)| mapping.mapped.is_ipv4() == v4);
            let best = of_family.min_by_key(|(server, _)| server.backoff >= SILENT);
            best.map(|(_, mapping)| mapping)
        };
        [of_family(true), of_family(false)].into_iter().flatten()
    }

    /// Takes a response. `None`: it answers none of our requests.
    pub(crate) fn handle_response(
        &mut self,
        local: SocketAddr,
        from: SocketAddr,
        datagram: &[u8],
        now: Instant,
    ) -> Option<Mapping> {
        let transaction = transaction_id(datagram)?;
        let server = self
            .servers
            .iter_mut()
            .find(|server| server.address == from && server.transaction == transaction)?;
        let mapping = Mapping { local, mapped: parse_binding_success(datagram)? };
        server.mapping = Some(mapping);
        server.ask_at = now + REFRESH;
        server.backoff = FIRST_RETRY;
        Some(mapping)
    }

    pub(crate) fn next_timeout(&self) -> Option<Instant> {
        let reachable = self.servers.iter().filter(|server| self.families.has(server.address));
        reachable.map(Server::deadline).min()
    }

    pub(crate) fn handle_timeout(
        &mut self,
        now: Instant,
        rng: &mut impl Rng,
        mut transmit: impl FnMut(Transmit),
    ) {
        let families = self.families;
        let due = |server: &&mut Server| families.has(server.address) && server.is_due(now);
        for server in self.servers.iter_mut().filter(due) {
            rng.fill_bytes(&mut server.transaction);
            server.ask_at = now + server.backoff;
            server.backoff = (server.backoff * 2).min(MAX_RETRY);
            transmit(Transmit {
                path: Path { local: None, remote: server.address },
                payload: binding_request(server.transaction),
            });
        }
    }
}

impl Families {
    fn has(self, address: SocketAddr) -> bool {
        if address.is_ipv4() { self.ipv4 } else { self.ipv6 }
    }
}

impl Server {
    fn is_due(&self, now: Instant) -> bool {
        self.ask_at <= if self.is_refresh() { now + EARLY } else { now }
    }

    /// When it is asked if nothing else wakes us.
    fn deadline(&self) -> Instant {
        if self.is_refresh() { self.ask_at + LATE } else { self.ask_at }
    }

    /// While it does not answer, it is asked at its own pace.
    fn is_refresh(&self) -> bool {
        self.mapping.is_some() && self.backoff == FIRST_RETRY
    }
}

fn binding_request(transaction: [u8; 12]) -> Vec<u8> {
    let mut message = Vec::with_capacity(HEADER);
    message.extend(BINDING_REQUEST.to_be_bytes());
    message.extend(0u16.to_be_bytes());
    message.extend(MAGIC_COOKIE.to_be_bytes());
    message.extend(transaction);
    message
}

/// The address in a Binding success response (RFC 8489 §14.1, §14.2).
fn parse_binding_success(message: &[u8]) -> Option<SocketAddr> {
    let (header, mut rest) = message.split_at_checked(HEADER)?;
    if u16::from_be_bytes([header[0], header[1]]) != BINDING_SUCCESS {
        return None;
    }
    let mut fallback = None;
    while let Some((head, tail)) = rest.split_at_checked(4) {
        let kind = u16::from_be_bytes([head[0], head[1]]);
        let len = usize::from(u16::from_be_bytes([head[2], head[3]]));
        let value = tail.get(..len)?;
        match kind {
            XOR_MAPPED_ADDRESS => {
                return parse_address(value, header.get(4..HEADER)?.try_into().ok()?);
            }
            MAPPED_ADDRESS => fallback = parse_address(value, [0; 16]),
            _ => {}
        }
        rest = tail.get(len.next_multiple_of(4)..).unwrap_or_default();
    }
    fallback
}

/// An address attribute, with the bytes that it is obfuscated by: cookie and transaction id, or zeros.
fn parse_address(value: &[u8], xor: [u8; 16]) -> Option<SocketAddr> {
    let (head, ip) = value.split_at_checked(4)?;
    let port = u16::from_be_bytes([head[2] ^ xor[0], head[3] ^ xor[1]]);
    let ip: IpAddr = match (head[1], ip.len()) {
        (1, 4) => Ipv4Addr::from(std::array::from_fn::<u8, 4, _>(|i| ip[i] ^ xor[i])).into(),
        (2, 16) => Ipv6Addr::from(std::array::from_fn::<u8, 16, _>(|i| ip[i] ^ xor[i])).into(),
        _ => return None,
    };
    Some(SocketAddr::new(ip, port))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;
    use rand_chacha::ChaCha8Rng;

    // RFC 5769 §2.2 and §2.3: sample responses, cut after the mapped address.
    const SAMPLE_V4: &[u8] =
        b"\x01\x01\x00\x0c\x21\x12\xa4\x42\xb7\xe7\xa7\x01\xbc\x34\xd6\x86\xfa\x87\xdf\xae\
        \x00\x20\x00\x08\x00\x01\xa1\x47\xe1\x12\xa6\x43";
    const SAMPLE_V6: &[u8] = b"\x01\x01\x00\x18\x21\x12\xa4\x42\xb7\xe7\xa7\x01\xbc\x34\xd6\x86\xfa\x87\xdf\xae\
        \x00\x20\x00\x14\x00\x02\xa1\x47\x01\x13\xa9\xfa\xa5\xd3\xf1\x79\xbc\x25\xf4\xb5\xbe\xd2\xb9\xd9";

    #[test]
    fn mapped_addresses_of_the_rfc_are_understood() {
        assert_eq!(parse_binding_success(SAMPLE_V4), Some("192.0.2.1:32853".parse().unwrap()));
        assert_eq!(
            parse_binding_success(SAMPLE_V6),
            Some("[2001:db8:1234:5678:11:2233:4455:6677]:32853".parse().unwrap())
        );
    }

    #[test]
    fn truncated_responses_are_no_addresses() {
        for len in 0..SAMPLE_V6.len() {
            assert_eq!(parse_binding_success(&SAMPLE_V6[..len]), None);
        }
    }

    #[test]
    fn only_the_server_that_was_asked_may_answer() {
        let now = Instant::now();
        let (server, stranger) = (addr("198.51.100.1:3478"), addr("198.51.100.2:3478"));
        let mut servers = StunServers::default();
        servers.set(&[server], now);
        let mut sent = Vec::new();
        servers.handle_timeout(now, &mut ChaCha8Rng::seed_from_u64(1), |t| sent.push(t));
        assert!(is_stun(&sent[0].payload) && is_request(&sent[0].payload));

        let mut response = SAMPLE_V4.to_vec();
        response[8..20].copy_from_slice(&sent[0].payload[8..20]);
        let local = addr("10.0.0.1:52625");
        assert_eq!(servers.handle_response(local, stranger, &response, now), None);
        assert!(servers.handle_response(local, server, &response, now).is_some());
        assert_eq!(servers.mappings().count(), 1);
        assert_eq!(servers.next_timeout(), Some(now + REFRESH + LATE));
    }

    #[test]
    fn a_server_that_has_fallen_silent_does_not_hide_what_another_says() {
        let start = Instant::now();
        let (silent, alive) = (addr("198.51.100.1:3478"), addr("198.51.100.2:3478"));
        let mut servers = StunServers::default();
        servers.set(&[silent, alive], start);
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        let mut ask = |servers: &mut StunServers, now, answering: &[SocketAddr], port: u8| {
            let mut sent = Vec::new();
            servers.handle_timeout(now, &mut rng, |t| sent.push(t));
            for request in sent.iter().filter(|t| answering.contains(&t.path.remote)) {
                let mut response = SAMPLE_V4.to_vec();
                response[8..20].copy_from_slice(&request.payload[8..20]);
                response[27] = port;
                let from = request.path.remote;
                servers.handle_response(addr("10.0.0.1:52625"), from, &response, now).unwrap();
            }
            servers.mappings().map(|m| m.mapped.port() as u8).collect::<Vec<_>>()
        };
        let before = ask(&mut servers, start, &[silent, alive], 1);
        let mut after = Vec::new();
        for seconds in 1..120 {
            after = ask(&mut servers, start + Duration::from_secs(seconds), &[alive], 2);
        }
        assert_ne!(before, after);
    }

    #[test]
    fn a_silent_server_is_asked_again_with_growing_patience() {
        let mut now = Instant::now();
        let mut servers = StunServers::default();
        servers.set(&[addr("198.51.100.1:3478")], now);
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        let mut sent = 0;
        let end = now + Duration::from_secs(600);
        while now < end {
            servers.handle_timeout(now, &mut rng, |_| sent += 1);
            now = servers.next_timeout().unwrap();
        }
        assert!((10..20).contains(&sent), "{sent}");
    }

    #[test]
    fn a_family_that_is_not_there_is_left_alone() {
        let now = Instant::now();
        let mut servers = StunServers::default();
        servers.set(&[addr("198.51.100.1:3478"), addr("[2001:db8::1]:3478")], now);
        let mut asked = |hosts: &[SocketAddr]| {
            let mut asked = Vec::new();
            servers.restart(hosts, now);
            servers.handle_timeout(now, &mut ChaCha8Rng::seed_from_u64(1), |t| {
                asked.push(t.path.remote.is_ipv4());
            });
            asked
        };
        let (v4, v6) = (addr("192.0.2.1:1"), addr("[2001:db8::2]:1"));
        assert_eq!(asked(&[v4]), [true]);
        assert_eq!(asked(&[v6]), [false]);
        assert_eq!(asked(&[v4, v6]), [true, false]);
    }

    fn addr(s: &str) -> SocketAddr {
        s.parse().unwrap()
    }
}
