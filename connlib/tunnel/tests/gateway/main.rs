//! A gateway and its clients, whose links are real, on a network in memory.

#![allow(clippy::panic, clippy::unwrap_used)]

mod a_client_reaches_what_it_is_authorized_for;
mod authorizations_end;
mod clients_come_and_go;
mod lab;
mod names_are_resolved_and_translated;
mod whatever_a_client_sends;
