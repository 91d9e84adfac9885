//! The protocol, without sockets and clocks (RFC 8489, RFC 8656).
//!
//! ```
//! use std::time::Instant;
//! use connlib_relay::server::{Config, Credentials, FiveTuple, FromClient, Now, Output, Server, Transport};
//!
//! let credentials = Credentials { stamp_secrets: vec!["secret".to_owned()], ..Credentials::default() };
//! let mut config = Config::new(credentials, [7; 32]);
//! config.public_ip4 = Some([203, 0, 113, 1].into());
//! let now = Now { instant: Instant::now(), unix_seconds: 1_800_000_000 };
//! let mut server = Server::new(config, now.instant)?;
//!
//! // A datagram came to the listening socket:
//! let client = FiveTuple {
//!     transport: Transport::Udp,
//!     remote: ([192, 0, 2, 1], 50_000).into(),
//!     local: ([203, 0, 113, 1], 3478).into(),
//! };
//! let binding_request = *b"\0\x01\0\0\x21\x12\xa4\x42 transaction";
//! match server.handle_client(client, &binding_request, now) {
//!     FromClient::Forward(to_peer) => println!("{} bytes for {}", to_peer.payload.len(), to_peer.peer),
//!     FromClient::Handled | FromClient::Dropped => {}
//! }
//! loop {
//!     match server.poll_output() {
//!         Output::Send { client, bytes } => println!("{} bytes for {}", bytes.len(), client.remote),
//!         Output::Timeout(_at) => break, // until then, wait for datagrams
//!         _ => {}
//!     }
//! }
//! # Ok::<(), connlib_relay::server::ConfigError>(())
//! ```
//!
//! `turn-server-proto` 0.7 does the same for a few clients: it keeps them in a list that it goes through for each packet,
//! and has neither quotas nor usernames that end by themselves, as portals hand them out.

mod allocation;
mod allocations;
mod allocator;
mod auth;
mod budget;
mod config;
mod counters;
mod data;
mod key;
mod limits;
mod nonce;
mod open_ports;
mod output;
mod peers;
mod ports;
mod quota;
mod responder;
mod response;
mod strangers;
mod timers;
mod wish;

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use connlib_stun::{Attribute, ChannelData, Class, Kind, Message};
use rand::{Rng, RngExt, SeedableRng};
use rand_chacha::ChaCha20Rng;

pub use connlib_stun::{CHANNEL_HEADER, NotAMessage, message_len};

pub use config::{Config, ConfigError, Credentials, PerUser, User};
pub use counters::{Counters, Drop, Method, Traffic};
pub use limits::{Limits, Rate};
pub use open_ports::OpenPorts;
pub use output::{
    AllocationId, ChannelBinding, Families, FiveTuple, FromClient, Now, Output, PortError, Prefix,
    ToClient, ToPeer, Transport, UsernameMoved,
};
pub use quota::Quota;

use allocation::Allocation;
use allocations::Refusal;
use allocator::Allocator;
use auth::{Authenticator, Identity};
use peers::PeerPolicy;
use responder::{Responder, Trust};
use response::{Header, Response};
use wish::{Bind, Refresh, Wish};

/// The shortest request that an honest client sends, but for Binding: Allocate with nothing but
/// REQUESTED-TRANSPORT. Less is sent for the length of the challenge alone.
const MIN_REQUEST: usize = 28;

/// The relay of one worker thread. All datagrams of a 5-tuple have to reach the same one, as
/// `SO_REUSEPORT` does it.
///
/// After each batch of `handle_*`, outputs are to be drained until [`Output::Timeout`]. Neither
/// [`Server::handle_client`] for data nor [`Server::handle_peer`] allocates memory.
///
/// Never a peer, unless [`Config::allowed_peers`] has it: addresses that are unspecified, loopback,
/// link-local, multicast, broadcast or reserved, IPv6 addresses that lead to IPv4 (but for NAT64 to
/// public addresses), services of clouds for their machines, and further addresses of this machine.
/// On its public addresses, nobody reaches anything but the ports that are allocations' now.
pub struct Server {
    authenticator: Authenticator,
    allocator: Allocator,
    policy: PeerPolicy,
    responder: Responder,
    rng: ChaCha20Rng,
}

/// A request, and who sent it.
struct Request<'a> {
    message: Message<'a>,
    header: Header,
    client: FiveTuple,
}

/// What a request comes to: a response, nothing for now, or the code of an error.
type Answer = Result<Option<Response>, u16>;

impl Server {
    /// A relay without allocations.
    ///
    /// # Errors
    /// The settings can't be served.
    pub fn new(config: Config, now: Instant) -> Result<Self, ConfigError> {
        config.validate()?;
        let mut rng = ChaCha20Rng::from_seed(config.seed);
        let mut nonce_key = [0; 32];
        rng.fill_bytes(&mut nonce_key);
        Ok(Self {
            authenticator: Authenticator::new(&config, nonce_key, rng.random(), now),
            allocator: Allocator::new(&config, rng.random(), ChaCha20Rng::from_rng(&mut rng), now),
            policy: PeerPolicy::new(&config),
            responder: Responder::new(config.software, &config.limits, rng.random(), now),
            rng,
        })
    }

    /// Takes a message of a client: a datagram, or what [`message_len`] cut from a stream.
    pub fn handle_client<'a>(
        &mut self,
        client: FiveTuple,
        message: &'a [u8],
        now: Now,
    ) -> FromClient<'a> {
        let handled = match message.first().and_then(|first| Kind::of(*first)) {
            Some(Kind::ChannelData) => self.forward_channel_data(&client, message),
            Some(Kind::Stun) => self.handle_stun(client, message, now),
            None => Err(Drop::Malformed),
        };
        match handled {
            Ok(FromClient::Forward(to_peer)) => {
                self.responder.counters.to_peers.add(to_peer.payload.len());
                FromClient::Forward(to_peer)
            }
            Ok(handled) => handled,
            Err(reason) => {
                self.responder.drop(reason);
                FromClient::Dropped
            }
        }
    }

    /// Takes a datagram of `len` bytes that came from `peer` to the socket of an allocation. `None`:
    /// it is dropped, and counted.
    pub fn handle_peer(
        &mut self,
        allocation: AllocationId,
        peer: SocketAddr,
        len: usize,
    ) -> Option<ToClient> {
        let allocation = self.allocator.allocations.get(allocation).filter(|it| it.is_open());
        let received = match allocation {
            Some(allocation) => allocation.receive(peer, len, &mut self.rng),
            None => Err(Drop::Stale),
        };
        match received {
            Ok(to_client) => {
                self.responder.counters.to_clients.add(len);
                Some(to_client)
            }
            Err(reason) => {
                self.responder.drop(reason);
                None
            }
        }
    }

    /// Whether a client has an allocation.
    #[must_use]
    pub fn has_allocation(&self, client: &FiveTuple) -> bool {
        self.allocator.allocations.of_client(client).is_some()
    }

    /// A stream is closed; its allocation goes.
    pub fn handle_stream_closed(&mut self, client: FiveTuple) {
        let allocation = self.allocator.allocations.of_client(&client);
        if let Some(id) = allocation.map(|allocation| allocation.id) {
            self.allocator.end(id, &mut self.responder);
        }
    }

    /// What became of [`Output::OpenPort`]. The answer for an allocation that is gone by now does
    /// nothing.
    pub fn handle_port_opened(
        &mut self,
        allocation: AllocationId,
        result: Result<(), PortError>,
        now: Instant,
    ) {
        self.allocator.handle_port_opened(allocation, result, now, &mut self.responder);
    }

    /// Another worker has [`Output::UsernameMoved`].
    pub fn handle_username_moved(&mut self, moved: &UsernameMoved) {
        self.allocator.end_older(moved, None, &mut self.responder);
    }

    /// This machine has other addresses than it had: all that it has now. Those that came end as peers, with their
    /// channels and permissions.
    pub fn handle_own_addresses(&mut self, addresses: &[IpAddr]) {
        self.policy.set_own(addresses);
        self.allocator.end_forbidden(&self.policy, &mut self.responder);
    }

    /// Does what is due.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.allocator.handle_timeout(now, &mut self.responder);
    }

    /// What to do next.
    pub fn poll_output(&mut self) -> Output {
        let deadline = || Output::Timeout(self.allocator.allocations.next_deadline());
        self.responder.pop().unwrap_or_else(deadline)
    }

    /// From now on no allocation is made (508); those that exist are served until they end.
    pub fn drain(&mut self) {
        self.allocator.is_draining = true;
    }

    /// How many allocations there are, those included whose port is being opened.
    pub fn allocations(&self) -> usize {
        self.allocator.allocations.len()
    }

    /// How many channels there are.
    pub fn channels(&self) -> usize {
        self.allocator.allocations.channels()
    }

    /// What happened so far.
    pub fn counters(&self) -> &Counters {
        &self.responder.counters
    }

    fn open_allocation(&self, client: &FiveTuple) -> Option<&Allocation> {
        self.allocator.allocations.of_client(client).filter(|allocation| allocation.is_open())
    }

    fn forward_channel_data<'a>(
        &self,
        client: &FiveTuple,
        message: &'a [u8],
    ) -> Result<FromClient<'a>, Drop> {
        let data = ChannelData::parse(message).ok_or(Drop::Malformed)?;
        let allocation = self.open_allocation(client).ok_or(Drop::NoAllocation)?;
        allocation.forward(data, &self.policy).map(FromClient::Forward)
    }

    /// Not part of its caller: what comes by channels needs none of its room on the stack.
    #[inline(never)]
    fn handle_stun<'a>(
        &mut self,
        client: FiveTuple,
        message: &'a [u8],
        now: Now,
    ) -> Result<FromClient<'a>, Drop> {
        let message = Message::parse(message).ok_or(Drop::Malformed)?;
        match (message.class(), message.method()) {
            (Class::Indication, connlib_stun::Method::SEND) => {
                let (peer, payload) = data::parse_indication(&message)?;
                let allocation = self.open_allocation(&client).ok_or(Drop::NoAllocation)?;
                return allocation.send(peer, payload, &self.policy).map(FromClient::Forward);
            }
            (Class::Indication, connlib_stun::Method::BINDING) => {} // keeps a NAT's mapping
            (Class::Request, method) => {
                let method = Method::of(method).ok_or(Drop::Unexpected)?;
                if method != Method::Binding && message.as_bytes().len() < MIN_REQUEST {
                    return Err(Drop::Malformed);
                }
                let request = Request { header: Header::of(&message, method), message, client };
                self.handle_request(&request, now);
            }
            _ => return Err(Drop::Unexpected),
        }
        Ok(FromClient::Handled)
    }

    fn handle_request(&mut self, request: &Request<'_>, now: Now) {
        let Request { message, header, client } = request;
        let unknown =
            message.unknown().next().map(|_| Response::unknown_attributes(message, header));
        let (answer, trust) = if header.method == Method::Binding {
            (Ok(Some(unknown.unwrap_or_else(|| bound(request)))), Trust::Stranger(None))
        } else {
            match self.authenticator.authenticate(message, client, now) {
                Ok(identity) => {
                    let answer = match unknown {
                        Some(unknown) => Ok(Some(unknown)),
                        None => self.serve(request, &identity, now.instant),
                    };
                    (answer, Trust::Known(identity.signature))
                }
                Err(rejection) => {
                    let mut response = Response::error(header, rejection.code);
                    if rejection.is_challenge {
                        let nonce = self.authenticator.nonce(client, now.instant);
                        response = response.challenge(self.authenticator.realm(), &nonce);
                    }
                    (Ok(Some(response)), Trust::Stranger(rejection.signature))
                }
            }
        };
        let response = answer.unwrap_or_else(|code| Some(Response::error(header, code)));
        if let Some(response) = response {
            self.responder.respond(*client, header, response, trust, now.instant);
        }
    }

    fn serve(&mut self, request: &Request<'_>, identity: &Identity<'_>, now: Instant) -> Answer {
        if request.header.method == Method::Allocate {
            return self.allocate(request, identity, now);
        }
        let allocation = self.open_allocation(&request.client).ok_or(437_u16)?;
        if *allocation.username != *identity.username {
            return Err(441);
        }
        let (id, has) = (allocation.id, allocation.families);
        match request.header.method {
            Method::Refresh => self.refresh(request, id, has, now),
            Method::CreatePermission => self.create_permission(request, id, has, now),
            Method::ChannelBind => self.bind_channel(request, id, has, now),
            Method::Binding | Method::Allocate => Err(400),
        }
    }

    /// RFC 8656 §7.2.
    fn allocate(&mut self, request: &Request<'_>, identity: &Identity<'_>, now: Instant) -> Answer {
        let Request { message, header, client } = request;
        if identity.per_user == PerUser::Newest {
            self.allocator.end_other_user_s(client, identity.username, &mut self.responder);
        }
        match self.allocator.repeated(client, header, identity) {
            Some(Ok(response)) => return Ok(Some(response)),
            Some(Err(reason)) => {
                self.responder.drop(reason);
                return Ok(None);
            }
            None => {}
        }
        let wish = Wish::parse(message, self.allocator.families())?;
        let open_port = self.allocator.begin(*client, header, identity, wish, now)?;
        self.responder.push(open_port);
        Ok(None)
    }

    /// RFC 8656 §8.2.
    fn refresh(
        &mut self,
        request: &Request<'_>,
        id: AllocationId,
        has: Families,
        now: Instant,
    ) -> Answer {
        let lifetime = match Refresh::parse(&request.message, has)? {
            Refresh::Extend(lifetime) => {
                self.allocator.allocations.extend(id, now + lifetime);
                lifetime
            }
            Refresh::End(families) => {
                self.allocator.end_families(id, families, &mut self.responder);
                Duration::ZERO
            }
        };
        Ok(Some(Response::success(&request.header).lifetime(lifetime)))
    }

    /// RFC 8656 §10.2.
    fn create_permission(
        &mut self,
        request: &Request<'_>,
        id: AllocationId,
        has: Families,
        now: Instant,
    ) -> Answer {
        let ips = wish::permissions(&request.message, has, &self.policy)?;
        self.allocator.allocations.permit(id, &ips, now).map_err(|_| 508_u16)?;
        Ok(Some(Response::success(&request.header)))
    }

    /// RFC 8656 §12.2.
    fn bind_channel(
        &mut self,
        request: &Request<'_>,
        id: AllocationId,
        has: Families,
        now: Instant,
    ) -> Answer {
        let Bind { number, peer } = Bind::parse(&request.message, has, &self.policy)?;
        let allocations = &mut self.allocator.allocations;
        let bound = allocations.bind(id, number, peer, now).map_err(|refusal| match refusal {
            Refusal::Bound => 400_u16,
            Refusal::Capacity => 508,
        })?;
        // Where there is no room for the permission that comes with it, the channel does as well.
        let _ = allocations.permit(id, &[peer.ip()], now);
        if let Some(binding) = bound {
            self.responder.push(Output::ChannelBound(binding));
        }
        Ok(Some(Response::success(&request.header)))
    }
}

/// RFC 8489 §6.3.1.1.
fn bound(request: &Request<'_>) -> Response {
    Response::success(&request.header)
        .xor_address(Attribute::XOR_MAPPED_ADDRESS, request.client.remote)
}
