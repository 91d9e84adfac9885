//! The portal's state machine under virtual time, without sockets.
// The lints know a test by its attribute; what tests share has none.
#![allow(clippy::panic, clippy::unwrap_used)]

mod authorization;
mod lab;
mod presence;
mod relays;
mod restarts;
mod revocation;
