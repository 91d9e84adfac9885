//! What the server does for its clients, and doesn't for others. Requests are built and responses read by a codec that
//! isn't ours.
#![allow(clippy::unwrap_used, clippy::panic)]

mod allocations;
mod another_client;
mod credentials;
mod data;
mod hostile;
mod limits;
mod peers;
mod recording;
mod strangers;
mod support;
