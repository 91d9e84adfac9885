//! The channel between a peer and the portal: Phoenix channels in JSON objects.

mod frame;

pub use frame::{Disconnect, Frame, InvalidFrame, Reply};

/// The topic of heartbeats.
pub const HEARTBEAT_TOPIC: &str = "phoenix";

/// The names of the events that belong to the channel itself.
pub mod event {
    /// Joins the topic. From the peer; its payload says who joins.
    pub const JOIN: &str = "phx_join";
    /// Answers a frame, with its `ref`.
    pub const REPLY: &str = "phx_reply";
    /// The portal's end of the channel broke and will come again.
    pub const ERROR: &str = "phx_error";
    /// The portal closes the channel.
    pub const CLOSE: &str = "phx_close";
    /// Asks whether the other end lives.
    pub const HEARTBEAT: &str = "heartbeat";
    /// The portal ends the session and says why.
    pub const DISCONNECT: &str = "disconnect";
}
