//! What the Linux binaries share: token, identity, logs, health, signals.
#![forbid(unsafe_code)]

mod health;
mod identity;
mod logs;
mod privileges;
mod signals;
mod status;
mod token;

pub use health::{Health, HealthServer};
pub use identity::{device_name, external_id};
pub use logs::{LogFormat, init_logs};
pub use privileges::check_network_admin;
pub use signals::{Signal, Signals};
pub use status::{Exit, Failure, notify_ready, notify_status, notify_stopping};
pub use token::{Token, TokenSource};
