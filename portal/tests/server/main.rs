//! The real binary over loopback.
// The lints know a test by its attribute; what tests share has none.
#![allow(clippy::panic, clippy::unwrap_used)]

mod command_line;
mod lifecycle;
mod peer;
mod program;
mod recorded_session;
mod refusals;
