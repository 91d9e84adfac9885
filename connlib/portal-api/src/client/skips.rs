//! What we do not understand of the portal is logged once.

use std::collections::HashSet;

use crate::channel::InvalidFrame;
use crate::messages::{DecodeError, Message};

/// The most kinds that are told apart; what comes beyond is logged at DEBUG alone.
const MAX_KINDS: usize = 64;

/// What has been logged already.
#[derive(Debug, Default)]
pub(super) struct Skips {
    seen: HashSet<(String, Option<String>)>,
}

impl Skips {
    /// A text that is no frame.
    pub(super) fn frame(&mut self, error: &InvalidFrame) {
        if self.is_new("", None) {
            tracing::warn!("Skipped a text of the portal that is no frame");
        }
        let error = std::error::Error::source(error).map(ToString::to_string);
        tracing::debug!(error, "Skipped a text of the portal");
    }

    /// A message that does not decode.
    pub(super) fn message(&mut self, error: &DecodeError) {
        match error {
            DecodeError::UnknownEvent { event } => {
                if self.is_new(event, None) {
                    tracing::info!(event, "Skipped a message of the portal that is new to us");
                }
            }
            DecodeError::Malformed { event, source } => {
                if self.is_new(event, None) {
                    tracing::warn!(event, "Skipped a malformed message of the portal");
                }
                tracing::debug!(event, error = %source, "Skipped a malformed message");
            }
        }
    }

    /// Elements of a message's lists.
    pub(super) fn elements<M: Message>(&mut self, message: &M) {
        let event = message.event();
        for skipped in message.skipped() {
            let kind = skipped.kind.as_deref();
            if self.is_new(event, Some(kind.unwrap_or_default())) {
                tracing::info!(event, kind, "Left out of a message what is malformed or new to us");
            }
            tracing::debug!(event, kind, index = skipped.index, error = skipped.error, "Left out");
        }
    }

    fn is_new(&mut self, event: &str, kind: Option<&str>) -> bool {
        self.seen.len() < MAX_KINDS && self.seen.insert((event.to_owned(), kind.map(str::to_owned)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_is_new_once_and_their_number_is_bounded() {
        let mut skips = Skips::default();
        assert!(skips.is_new("init", None));
        assert!(skips.is_new("init", Some("")));
        assert!(!skips.is_new("init", None));
        let new = (0..1000).filter(|number| skips.is_new(&number.to_string(), None)).count();
        assert_eq!(new, MAX_KINDS - 2);
    }
}
