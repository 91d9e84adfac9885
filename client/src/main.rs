//! The headless Linux client.
#![forbid(unsafe_code)]

mod options;

use std::process::ExitCode;

use clap::Parser;
use connlib::client::{self, Event};
use connlib_daemon::Health;

use crate::options::Options;

fn main() -> ExitCode {
    let options = Options::parse();
    connlib_daemon::run(
        &options.process,
        || options.settings(),
        async |settings, commands, health| {
            client::run(settings, commands, |event| report(event, &health)).await
        },
    )
}

fn report(event: Event, health: &Health) {
    match event {
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
        Event::Ended(counters) => connlib_daemon::log_counters(&counters),
    }
}
