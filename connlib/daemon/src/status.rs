//! What the service manager learns of us.

use std::fmt;
use std::process::ExitCode;

use sd_notify::NotifyState;

/// How a binary ended; the numbers are part of its interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// It was asked to end.
    Ok,
    /// Something failed; the log's last line says what. A restart may help.
    Failure,
    /// The token is unknown, expired or revoked: a restart cannot help, a new token does.
    SignInRequired,
    /// The configuration or the machine does not allow a start: a restart cannot help.
    Unusable,
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ok => "done",
            Self::Failure => "failed",
            Self::SignInRequired => "a new token is needed",
            Self::Unusable => "cannot start",
        })
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        // 77 and 78 as in sysexits.h: EX_NOPERM and EX_CONFIG.
        Self::from(match exit {
            Exit::Ok => 0,
            Exit::Failure => 1,
            Exit::SignInRequired => 77,
            Exit::Unusable => 78,
        })
    }
}

/// Tells systemd, if it started us, that we have started, and how things stand: `systemctl status` shows it.
pub fn notify_ready(status: &str) {
    notify(&[NotifyState::Ready, NotifyState::Status(status)]);
}

/// Tells systemd, if it started us, how things stand.
pub fn notify_status(status: &str) {
    notify(&[NotifyState::Status(status)]);
}

/// Tells systemd, if it started us, that we are about to end.
pub fn notify_stopping() {
    notify(&[NotifyState::Stopping, NotifyState::Status("stopping")]);
}

fn notify(states: &[NotifyState<'_>]) {
    if let Err(e) = sd_notify::notify(states) {
        tracing::debug!(error = %e, "could not notify the service manager");
    }
}
