//! The policy file of a running portal: read at the start, and again when it changes.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail, ensure};

use super::portal::Portal;
use crate::policy::{self, Diagnostic, Policy, Rejected};

/// A file beyond this is no policy.
const MAX_SIZE: u64 = 16 << 20;

/// The file and what was read last.
#[derive(Debug)]
pub(super) struct PolicyFile {
    path: PathBuf,
    text: String,
}

impl PolicyFile {
    /// Reads the file for the first time.
    pub(super) fn open(path: &Path) -> anyhow::Result<(Self, Policy)> {
        let text = read(path)?;
        match policy::parse(&text) {
            Ok((policy, warnings)) => {
                hint(path, &warnings);
                Ok((Self { path: path.to_owned(), text }, policy))
            }
            Err(Rejected(errors)) => {
                let lines: Vec<_> =
                    errors.iter().map(|error| format!("{}:{error}", path.display())).collect();
                bail!("the policy file is wrong:\n{}", lines.join("\n"));
            }
        }
    }

    /// Reads it again and applies what changed, as a whole or not at all. Unless it is forced, a
    /// text that was seen before is not looked at again.
    pub(super) fn reload(&mut self, portal: &Portal, forced: bool) {
        let path = self.path.display();
        let text = match read(&self.path) {
            Ok(text) => text,
            Err(error) => {
                tracing::warn!("{error:#}; the policy stays as it is");
                return;
            }
        };
        if text == self.text && !forced {
            return;
        }
        self.text = text;
        match policy::parse(&self.text) {
            Ok((policy, warnings)) => {
                hint(&self.path, &warnings);
                portal.set_policy(policy);
                tracing::info!(%path, "policy applied");
            }
            Err(Rejected(errors)) => {
                for Diagnostic { line, column, message, .. } in errors {
                    tracing::warn!(%path, line, column, "policy refused: {message}");
                }
            }
        }
    }
}

/// Reads a policy file.
///
/// # Errors
/// If it cannot be read, is too large or not UTF-8.
pub(crate) fn read(path: &Path) -> anyhow::Result<String> {
    let what = || format!("cannot read the policy file {}", path.display());
    let size = std::fs::metadata(path).with_context(what)?.len();
    ensure!(size <= MAX_SIZE, "the policy file {} is larger than {MAX_SIZE} bytes", path.display());
    std::fs::read_to_string(path).with_context(what)
}

fn hint(path: &Path, warnings: &[Diagnostic]) {
    for Diagnostic { line, column, message, .. } in warnings {
        tracing::info!(path = %path.display(), line, column, "policy: {message}");
    }
}
