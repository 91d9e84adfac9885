//! From the command line to the exit status.

use std::process::ExitCode;

use anyhow::{Context, Result};
use connlib::{Command, Commands, Counters, IoStats, SessionError};
use tokio::sync::mpsc::Sender;

use crate::health::{Health, HealthServer};
use crate::options::ProcessOptions;
use crate::privileges::check_network_admin;
use crate::signals::{Signal, Signals};
use crate::status::{Exit, Failure, notify_stopping};

/// Runs a session until it is stopped by a signal or cannot go on: the whole of `main` once the command line is read.
///
/// What is wrong with the settings or the machine shows before the session begins.
pub fn run<S>(
    options: &ProcessOptions,
    settings: impl FnOnce() -> Result<S>,
    session: impl AsyncFnOnce(S, Commands, Health) -> Result<(), SessionError>,
) -> ExitCode {
    if let Err(error) = options.init_logs() {
        eprintln!("error: {error:#}");
        return Exit::Unusable.into();
    }
    match block_on(options, settings, session) {
        Ok(()) => Exit::Asked.into(),
        Err(Failure { exit, error }) => {
            tracing::error!("{error:#}");
            exit.into()
        }
    }
}

/// Logs what a session has carried and dropped.
pub fn log_counters(counters: &Counters) {
    let Counters { tunnel, io } = counters;
    let IoStats { malformed, not_delivered, not_sent } = *io;
    tracing::debug!(tunnel.packets_in, tunnel.packets_out, "carried");
    tracing::debug!(malformed, not_delivered, not_sent, "lost between the kernel and us");
    for (reason, count) in tunnel.drops() {
        tracing::debug!(?reason, count, "dropped");
    }
}

fn block_on<S>(
    options: &ProcessOptions,
    settings: impl FnOnce() -> Result<S>,
    session: impl AsyncFnOnce(S, Commands, Health) -> Result<(), SessionError>,
) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the event loop")?;
    runtime.block_on(async {
        let settings = settings().map_err(Failure::unusable)?;
        check_network_admin().map_err(Failure::unusable)?;
        let health = Health::default();
        if let Some(address) = options.health_listen {
            let server = HealthServer::bind(address, health.clone()).await;
            tokio::spawn(server.map_err(Failure::unusable)?.serve());
        }
        let (sender, commands) = connlib::commands();
        let signals = Signals::new().context("cannot take over signals")?;
        tokio::spawn(obey(signals, sender));
        Ok(session(settings, commands, health).await?)
    })
}

async fn obey(mut signals: Signals, commands: Sender<Command>) {
    loop {
        let command = match signals.next().await {
            Signal::Stop => {
                notify_stopping();
                Command::Stop
            }
            Signal::Reload => Command::Reset,
        };
        if commands.send(command).await.is_err() {
            return;
        }
    }
}
