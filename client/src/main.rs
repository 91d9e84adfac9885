//! The headless Linux client.
#![forbid(unsafe_code)]

mod options;

use std::process::ExitCode;

use anyhow::Context;
use clap::Parser;
use connlib::client::{self, Event};
use connlib::{Command, SessionError};
use connlib_daemon::{Exit, Failure, Health, HealthServer, Signal, Signals, check_network_admin};
use tokio::sync::mpsc::Sender;

use crate::options::Options;

fn main() -> ExitCode {
    let options = Options::parse();
    if let Err(error) = connlib_daemon::init_logs(options.log_format, &options.log_filter) {
        eprintln!("connlib-client: {error:#}");
        return Exit::Unusable.into();
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let result = runtime
        .context("cannot start the event loop")
        .map_err(Failure::from)
        .and_then(|runtime| runtime.block_on(run(&options)));
    match result {
        Ok(()) => Exit::Asked.into(),
        Err(Failure { exit, error }) => {
            tracing::error!("{error:#}");
            exit.into()
        }
    }
}

async fn run(options: &Options) -> Result<(), Failure> {
    // What is wrong with the machine or the configuration shows before anything is touched.
    let settings = options.settings().map_err(Failure::unusable)?;
    check_network_admin().map_err(Failure::unusable)?;
    let health = Health::default();
    if let Some(address) = options.health_listen {
        let server =
            HealthServer::bind(address, health.clone()).await.map_err(Failure::unusable)?;
        tokio::spawn(server.serve());
    }
    let (sender, commands) = connlib::commands();
    let signals = Signals::new().context("cannot take over signals")?;
    tokio::spawn(obey(signals, sender));

    let report = move |event| match event {
        Event::SignedIn => connlib_daemon::notify_status("signed in"),
        Event::Ready => {
            tracing::info!("ready");
            health.set_ready(true);
            connlib_daemon::notify_ready("signed in");
        }
        Event::Resources(resources) => {
            tracing::info!(count = resources.len(), "resources");
            for state in resources {
                tracing::debug!(name = state.resource.name, status = ?state.status, "resource");
            }
        }
        // What is connected goes on without the portal, and a start is over all the same: only time can help.
        Event::PortalLost => connlib_daemon::notify_ready("the portal is away, trying again"),
        Event::Ended(stats) => tracing::debug!(?stats, "what the kernel did not take"),
    };
    client::run(settings, commands, report).await.map_err(failure)
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

fn failure(error: SessionError) -> Failure {
    let exit = if error.requires_sign_in() {
        Exit::SignInRequired
    } else if error.requires_administrator() {
        Exit::Unusable
    } else {
        Exit::Failure
    };
    Failure { exit, error: error.into() }
}
