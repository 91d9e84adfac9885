//! What the service manager learns of us.

use std::process::ExitCode;

#[cfg(feature = "session")]
use connlib::SessionError;
use sd_notify::NotifyState;

/// How a binary ended; the numbers are part of its interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// It was asked to end.
    Asked,
    /// Something failed; the log's last line says what. A restart may help.
    Failure,
    /// The token is unknown, expired or revoked: a restart cannot help, a new token does.
    SignInRequired,
    /// The configuration or the machine does not allow a start: a restart cannot help.
    Unusable,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        // 77 and 78 as in sysexits.h: EX_NOPERM and EX_CONFIG.
        Self::from(match exit {
            Exit::Asked => 0,
            Exit::Failure => 1,
            Exit::SignInRequired => 77,
            Exit::Unusable => 78,
        })
    }
}

/// Why a binary ends without having been asked to.
#[derive(Debug)]
pub struct Failure {
    /// What its exit status says.
    pub exit: Exit,
    /// What its last words say: what is wrong, and what to do about it.
    pub error: anyhow::Error,
}

impl Failure {
    /// The configuration or the machine does not allow a start.
    pub fn unusable(error: anyhow::Error) -> Self {
        Self { exit: Exit::Unusable, error }
    }
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        Self { exit: Exit::Failure, error }
    }
}

#[cfg(feature = "session")]
impl From<SessionError> for Failure {
    fn from(error: SessionError) -> Self {
        let exit = if error.requires_sign_in() {
            Exit::SignInRequired
        } else if error.requires_administrator() {
            Exit::Unusable
        } else {
            Exit::Failure
        };
        Self { exit, error: error.into() }
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
