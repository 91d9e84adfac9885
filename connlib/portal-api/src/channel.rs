//! The channel between a peer and the portal: Phoenix channels in JSON objects.
//!
//! [`Frame`] is the codec of both ends; [`Channel`] is the peer's end of one connection:
//!
//! ```
//! # use std::time::Instant;
//! use connlib_portal_api::channel::{Channel, Event, Frame, Output};
//! use connlib_portal_api::messages::client::ToPortal;
//!
//! let now = Instant::now();
//! let mut channel = Channel::new("client", serde_json::Value::Null, now);
//! channel.send(&ToPortal::NoRelays).unwrap(); // Waits until the portal has let us in.
//! let wake_at = loop {
//!     match channel.poll_output() {
//!         Output::Transmit(text) => {
//!             // Write it to the WebSocket; here, the portal answers at once.
//!             channel.handle_written();
//!             let answer = Frame::reply_ok(&Frame::parse(&text).unwrap());
//!             channel.handle_text(&answer.to_text(), now).unwrap();
//!         }
//!         Output::Event(Event::Joined) => {}
//!         Output::Event(Event::Frame(frame)) => println!("{}", frame.event),
//!         Output::Closed(reason) => panic!("{reason}"),
//!         Output::Timeout(at) => break at,
//!     }
//! };
//! // Wait for a text frame or for `wake_at`, then:
//! channel.handle_timeout(wake_at);
//! ```

mod connection;
mod frame;

pub use connection::{Channel, Closed, Event, Output, QueueFull};
pub use frame::{Disconnect, Frame, InvalidFrame, Reply};

/// The topic of heartbeats.
pub const HEARTBEAT_TOPIC: &str = "phoenix";

/// The names of the events that belong to the channel itself.
pub mod event {
    /// Joins the topic. From the peer; its payload says who joins.
    pub const JOIN: &str = "phx_join";
    /// Answers a frame, with its `ref`.
    pub const REPLY: &str = "phx_reply";
    /// The portal's end of the channel broke. It closes the socket, or does not know us any more.
    pub const ERROR: &str = "phx_error";
    /// The portal closes the channel.
    pub const CLOSE: &str = "phx_close";
    /// Asks whether the other end lives.
    pub const HEARTBEAT: &str = "heartbeat";
    /// The portal ends the session and says why.
    pub const DISCONNECT: &str = "disconnect";
}
