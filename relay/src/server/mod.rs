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

mod config;
mod counters;
mod framing;
mod limits;
mod output;

pub use config::{Config, ConfigError, Credentials, PerUser, User};
pub use counters::{Counters, Drop, Method, Traffic};
pub use framing::{CHANNEL_HEADER, NotAMessage, message_len};
pub use limits::{Limits, Rate};
pub use output::{
    AllocationId, ChannelBinding, Families, FiveTuple, FromClient, Now, Output, PortError, Prefix,
    ToClient, ToPeer, Transport, UsernameMoved,
};

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::Instant;

/// The relay of one worker thread. All datagrams of a 5-tuple have to reach the same one, as `SO_REUSEPORT` does it.
///
/// After each batch of `handle_*`, outputs are to be drained until [`Output::Timeout`]. Neither
/// [`Server::handle_client`] for data nor [`Server::handle_peer`] allocates memory.
pub struct Server {
    outputs: VecDeque<Output>,
    counters: Counters,
    draining: bool,
}

impl Server {
    /// A relay without allocations.
    ///
    /// # Errors
    /// The settings can't be served.
    pub fn new(_config: Config, _now: Instant) -> Result<Self, ConfigError> {
        Ok(Self { outputs: VecDeque::new(), counters: Counters::default(), draining: false })
    }

    /// Takes a message of a client: a datagram, or what [`message_len`] cut from a stream.
    pub fn handle_client<'a>(
        &mut self,
        _client: FiveTuple,
        _message: &'a [u8],
        _now: Now,
    ) -> FromClient<'a> {
        FromClient::Dropped
    }

    /// Takes a datagram of `len` bytes that came from `peer` to the socket of an allocation. `None`: it is dropped, and
    /// counted.
    pub fn handle_peer(
        &mut self,
        _allocation: AllocationId,
        _peer: SocketAddr,
        _len: usize,
    ) -> Option<ToClient> {
        None
    }

    /// A stream is closed; its allocation goes.
    pub fn handle_stream_closed(&mut self, _client: FiveTuple) {}

    /// What became of [`Output::OpenPort`]. The answer for an allocation that is gone by now does nothing.
    pub fn handle_port_opened(
        &mut self,
        _allocation: AllocationId,
        _result: Result<(), PortError>,
        _now: Instant,
    ) {
    }

    /// Another worker has [`Output::UsernameMoved`].
    pub fn handle_username_moved(&mut self, _moved: &UsernameMoved) {}

    /// Does what is due.
    pub fn handle_timeout(&mut self, _now: Instant) {}

    /// What to do next.
    pub fn poll_output(&mut self) -> Output {
        self.outputs.pop_front().unwrap_or(Output::Timeout(None))
    }

    /// From now on no allocation is made (508); those that exist are served until they end.
    pub fn drain(&mut self) {
        self.draining = true;
    }

    /// How many allocations there are, those included whose port is being opened.
    pub fn allocations(&self) -> usize {
        0
    }

    /// How many channels there are.
    pub fn channels(&self) -> usize {
        0
    }

    /// What happened so far.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }
}
