//! Errors in the log.

use std::error::Error;
use std::fmt;

/// Says once at INFO what went wrong and goes on.
pub(crate) trait Logged<T> {
    /// The value, or `None` after a line in the log.
    fn logged(self, context: &'static str) -> Option<T>;
}

impl<T, E: Error> Logged<T> for Result<T, E> {
    fn logged(self, context: &'static str) -> Option<T> {
        self.inspect_err(|error| tracing::info!(error = %Chain(error), "{context}")).ok()
    }
}

/// An error with its reasons, in one line.
pub(crate) struct Chain<'a>(pub(crate) &'a dyn Error);

impl fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)?;
        let mut source = self.0.source();
        while let Some(error) = source {
            write!(f, ": {error}")?;
            source = error.source();
        }
        Ok(())
    }
}
