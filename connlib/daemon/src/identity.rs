//! Who this machine is to the portal.

use std::fs;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use anyhow::{Context, Result};
use connlib_portal_api::credentials;
use hmac::{Hmac, Mac};
use sha2::{Digest, Sha256};
use uuid::Uuid;

/// The name people know this machine by: what was asked for, or the host name.
pub(crate) fn device_name(asked_for: Option<&str>) -> String {
    asked_for
        .map(str::to_owned)
        .or_else(|| nix::unistd::gethostname().ok()?.into_string().ok())
        .filter(|name| !name.is_empty())
        .unwrap_or_else(|| "unnamed".to_owned())
}

/// The id that makes this the same device at every start. In this order: what was asked for; a file `id` in
/// `state_directory`; the machine's id, hashed with `application` so that it cannot be linked to it; a random one,
/// which is then kept in the file.
///
/// An id that is a UUID is sent as its SHA-256, as the portal expects it.
pub(crate) fn external_id(
    asked_for: Option<&str>,
    state_directory: &Path,
    application: &str,
) -> Result<String> {
    let id = match asked_for {
        Some(id) => id.trim().to_owned(),
        None => own_id(state_directory, application)?,
    };
    Ok(credentials::external_id(&id))
}

fn own_id(state_directory: &Path, application: &str) -> Result<String> {
    let file = state_directory.join("id");
    if let Ok(id) = fs::read_to_string(&file) {
        let id = id.trim();
        if !id.is_empty() {
            return Ok(id.to_owned());
        }
    }
    if let Some(id) = machine_id() {
        let mut mac = Hmac::<Sha256>::new_from_slice(application.as_bytes())
            .context("any key length is good for HMAC")?;
        mac.update(id.as_bytes());
        return Ok(hex(&mac.finalize().into_bytes()));
    }
    let id = hex(&Sha256::digest(Uuid::new_v4().as_bytes()));
    fs::create_dir_all(state_directory)
        .and_then(|()| {
            let mut options = fs::OpenOptions::new();
            options.write(true).create(true).truncate(true).mode(0o600).open(&file)
        })
        .and_then(|mut opened| opened.write_all(id.as_bytes()))
        .with_context(|| {
            format!(
                "this machine has no /etc/machine-id, and {} cannot be written to keep an id of our own: \
                 make it writable or pass --id",
                file.display()
            )
        })?;
    Ok(id)
}

fn machine_id() -> Option<String> {
    let id = fs::read_to_string("/etc/machine-id").ok()?;
    let id = id.trim();
    (id.len() == 32 && id.bytes().all(|b| b.is_ascii_hexdigit())).then(|| id.to_owned())
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut text, byte| {
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_that_is_no_uuid_is_sent_as_it_is() {
        let nowhere = Path::new("/nonexistent");
        assert_eq!(external_id(Some("gw-1\n"), nowhere, "x").unwrap(), "gw-1");
    }

    #[test]
    fn a_uuid_is_hashed() {
        let id = external_id(Some("f0044ae1-d86b-4afd-bb80-412e72b09b43"), Path::new("/"), "x");
        assert_eq!(id.unwrap().len(), 64);
    }

    #[test]
    fn the_file_wins_over_the_machine() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("id"), "kept\n").unwrap();
        assert_eq!(external_id(None, dir.path(), "x").unwrap(), "kept");
    }
}
