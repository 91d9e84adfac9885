//! The Linux gateway.
#![forbid(unsafe_code)]

mod options;

use std::process::ExitCode;

use clap::Parser;
use connlib::gateway::{self, Event};
use connlib_daemon::Health;

use crate::options::Options;

fn main() -> ExitCode {
    let options = Options::parse();
    connlib_daemon::run(
        &options.process,
        || options.settings(),
        async |settings, commands, health| {
            gateway::run(settings, commands, |event| report(event, &health)).await
        },
    )
}

fn report(event: Event, health: &Health) {
    match event {
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
        Event::Ended(counters) => connlib_daemon::log_counters(&counters),
    }
}
