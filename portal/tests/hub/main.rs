//! The portal's state machine under virtual time, without sockets.

mod authorization;
mod lab;
mod presence;
mod relays;
mod restarts;
mod revocation;
