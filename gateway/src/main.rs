//! The Linux gateway.
#![forbid(unsafe_code)]

mod options;

use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::Parser;
use connlib::gateway::{self, Event};
use connlib::{Command, SessionError};
use connlib_daemon::{Exit, Health, HealthServer, Signal, Signals, check_network_admin};
use tokio::sync::mpsc::Sender;

use crate::options::Options;

fn main() -> ExitCode {
    let options = Options::parse();
    if let Err(error) = connlib_daemon::init_logs(options.log_format, &options.log_filter) {
        eprintln!("connlib-gateway: {error:#}");
        return Exit::Unusable.into();
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let result = runtime
        .context("cannot start the event loop")
        .and_then(|runtime| runtime.block_on(run(&options)));
    match result {
        Ok(()) => Exit::Ok.into(),
        Err(error) => {
            tracing::error!("{error:#}");
            exit_for(&error).into()
        }
    }
}

async fn run(options: &Options) -> Result<()> {
    // What is wrong with the machine or the configuration shows before anything is touched.
    let settings = options.settings().context(Exit::Unusable)?;
    check_network_admin().context(Exit::Unusable)?;
    let health = Health::default();
    if let Some(address) = options.health_listen {
        let server = HealthServer::bind(address, health.clone()).await.context(Exit::Unusable)?;
        tokio::spawn(server.serve());
    }
    let (sender, commands) = connlib::commands();
    let signals = Signals::new().context("cannot take over signals")?;
    tokio::spawn(obey(signals, sender));

    let report = move |event| match event {
        Event::Ready => {
            tracing::info!("ready");
            health.set_ready(true);
            connlib_daemon::notify_ready("signed in");
        }
        // The start is over all the same: only time can help.
        Event::PortalLost => {
            health.set_ready(false);
            connlib_daemon::notify_ready("the portal is away, trying again");
        }
        Event::Ended(stats) => tracing::debug!(?stats, "what the kernel did not take"),
    };
    gateway::run(settings, commands, report).await?;
    Ok(())
}

async fn obey(mut signals: Signals, commands: Sender<Command>) {
    loop {
        let command = match signals.next().await {
            Signal::Stop => {
                connlib_daemon::notify_stopping();
                Command::Stop
            }
            Signal::Reload => Command::Reset,
        };
        if commands.send(command).await.is_err() {
            return;
        }
    }
}

fn exit_for(error: &anyhow::Error) -> Exit {
    if let Some(exit) = error.downcast_ref::<Exit>() {
        return *exit;
    }
    match error.downcast_ref::<SessionError>() {
        Some(error) if error.requires_sign_in() => Exit::SignInRequired,
        Some(SessionError::Config(_) | SessionError::Tun(_)) => Exit::Unusable,
        _ => Exit::Failure,
    }
}
