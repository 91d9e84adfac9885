//! Relay and portal: the relay's presence is all the information.

use serde::{Deserialize, Serialize};

use super::{Role, messages};
use crate::Secret;

/// A TURN relay.
#[derive(Debug, Clone, Copy)]
pub enum RelayRole {}

impl Role for RelayRole {
    const TOPIC: &'static str = "relay";
    const PATH: &'static str = "/relay/websocket";
    type Join = Join;
    type FromPortal = FromPortal;
    type ToPortal = ToPortal;
}

/// What a relay says when it joins.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Join {
    /// 32 random bytes in hex, made when the relay starts. The portal makes credentials with it.
    pub stamp_secret: Secret,
}

messages! {
    /// What the portal tells a relay.
    pub enum FromPortal {
        /// The portal knows the relay from now on.
        Init = "init",
    }
}

messages! {
    /// What a relay tells the portal: nothing.
    pub enum ToPortal {}
}
