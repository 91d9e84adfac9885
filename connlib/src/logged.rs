//! Errors that are worth a line in the log but not the session.

use std::fmt::Display;

/// Says once at INFO what went wrong and goes on.
pub(crate) trait Logged<T> {
    /// The value, or `None` after a line in the log.
    fn logged(self, context: &'static str) -> Option<T>;
}

impl<T, E: Display> Logged<T> for Result<T, E> {
    fn logged(self, context: &'static str) -> Option<T> {
        self.inspect_err(|error| tracing::info!(%error, "{context}")).ok()
    }
}
