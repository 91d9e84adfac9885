//! The token that the portal knows us by.

use std::fmt;
use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};

/// A longer file is not a token.
const MAX_LEN: u64 = 16 * 1024;

/// A secret. Its `Debug` does not show it.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(String);

impl Token {
    /// The secret itself.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(..)")
    }
}

/// Where a token may be found, in order of precedence. Never the command line: every user of the machine can read it.
#[derive(Debug, Clone)]
pub struct TokenSource {
    /// A file, if one was named.
    pub file: Option<PathBuf>,
    /// Name of a systemd credential (systemd.exec(5), `LoadCredential=`).
    pub credential: String,
    /// Name of an environment variable.
    pub variable: &'static str,
    /// The file to look at when nothing else is there.
    pub default_file: PathBuf,
}

impl TokenSource {
    /// Finds the token.
    ///
    /// # Errors
    /// If there is none, or it is not usable: what to do about it is said.
    pub fn load(&self) -> Result<Token> {
        if let Some(file) = &self.file {
            return read(file, Guard::OwnerOnly);
        }
        if let Some(directory) = std::env::var_os("CREDENTIALS_DIRECTORY") {
            let file = Path::new(&directory).join(&self.credential);
            if file.exists() {
                // systemd guards its credentials by itself.
                return read(&file, Guard::Nobody);
            }
        }
        if let Some(token) = std::env::var_os(self.variable) {
            let shown = format!("{} in the environment", self.variable);
            return parse(token.as_encoded_bytes(), &shown);
        }
        if self.default_file.exists() {
            return read(&self.default_file, Guard::OwnerOnly);
        }
        bail!(
            "there is no token: pass --token-file FILE, set {} in the environment, give systemd a credential named {}, \
             or put it into {}",
            self.variable,
            self.credential,
            self.default_file.display()
        )
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Guard {
    OwnerOnly,
    Nobody,
}

fn read(path: &Path, guard: Guard) -> Result<Token> {
    let text = read_file("token", path, MAX_LEN, guard)?;
    parse(&text, &format!("token file {}", path.display()))
}

/// Reads a file with a secret that only its owner may read, up to one byte more than `limit`. `what` names the secret in
/// errors. A systemd credential is guarded by systemd, whatever the bits of its mode are.
///
/// # Errors
/// If the file cannot be read, is no regular file, or others could read or replace it.
pub fn read_guarded(what: &str, path: &Path, limit: u64) -> Result<Vec<u8>> {
    let credentials = std::env::var_os("CREDENTIALS_DIRECTORY");
    let is_credential = credentials.is_some_and(|directory| path.starts_with(directory));
    read_file(what, path, limit, if is_credential { Guard::Nobody } else { Guard::OwnerOnly })
}

fn read_file(what: &str, path: &Path, limit: u64, guard: Guard) -> Result<Vec<u8>> {
    let shown = format!("{what} file {}", path.display());
    let file = File::open(path).with_context(|| {
        let us = nix::unistd::geteuid();
        format!("{shown} cannot be opened: put the {what} there, readable for user {us} alone")
    })?;
    let metadata = file.metadata().with_context(|| shown.clone())?;
    ensure!(metadata.is_file(), "{shown} is not a regular file");
    if guard == Guard::OwnerOnly {
        check_permissions(&metadata, &shown, path)?;
    }
    let mut text = Vec::new();
    file.take(limit + 1)
        .read_to_end(&mut text)
        .with_context(|| format!("{shown} cannot be read"))?;
    Ok(text)
}

fn check_permissions(metadata: &fs::Metadata, shown: &str, path: &Path) -> Result<()> {
    let mode = metadata.mode() & 0o7777;
    let path = path.display();
    ensure!(
        mode & 0o077 == 0,
        "{shown} can be read by others (mode {mode:04o}): run `chmod 600 {path}`"
    );
    let us = nix::unistd::geteuid().as_raw();
    ensure!(
        metadata.uid() == us || metadata.uid() == 0,
        "{shown} belongs to user {}, who could replace it: run `chown {us} {path}`",
        metadata.uid()
    );
    Ok(())
}

/// `shown` says where the text is from.
fn parse(text: &[u8], shown: &str) -> Result<Token> {
    let hint = "put the line there that the portal showed when the token was made";
    ensure!(text.len() as u64 <= MAX_LEN, "{shown} is longer than any token: {hint}");
    let token: Vec<u8> = text.iter().copied().filter(|b| !b.is_ascii_whitespace()).collect();
    ensure!(!token.is_empty(), "{shown} is empty: {hint}");
    let token = String::from_utf8(token).ok();
    match token.filter(|token| token.bytes().all(|b| b.is_ascii_graphic())) {
        Some(token) => Ok(Token(token)),
        None => bail!("{shown} has characters that no token has: {hint}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn source(file: &Path) -> TokenSource {
        TokenSource {
            file: Some(file.to_owned()),
            credential: "token".to_owned(),
            variable: "CONNLIB_TEST_NO_SUCH_VARIABLE",
            default_file: "/nonexistent".into(),
        }
    }

    fn written(text: &[u8], mode: u32) -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("token");
        fs::write(&file, text).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(mode)).unwrap();
        (dir, file)
    }

    #[test]
    fn a_guarded_file_is_read_without_its_line_break() {
        let (_dir, file) = written(b".abc\n", 0o600);
        assert_eq!(source(&file).load().unwrap().expose(), ".abc");
    }

    #[test]
    fn a_file_that_others_can_read_is_refused_with_the_remedy() {
        let (_dir, file) = written(b".abc", 0o640);
        let error = source(&file).load().unwrap_err().to_string();
        assert!(error.contains("chmod 600"), "{error}");
    }

    #[test]
    fn what_is_no_token_is_refused() {
        for (text, problem) in [
            (&b""[..], "is empty"),
            (b" \n", "is empty"),
            (b"\xff\xfe", "characters"),
            (b"a\x01b", "characters"),
            (&[b'a'; 20_000], "longer"),
        ] {
            let (_dir, file) = written(text, 0o600);
            let error = source(&file).load().unwrap_err().to_string();
            assert!(error.contains(problem) && error.contains("the portal showed"), "{error}");
        }
    }

    #[test]
    fn a_token_is_not_shown() {
        assert_eq!(format!("{:?}", parse(b"secret", "x").unwrap()), "Token(..)");
    }
}
