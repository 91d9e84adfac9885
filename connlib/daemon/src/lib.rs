//! What the Linux programs share: all but the session itself and the options that only one of them has.
//!
//! `run` is the way of a client or gateway from its options to its exit status; it and `PortalOptions` come with the
//! feature `session`. A program of another shape takes the parts: [`ProcessOptions`], [`TokenSource`], [`HealthServer`],
//! [`Signals`] and [`Exit`].
#![forbid(unsafe_code)]

mod health;
#[cfg(feature = "session")]
mod identity;
mod logs;
mod options;
#[cfg(feature = "session")]
mod portal_options;
#[cfg(feature = "session")]
mod privileges;
#[cfg(feature = "session")]
mod run;
mod signals;
mod status;
mod token;

pub use health::{Health, HealthServer};
pub use options::ProcessOptions;
#[cfg(feature = "session")]
pub use portal_options::PortalOptions;
#[cfg(feature = "session")]
pub use run::{log_counters, run};
pub use signals::{Signal, Signals};
pub use status::{Exit, Failure, notify_ready, notify_status, notify_stopping};
pub use token::{Token, TokenSource, read_guarded};
