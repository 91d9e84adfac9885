//! TURN over TCP and TLS: listeners, and streams of messages (RFC 8656 §2.1).

mod connection;
mod listener;
mod seats;
mod tls;

pub(crate) use connection::{Connection, Secrecy};
pub(crate) use listener::Listener;
pub(crate) use seats::{Seat, Seats};
pub(crate) use tls::{Certificates, TlsFiles};
