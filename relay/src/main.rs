//! The TURN relay.
//!
//! The main thread looks after the process ([`run`]): portal, signals, health and metrics. The [`worker`] threads relay,
//! each with sockets ([`udp`], [`streams`]) and a state machine ([`connlib_relay::server`]) of its own.
#![forbid(unsafe_code)]

mod credentials;
mod fast_path;
mod machine;
mod metrics;
mod options;
mod outbox;
mod portal;
mod run;
mod sockets;
mod streams;
mod udp;
mod worker;

use std::process::ExitCode;

use connlib_daemon::{Exit, Failure};

use crate::options::Options;

fn main() -> ExitCode {
    let options = Options::read();
    if let Err(error) = options.process.init_logs() {
        eprintln!("error: {error:#}");
        return Exit::Unusable.into();
    }
    match run::run(&options) {
        Ok(()) => Exit::Asked.into(),
        Err(Failure { exit, error }) => {
            tracing::error!("{error:#}");
            exit.into()
        }
    }
}
