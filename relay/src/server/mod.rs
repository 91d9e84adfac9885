//! The protocol, without sockets and clocks.
