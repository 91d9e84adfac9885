//! The WebSocket client: keeps one connection to the portal and comes back when it is lost.
//!
//! ```no_run
//! # use connlib_portal_api::{*, client::*, login::*, messages::client::*};
//! # async fn run(public_key: PublicKey) -> Result<(), Box<dyn std::error::Error>> {
//! let config = Config {
//!     url: "wss://api.example".to_owned(),
//!     token: Secret::token("…"),
//!     params: Params {
//!         external_id: Some(credentials::external_id("my-device")),
//!         name: Some("laptop".to_owned()),
//!         public_key: Some(public_key),
//!         ..Params::default()
//!     },
//!     user_agent: UserAgent::of_this_machine("headless-client", "1.5.12"),
//!     join: (),
//!     retry: Retry::FOR_EVER,
//!     extra_ca_file: None,
//! };
//! let mut portal = PortalClient::<ClientRole>::new(config, Network::default())?;
//! loop {
//!     match portal.next_event().await {
//!         Event::Connected => portal.send(&ToPortal::NoRelays)?,
//!         Event::Message(message) => println!("{message:?}"),
//!         Event::Disconnected { error, retry_in } => println!("{error}, again in {retry_in:?}"),
//!         Event::Fatal(error) => return Err(error.into()),
//!     }
//! }
//! # }
//! ```

mod backoff;
mod config;
mod connect;
mod connection;
mod error;
mod skips;
mod tls;
mod upgrade;

use std::hash::{BuildHasher as _, Hasher as _};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use futures_util::future::BoxFuture;
use serde_json::Value;
use tokio::time::Sleep;

use self::backoff::Backoff;
use self::config::Endpoint;
use self::connect::{Socket, Target, connect};
use self::connection::{Connection, Step};
use self::skips::Skips;
use crate::channel::{self, Channel};
use crate::login::Params;
use crate::messages::Role;
use crate::{PublicKey, Secret};

pub use backoff::Retry;
pub use config::{Config, ConfigError, Network, Resolve, SocketFactory};
pub use error::{ConnectionError, FatalError, SendError};
pub use tls::tls_config;

/// A client, gateway or relay of a portal.
///
/// Nothing happens but in [`PortalClient::next_event`]. To drop it closes the connection.
pub struct PortalClient<R: Role> {
    target: Arc<Target>,
    params: Params,
    join: Value,
    state: State,
    backoff: Backoff,
    skips: Skips,
    role: std::marker::PhantomData<fn() -> R>,
}

enum State {
    /// The next poll starts an attempt.
    Idle,
    Waiting(Pin<Box<Sleep>>),
    Connecting(BoxFuture<'static, Result<Socket, ConnectionError>>),
    Connected(Box<Connection>),
    Failed,
}

/// What happens between us and the portal.
#[derive(Debug)]
pub enum Event<M> {
    /// We have joined: say what we can do; the portal's full state follows. Comes again if the portal forgot us.
    Connected,
    /// The portal says something.
    Message(M),
    /// The connection was lost, or did not come about. What was sent last may be lost.
    Disconnected {
        /// Why.
        error: ConnectionError,
        /// When we try again.
        retry_in: Duration,
    },
    /// We do not try again. The last event.
    Fatal(FatalError),
}

impl<R: Role> PortalClient<R> {
    /// A client that connects when it is asked for events.
    ///
    /// With `wss`, this reads the certificates of the operating system.
    ///
    /// # Errors
    /// If URL, token or the file of certificates are not usable.
    pub fn new(config: Config<R>, network: Network) -> Result<Self, ConfigError> {
        let endpoint = Endpoint::parse(&config.url, R::PATH)?;
        let token = Secret::token(config.token.expose());
        if !token.expose().bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(ConfigError::Token);
        }
        let tls = endpoint.tls.then(|| tls_config(config.extra_ca_file.as_deref())).transpose()?;
        let target =
            Target { endpoint, token, user_agent: config.user_agent.to_string(), network, tls };
        // Only for jitter: the standard library's random keys are random enough.
        let seed = std::hash::RandomState::new().build_hasher().finish();
        Ok(Self {
            target: Arc::new(target),
            params: config.params,
            join: serde_json::to_value(config.join).unwrap_or_default(),
            state: State::Idle,
            backoff: Backoff::new(config.retry, seed),
            skips: Skips::default(),
            role: std::marker::PhantomData,
        })
    }

    /// The next event. Cancel safe: whatever has begun goes on with the next call. Pending for ever after
    /// [`Event::Fatal`].
    pub async fn next_event(&mut self) -> Event<R::FromPortal> {
        std::future::poll_fn(|cx| self.poll_event(cx)).await
    }

    /// Sends a message. It waits until we have joined and the socket takes it, which [`PortalClient::next_event`]
    /// sees to; one that waits already in the same words is not sent twice.
    ///
    /// # Errors
    /// If there is no connection, or 32 messages wait already. Nothing is kept then.
    pub fn send(&mut self, message: &R::ToPortal) -> Result<(), SendError> {
        match &mut self.state {
            State::Connected(connection) => Ok(connection.channel.send(message)?),
            _ => Err(SendError::NotConnected),
        }
    }

    /// The network is another one: leaves the connection, if there is one, without an event, and connects at once.
    /// An attempt that fails is retried as after a first loss.
    pub fn reconnect_now(&mut self) {
        if !matches!(self.state, State::Failed) {
            self.backoff.reset();
            self.state = State::Idle;
        }
    }

    /// From the next attempt on, announces this WireGuard key. Does not reconnect.
    pub fn set_public_key(&mut self, public_key: PublicKey) {
        self.params.public_key = Some(public_key);
    }

    fn poll_event(&mut self, cx: &mut Context<'_>) -> Poll<Event<R::FromPortal>> {
        loop {
            match &mut self.state {
                State::Failed => return Poll::Pending,
                State::Idle => {
                    self.backoff.attempting(now());
                    let attempt = connect(Arc::clone(&self.target), self.params.to_query());
                    self.state = State::Connecting(Box::pin(attempt));
                }
                State::Waiting(timer) => {
                    ready!(timer.as_mut().poll(cx));
                    self.state = State::Idle;
                }
                State::Connecting(attempt) => match ready!(attempt.as_mut().poll(cx)) {
                    Ok(socket) => {
                        let channel = Channel::new(R::TOPIC, self.join.clone(), now());
                        let connection = Connection::new(socket, channel, now());
                        self.state = State::Connected(Box::new(connection));
                    }
                    Err(error) => return Poll::Ready(self.lose(error)),
                },
                State::Connected(connection) => match ready!(connection.poll(cx)) {
                    Step::Event(channel::Event::Joined) => {
                        self.backoff.joined(now());
                        return Poll::Ready(Event::Connected);
                    }
                    Step::Event(channel::Event::Frame(frame)) => {
                        match frame.decode::<R::FromPortal>() {
                            Ok(message) => {
                                self.skips.elements(&message);
                                return Poll::Ready(Event::Message(message));
                            }
                            Err(error) => self.skips.message(&error),
                        }
                    }
                    Step::Invalid(error) => self.skips.frame(&error),
                    Step::Closed(error) => return Poll::Ready(self.lose(error)),
                },
            }
        }
    }

    /// The connection is lost, or did not come about.
    fn lose(&mut self, error: ConnectionError) -> Event<R::FromPortal> {
        self.state = State::Failed;
        let error = match error.into_fatal() {
            Ok(fatal) => return Event::Fatal(fatal),
            Err(error) => error,
        };
        match self.backoff.failed(error.retry_after(), now()) {
            Ok(retry_in) => {
                self.state = State::Waiting(Box::pin(tokio::time::sleep(retry_in)));
                Event::Disconnected { error, retry_in }
            }
            Err(after) => Event::Fatal(FatalError::GaveUp { after, source: error }),
        }
    }
}

fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}
