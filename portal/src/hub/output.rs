//! What the hub wants done, in order.

use std::collections::VecDeque;
use std::time::Instant;

use connlib_portal_api::channel::Frame;
use connlib_portal_api::messages::client::{self, ClientRole};
use connlib_portal_api::messages::gateway::{self, GatewayRole};
use connlib_portal_api::messages::{Message, Role};

use super::ConnectionId;
use crate::store::Change;

/// What the hub wants done next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Output {
    /// Write this text frame.
    Send {
        /// To whom.
        to: ConnectionId,
        /// The frame.
        text: String,
    },
    /// Find out whether the other end still answers: a WebSocket ping.
    Ping(ConnectionId),
    /// Write what is queued, then end the connection. The hub has forgotten it already.
    Close {
        /// Which one.
        connection: ConnectionId,
        /// Why.
        reason: CloseReason,
    },
    /// Write this down so that it lasts. Comes before the messages that rely on it.
    Persist(Change),
    /// Nothing else is queued. Call `handle_timeout` then, if anything is due at all.
    Timeout(Option<Instant>),
}

/// Why the hub ended a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum CloseReason {
    /// The token has expired or was revoked, or the policy no longer knows its owner.
    TokenEnded,
    /// The same device has connected anew.
    Replaced,
    /// It did not join in time.
    NotJoined,
    /// No heartbeat came.
    Silent,
    /// It left, or its join was refused.
    Left,
    /// The portal stops.
    Shutdown,
}

/// The queue of outputs.
#[derive(Debug, Default)]
pub(super) struct Outbox(VecDeque<Output>);

impl Outbox {
    pub(super) fn pop(&mut self) -> Option<Output> {
        self.0.pop_front()
    }

    pub(super) fn frame(&mut self, to: ConnectionId, frame: &Frame) {
        self.0.push_back(Output::Send { to, text: frame.to_text() });
    }

    pub(super) fn client(&mut self, to: ConnectionId, message: &client::FromPortal) {
        self.message(to, ClientRole::TOPIC, message);
    }

    pub(super) fn gateway(&mut self, to: ConnectionId, message: &gateway::FromPortal) {
        self.message(to, GatewayRole::TOPIC, message);
    }

    pub(super) fn message<M: Message>(
        &mut self,
        to: ConnectionId,
        topic: &'static str,
        message: &M,
    ) {
        self.frame(to, &Frame::message(topic, message, None));
    }

    pub(super) fn ping(&mut self, to: ConnectionId) {
        self.0.push_back(Output::Ping(to));
    }

    pub(super) fn close(&mut self, connection: ConnectionId, reason: CloseReason) {
        self.0.push_back(Output::Close { connection, reason });
    }

    pub(super) fn persist(&mut self, change: Change) {
        self.0.push_back(Output::Persist(change));
    }
}
