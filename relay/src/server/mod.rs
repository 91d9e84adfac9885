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

mod allocation;
mod allocations;
mod attribute;
mod auth;
mod budget;
mod config;
mod counters;
mod framing;
mod integrity;
mod limits;
mod message;
mod nonce;
mod output;
mod peers;
mod ports;
mod responder;
mod response;
mod timers;
mod wish;

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use rand::{Rng, RngExt, SeedableRng};
use rand_chacha::ChaCha20Rng;

pub use config::{Config, ConfigError, Credentials, PerUser, User};
pub use counters::{Counters, Drop, Method, Traffic};
pub use framing::{CHANNEL_HEADER, NotAMessage, message_len};
pub use limits::{Limits, Rate};
pub use output::{
    AllocationId, ChannelBinding, Families, FiveTuple, FromClient, Now, Output, PortError, Prefix,
    ToClient, ToPeer, Transport, UsernameMoved,
};

use allocation::{Allocation, CHANNEL_NUMBERS, Grant, State};
use allocations::{Allocations, Expired, NewAllocation, Refusal, plain};
use auth::{Authenticator, Identity};
use framing::{ChannelData, Kind, padding};
use message::{Class, Message};
use peers::PeerPolicy;
use ports::Ports;
use responder::{Responder, Trust};
use response::{Header, Response};
use wish::{Refresh, Wish};

const SEND: u16 = 0x006;
const BINDING: u16 = 0x001;
const DATA_INDICATION: [u8; 2] = [0x00, 0x17];

/// Ports that are tried for one allocation.
const PORT_ATTEMPTS: u32 = 32;
/// Peers that one CreatePermission request may name.
const MAX_PEERS: usize = 64;
/// Unknown attributes that a response lists.
const MAX_UNKNOWN: usize = 16;

/// The relay of one worker thread. All datagrams of a 5-tuple have to reach the same one, as `SO_REUSEPORT` does it.
///
/// After each batch of `handle_*`, outputs are to be drained until [`Output::Timeout`]. Neither
/// [`Server::handle_client`] for data nor [`Server::handle_peer`] allocates memory.
///
/// Never a peer, whatever the settings: addresses that are unspecified, loopback, link-local, multicast, broadcast or
/// reserved, those that IPv6 embeds included, further addresses of this machine, and on its public addresses all but
/// the ports of allocations.
pub struct Server {
    public: (Option<IpAddr>, Option<IpAddr>),
    limits: Limits,
    authenticator: Authenticator,
    allocations: Allocations,
    ports: Ports,
    policy: PeerPolicy,
    responder: Responder,
    rng: ChaCha20Rng,
    is_draining: bool,
}

/// A request, and who sent it.
struct Request<'a> {
    message: Message<'a>,
    header: Header,
    client: FiveTuple,
}

/// What a request comes to: a response, the code of an error, or nothing for now.
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
        let policy = PeerPolicy::new(&config);
        let authenticator = Authenticator::new(&config, nonce_key, rng.random(), now);
        Ok(Self {
            public: (config.public_ip4.map(IpAddr::from), config.public_ip6.map(IpAddr::from)),
            limits: config.limits,
            authenticator,
            allocations: Allocations::new(config.limits, rng.random()),
            ports: Ports::new(config.allocation_ports),
            policy,
            responder: Responder::new(config.software, &config.limits, rng.random(), now),
            rng,
            is_draining: false,
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
            Some(Kind::Stun) => match Message::parse(message) {
                Some(stun) => self.handle_stun(client, stun, now),
                None => Err(Drop::Malformed),
            },
            None => Err(Drop::Malformed),
        };
        handled.unwrap_or_else(|reason| {
            self.responder.drop(reason);
            FromClient::Dropped
        })
    }

    /// Takes a datagram of `len` bytes that came from `peer` to the socket of an allocation. `None`: it is dropped, and
    /// counted.
    pub fn handle_peer(
        &mut self,
        allocation: AllocationId,
        peer: SocketAddr,
        len: usize,
    ) -> Option<ToClient> {
        let framed = self.frame_for_client(allocation, plain(peer), len);
        framed.inspect_err(|reason| self.responder.drop(*reason)).ok()
    }

    /// A stream is closed; its allocation goes.
    pub fn handle_stream_closed(&mut self, client: FiveTuple) {
        if let Some(id) = self.allocations.of_client(&client).map(|allocation| allocation.id) {
            self.end(id);
        }
    }

    /// What became of [`Output::OpenPort`]. The answer for an allocation that is gone by now does nothing.
    pub fn handle_port_opened(
        &mut self,
        allocation: AllocationId,
        result: Result<(), PortError>,
        now: Instant,
    ) {
        let Some(Allocation {
            state: State::Opening { attempts, must_be_even, .. },
            port,
            families,
            ..
        }) = self.allocations.get_mut(allocation)
        else {
            return;
        };
        let other_port = match result {
            Ok(()) => return self.open(allocation, now),
            Err(PortError::InUse) if *attempts < PORT_ATTEMPTS => {
                self.ports.take(*must_be_even, &mut self.rng)
            }
            Err(_) => None,
        };
        let Some(other_port) = other_port else { return self.refuse(allocation, now) };
        // Not before, or it could be drawn again.
        self.ports.release(std::mem::replace(port, other_port));
        *attempts += 1;
        let output = Output::OpenPort { allocation, port: other_port, families: *families };
        self.responder.push(output);
    }

    /// Another worker has [`Output::UsernameMoved`].
    pub fn handle_username_moved(&mut self, moved: &UsernameMoved) {
        self.end_older(moved, None);
    }

    /// Does what is due.
    pub fn handle_timeout(&mut self, now: Instant) {
        while let Some(expired) = self.allocations.expire(now) {
            match expired {
                Expired::Allocation(id) => self.end(id),
                Expired::Channel(binding) => self.responder.push(Output::ChannelUnbound(binding)),
                Expired::Permission => {}
            }
        }
    }

    /// What to do next.
    pub fn poll_output(&mut self) -> Output {
        self.responder.pop().unwrap_or_else(|| Output::Timeout(self.allocations.next_deadline()))
    }

    /// From now on no allocation is made (508); those that exist are served until they end.
    pub fn drain(&mut self) {
        self.is_draining = true;
    }

    /// How many allocations there are, those included whose port is being opened.
    pub fn allocations(&self) -> usize {
        self.allocations.len()
    }

    /// How many channels there are.
    pub fn channels(&self) -> usize {
        self.allocations.channels()
    }

    /// What happened so far.
    pub fn counters(&self) -> &Counters {
        &self.responder.counters
    }

    fn forward_channel_data<'a>(
        &mut self,
        client: &FiveTuple,
        message: &'a [u8],
    ) -> Result<FromClient<'a>, Drop> {
        let ChannelData { channel, payload } =
            ChannelData::parse(message).ok_or(Drop::Malformed)?;
        let allocation = self.open_allocation(client).ok_or(Drop::NoAllocation)?;
        let peer = allocation.peer_of(channel).ok_or(Drop::NoChannel)?;
        let (allocation, port) = (allocation.id, allocation.port);
        self.responder.counters.to_peers.add(payload.len());
        Ok(FromClient::Forward(ToPeer { allocation, port, peer, payload }))
    }

    /// RFC 8656 §11.2.
    fn forward_indication<'a>(
        &mut self,
        client: &FiveTuple,
        indication: &Message<'a>,
    ) -> Result<FromClient<'a>, Drop> {
        let peer = peers_of(indication).next().flatten().ok_or(Drop::Malformed)?;
        let payload = indication.first(attribute::DATA).ok_or(Drop::Malformed)?;
        if indication.unknown().next().is_some() {
            return Err(Drop::Malformed);
        }
        let allocation = self.open_allocation(client).ok_or(Drop::NoAllocation)?;
        if !allocation.has_permission(&peer.ip()) && allocation.channel_to(&peer).is_none() {
            return Err(Drop::NoPermission);
        }
        if !self.policy.allows_port(peer) {
            return Err(Drop::ForbiddenPeer);
        }
        let (allocation, port) = (allocation.id, allocation.port);
        self.responder.counters.to_peers.add(payload.len());
        Ok(FromClient::Forward(ToPeer { allocation, port, peer, payload }))
    }

    /// RFC 8656 §11.3, §12.6.
    fn frame_for_client(
        &mut self,
        id: AllocationId,
        peer: SocketAddr,
        len: usize,
    ) -> Result<ToClient, Drop> {
        let allocation = self
            .allocations
            .get(id)
            .filter(|allocation| allocation.is_open())
            .ok_or(Drop::Stale)?;
        let client = allocation.client;
        if !allocation.families.has(peer) {
            return Err(Drop::WrongFamily);
        }
        let framed = if let Some(channel) = allocation.channel_to(&peer) {
            let header =
                ChannelData::header(channel, u16::try_from(len).map_err(|_| Drop::TooLong)?);
            let padding = if client.transport.is_stream() { padding(len) } else { 0 };
            ToClient { client, prefix: Prefix::new(&[&header]), padding }
        } else if allocation.has_permission(&peer.ip()) {
            let transaction = self.rng.random();
            let (address, address_len) =
                attribute::xor_address(attribute::XOR_PEER_ADDRESS, peer, &transaction);
            let attributes = address_len + 4 + len + padding(len);
            let attributes = u16::try_from(attributes).map_err(|_| Drop::TooLong)?;
            let prefix = Prefix::new(&[
                &DATA_INDICATION,
                &attributes.to_be_bytes(),
                &attribute::MAGIC_COOKIE,
                &transaction,
                &address[..address_len],
                &attribute::DATA.to_be_bytes(),
                &(len as u16).to_be_bytes(),
            ]);
            ToClient { client, prefix, padding: padding(len) }
        } else {
            return Err(Drop::NoPermission);
        };
        self.responder.counters.to_clients.add(len);
        Ok(framed)
    }

    fn open_allocation(&self, client: &FiveTuple) -> Option<&Allocation> {
        self.allocations.of_client(client).filter(|allocation| allocation.is_open())
    }

    fn handle_stun<'a>(
        &mut self,
        client: FiveTuple,
        message: Message<'a>,
        now: Now,
    ) -> Result<FromClient<'a>, Drop> {
        match (message.class, message.method) {
            (Class::Indication, SEND) => return self.forward_indication(&client, &message),
            (Class::Indication, BINDING) => return Ok(FromClient::Handled), // keeps a NAT's mapping
            (Class::Request, method) => {
                let method = Method::parse(method).ok_or(Drop::Unexpected)?;
                let request = Request { header: Header::of(&message, method), message, client };
                self.handle_request(&request, now)?;
            }
            _ => return Err(Drop::Unexpected),
        }
        Ok(FromClient::Handled)
    }

    fn handle_request(&mut self, request: &Request<'_>, now: Now) -> Result<(), Drop> {
        let Request { message, header, client } = request;
        if header.method == Method::Binding {
            let response = if message.unknown().next().is_some() {
                unknown_attributes(request)
            } else {
                let mut response = Response::success(header);
                response.xor_address(attribute::XOR_MAPPED_ADDRESS, client.remote);
                response
            };
            self.responder.respond(*client, header, response, Trust::Stranger(None), now.instant);
            return Ok(());
        }
        let identity = match self.authenticator.authenticate(message, client, now) {
            Ok(identity) => identity,
            Err(rejection) => {
                let mut response = Response::error(header, rejection.code);
                if rejection.is_challenge {
                    response.attribute(attribute::REALM, self.authenticator.realm().as_bytes());
                    response.attribute(
                        attribute::NONCE,
                        &self.authenticator.nonce(client, now.instant),
                    );
                }
                let trust = Trust::Stranger(rejection.signature);
                self.responder.respond(*client, header, response, trust, now.instant);
                return Ok(());
            }
        };
        let answer = if message.unknown().next().is_some() {
            Ok(Some(unknown_attributes(request)))
        } else if header.method == Method::Allocate {
            self.allocate(request, &identity, now.instant)?
        } else {
            self.serve_owner(request, &identity, now.instant)
        };
        if let Some(response) = answer.unwrap_or_else(|code| Some(Response::error(header, code))) {
            self.responder.respond(
                *client,
                header,
                response,
                Trust::Known(identity.signature),
                now.instant,
            );
        }
        Ok(())
    }

    /// RFC 8656 §7.2.
    fn allocate(
        &mut self,
        request: &Request<'_>,
        identity: &Identity<'_>,
        now: Instant,
    ) -> Result<Answer, Drop> {
        let Request { message, header, client } = request;
        if let Some(existing) = self.allocations.of_client(client) {
            let is_repeated = existing.grant.transaction == header.transaction
                && *existing.username == *identity.username;
            return match existing.state {
                State::Opening { .. } if is_repeated => Err(Drop::Repeated),
                State::Open if is_repeated => Ok(Ok(Some(self.allocated(existing, header)))),
                _ => Ok(Err(437)),
            };
        }
        let available = Families { ip4: self.public.0.is_some(), ip6: self.public.1.is_some() };
        let wish = match Wish::parse(message, available) {
            Ok(wish) => wish,
            Err(code) => return Ok(Err(code)),
        };
        if self.is_draining || self.allocations.len() >= self.limits.allocations {
            return Ok(Err(508));
        }
        let of_user = self.allocations.of_user(identity.username).len();
        if of_user >= self.limits.allocations_per_user
            || self.allocations.of_same_source(client) >= self.limits.allocations_per_source
        {
            return Ok(Err(486));
        }
        let Some(port) = self.ports.take(wish.must_be_even, &mut self.rng) else {
            return Ok(Err(508));
        };
        let state = State::Opening {
            header: *header,
            signature: identity.signature,
            must_be_even: wish.must_be_even,
            is_newest_only: identity.per_user == PerUser::Newest,
            attempts: 1,
        };
        let Wish { families, missing, lifetime, .. } = wish;
        let grant = Grant { transaction: header.transaction, lifetime, missing };
        let (client, username) = (*client, identity.username);
        let new = NewAllocation { client, username, port, families, state, grant };
        let allocation = self.allocations.insert(new, now);
        self.responder.push(Output::OpenPort { allocation, port, families });
        Ok(Ok(None))
    }

    /// The port of an allocation is open: it can be used from now on.
    fn open(&mut self, id: AllocationId, now: Instant) {
        let Some(allocation) = self.allocations.get_mut(id) else { return };
        let State::Opening { header, signature, is_newest_only, .. } =
            std::mem::replace(&mut allocation.state, State::Open)
        else {
            return;
        };
        let client = allocation.client;
        let moved = UsernameMoved {
            username: allocation.username.clone(),
            is_stream: client.transport.is_stream(),
            at: allocation.created_at,
        };
        if is_newest_only {
            self.end_older(&moved, Some(id));
            self.responder.push(Output::UsernameMoved(moved));
        }
        let Some(allocation) = self.allocations.get(id) else { return };
        tracing::debug!(client = %client.remote, port = allocation.port, "allocated");
        let response = self.allocated(allocation, &header);
        self.responder.counters.allocations += 1;
        self.responder.respond(client, &header, response, Trust::Known(signature), now);
    }

    /// No port could be opened for an allocation.
    fn refuse(&mut self, id: AllocationId, now: Instant) {
        let Some(allocation) = self.allocations.remove(id) else { return };
        self.ports.release(allocation.port);
        if let State::Opening { header, signature, .. } = &allocation.state {
            let response = Response::error(header, 508);
            self.responder.respond(
                allocation.client,
                header,
                response,
                Trust::Known(*signature),
                now,
            );
        }
    }

    /// RFC 8656 §7.2 at its end.
    fn allocated(&self, allocation: &Allocation, header: &Header) -> Response {
        let mut response = Response::success(header);
        let Allocation { families, grant, port, client, .. } = allocation;
        let ip4 = self.public.0.filter(|_| families.ip4);
        let ip6 = self.public.1.filter(|_| families.ip6);
        for ip in [ip4, ip6].into_iter().flatten() {
            response.xor_address(attribute::XOR_RELAYED_ADDRESS, SocketAddr::new(ip, *port));
        }
        response.attribute(attribute::LIFETIME, &seconds(grant.lifetime));
        response.xor_address(attribute::XOR_MAPPED_ADDRESS, client.remote);
        for (is_missing, family) in
            [(grant.missing.ip4, attribute::FAMILY_IP4), (grant.missing.ip6, attribute::FAMILY_IP6)]
        {
            if is_missing {
                response.attribute(attribute::ADDRESS_ERROR_CODE, &[family, 0, 4, 40]);
            }
        }
        response
    }

    /// Requests that need an allocation, of the same user.
    fn serve_owner(
        &mut self,
        request: &Request<'_>,
        identity: &Identity<'_>,
        now: Instant,
    ) -> Answer {
        let allocation = self.open_allocation(&request.client).ok_or(437_u16)?;
        if *allocation.username != *identity.username {
            return Err(441);
        }
        let (id, families) = (allocation.id, allocation.families);
        match request.header.method {
            Method::Refresh => self.refresh(request, id, families, now),
            Method::CreatePermission => self.create_permission(request, id, families, now),
            Method::ChannelBind => self.bind_channel(request, id, families, now),
            Method::Binding | Method::Allocate => Err(400),
        }
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
                self.allocations.extend(id, now + lifetime);
                lifetime
            }
            Refresh::End(families) if families == has => {
                self.end(id);
                Duration::ZERO
            }
            Refresh::End(families) => {
                let Some(port) = self.allocations.get(id).map(|allocation| allocation.port) else {
                    return Err(437);
                };
                for binding in self.allocations.drop_families(id, families) {
                    self.responder.push(Output::ChannelUnbound(binding));
                }
                self.responder.push(Output::ClosePort { allocation: id, port, families });
                Duration::ZERO
            }
        };
        let mut response = Response::success(&request.header);
        response.attribute(attribute::LIFETIME, &seconds(lifetime));
        Ok(Some(response))
    }

    /// RFC 8656 §10.2.
    fn create_permission(
        &mut self,
        request: &Request<'_>,
        id: AllocationId,
        has: Families,
        now: Instant,
    ) -> Answer {
        let mut ips = Vec::new();
        for peer in peers_of(&request.message) {
            let peer = peer.ok_or(400_u16)?;
            if !has.has(peer) {
                return Err(443);
            }
            if !self.policy.allows(peer.ip()) {
                return Err(403);
            }
            if ips.len() == MAX_PEERS {
                return Err(508);
            }
            ips.push(peer.ip());
        }
        if ips.is_empty() {
            return Err(400);
        }
        self.allocations.permit(id, &ips, now).map_err(|_| 508_u16)?;
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
        let number = match request.message.first(attribute::CHANNEL_NUMBER) {
            Some(&[a, b, _, _]) => u16::from_be_bytes([a, b]),
            _ => return Err(400),
        };
        let peer = peers_of(&request.message).next().flatten().ok_or(400_u16)?;
        if !CHANNEL_NUMBERS.contains(&number) {
            return Err(400);
        }
        if !has.has(peer) {
            return Err(443);
        }
        if !self.policy.allows(peer.ip()) || !self.policy.allows_port(peer) {
            return Err(403);
        }
        let bound =
            self.allocations.bind(id, number, peer, now).map_err(|refusal| match refusal {
                Refusal::Bound => 400_u16,
                Refusal::Capacity => 508,
            })?;
        // What matters is the channel: where there is no room for the permission, data passes all the same.
        let _ = self.allocations.permit(id, &[peer.ip()], now);
        if let Some(binding) = bound {
            self.responder.push(Output::ChannelBound(binding));
        }
        Ok(Some(Response::success(&request.header)))
    }

    /// Ends older allocations of a username that come over the same kind of transport.
    fn end_older(&mut self, moved: &UsernameMoved, newest: Option<AllocationId>) {
        let ids = self.allocations.of_user(&moved.username).iter().copied();
        let ids = ids.filter(|id| Some(*id) != newest).filter_map(|id| self.allocations.get(id));
        let is_older = |allocation: &&Allocation| {
            allocation.client.transport.is_stream() == moved.is_stream
                && allocation.created_at <= moved.at
        };
        let ids: Vec<_> = ids.filter(is_older).map(|allocation| allocation.id).collect();
        ids.into_iter().for_each(|id| self.end(id));
    }

    fn end(&mut self, id: AllocationId) {
        let Some(allocation) = self.allocations.remove(id) else { return };
        for binding in allocation.bindings() {
            self.responder.push(Output::ChannelUnbound(binding));
        }
        let Allocation { port, families, .. } = *allocation;
        self.ports.release(port);
        self.responder.push(Output::ClosePort { allocation: id, port, families });
    }
}

/// The peers that a message names, `None` for one that can't be read.
fn peers_of<'a>(message: &Message<'a>) -> impl Iterator<Item = Option<SocketAddr>> + use<'a> {
    let transaction = message.transaction;
    let peers = message.attributes().filter(|attribute| attribute.0 == attribute::XOR_PEER_ADDRESS);
    peers.map(|(_, value)| attribute::read_xor_address(value, transaction))
}

/// RFC 8489 §6.3.1.
fn unknown_attributes(request: &Request<'_>) -> Response {
    let mut response = Response::error(&request.header, 420);
    let unknown = request.message.unknown().take(MAX_UNKNOWN);
    let unknown: Vec<u8> = unknown.flat_map(u16::to_be_bytes).collect();
    response.attribute(attribute::UNKNOWN_ATTRIBUTES, &unknown);
    response
}

fn seconds(lifetime: Duration) -> [u8; 4] {
    (lifetime.as_secs() as u32).to_be_bytes()
}
