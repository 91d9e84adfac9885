//! What the Linux programs share: all but the session itself and the options that only one of them has.
//!
//! [`run`] is the way of such a program from its options to its exit status.
#![forbid(unsafe_code)]

mod health;
mod identity;
mod logs;
mod options;
mod privileges;
mod run;
mod signals;
mod status;
mod token;

pub use health::Health;
pub use options::{PortalOptions, ProcessOptions};
pub use run::run;
pub use status::{notify_ready, notify_status};
