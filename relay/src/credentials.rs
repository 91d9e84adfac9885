//! Who may allocate: secrets and users from files, or a secret that only the portal learns.

use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use connlib_daemon::read_guarded;
use connlib_portal_api::Secret;
use connlib_relay::server::{Credentials, PerUser, User};

use crate::options::CredentialOptions;

/// A shorter secret can be guessed: whoever has a username and its password can try as many as they like.
const SHORTEST_SECRET: usize = 16;
/// A longer file is refused.
const LONGEST_FILE: u64 = 16 << 20;

/// What the options say, and what the portal is to be told if there is one.
pub(crate) fn load(
    options: &CredentialOptions,
    has_portal: bool,
) -> Result<(Credentials, Option<Secret>)> {
    let mut credentials = Credentials::default();
    if let Some(file) = &options.static_secret_file {
        let text = read("secret", file)?;
        credentials.stamp_secrets =
            secrets(&text).with_context(|| format!("in {}", file.display()))?;
    }
    if let Some(file) = &options.user_file {
        let text = read("user", file)?;
        credentials.users = users(&text).with_context(|| format!("in {}", file.display()))?;
    }
    if !has_portal {
        // Browsers allocate once per interface, and a service may hand out one username to many.
        credentials.per_stamped_user = PerUser::Limited;
        // Services that know of WebRTC make passwords another way.
        credentials.rest_secrets = credentials.stamp_secrets.clone();
        return Ok((credentials, None));
    }
    if credentials.stamp_secrets.is_empty() {
        credentials.stamp_secrets.push(random_secret()?);
    }
    let for_portal = credentials.stamp_secrets.first().map(Secret::new);
    Ok((credentials, for_portal))
}

/// 32 random bytes in hex.
fn random_secret() -> Result<String> {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes).context("the system gives no random numbers")?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

fn read(what: &str, file: &Path) -> Result<String> {
    let bytes = read_guarded(what, file, LONGEST_FILE)?;
    ensure!(bytes.len() as u64 <= LONGEST_FILE, "{what} file {} is too long", file.display());
    String::from_utf8(bytes).with_context(|| format!("{what} file {} is not UTF-8", file.display()))
}

/// The lines that are neither empty nor comments, and their numbers.
fn lines(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let numbered = text.lines().enumerate().map(|(index, line)| (index + 1, line.trim()));
    numbered.filter(|(_, line)| !line.is_empty() && !line.starts_with('#'))
}

fn secrets(text: &str) -> Result<Vec<String>> {
    let mut secrets = Vec::new();
    for (number, line) in lines(text) {
        ensure!(
            line.len() >= SHORTEST_SECRET,
            "the secret in line {number} is shorter than {SHORTEST_SECRET} bytes and could be guessed: put another one \
             there, such as `openssl rand -hex 32` makes, and in the service that shares it"
        );
        secrets.push(line.to_owned());
    }
    ensure!(
        !secrets.is_empty(),
        "there is no secret: put one there, such as `openssl rand -hex 32` makes"
    );
    Ok(secrets)
}

fn users(text: &str) -> Result<Vec<User>> {
    let mut users: Vec<User> = Vec::new();
    let mut names = std::collections::HashSet::new();
    for (number, line) in lines(text) {
        let user = line
            .split_once(':')
            .filter(|(name, password)| !name.is_empty() && !password.is_empty());
        let Some((name, password)) = user else {
            bail!("line {number} is not of the form `name:password`");
        };
        ensure!(names.insert(name), "line {number} names a user again");
        users.push(User { name: name.to_owned(), password: password.to_owned() });
    }
    ensure!(!users.is_empty(), "there is no user: write `name:password` on a line");
    Ok(users)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_are_read_line_by_line() {
        let users = users("# for tests\n\nanna:pass:word\r\n bert:x\n").unwrap();
        let pairs: Vec<_> = users.iter().map(|user| (&*user.name, &*user.password)).collect();
        assert_eq!(pairs, [("anna", "pass:word"), ("bert", "x")]);
    }

    #[test]
    fn a_wrong_line_is_named_but_not_shown() {
        for (text, problem) in [
            ("a:b\nsecret", "line 2"),
            ("a:", "line 1"),
            (":b", "line 1"),
            ("a:secret\na:c", "line 2"),
            ("# none", "no user"),
        ] {
            let error = users(text).unwrap_err().to_string();
            assert!(error.contains(problem) && !error.contains("secret"), "{error}");
        }
    }

    #[test]
    fn a_secret_that_can_be_guessed_is_refused_and_not_shown() {
        let read = secrets("# two\n0123456789abcdef\n\na secret of the service\n").unwrap();
        assert_eq!(read, ["0123456789abcdef", "a secret of the service"]);
        for (text, problem) in
            [("0123456789abcdef\n0123456789horse\n", "line 2"), ("# none", "no secret")]
        {
            let error = secrets(text).unwrap_err().to_string();
            assert!(error.contains(problem) && error.contains("openssl rand -hex 32"), "{error}");
            assert!(!error.contains("horse"), "{error}");
        }
    }

    #[test]
    fn each_start_has_another_secret() {
        let secret = random_secret().unwrap();
        assert_eq!(secret.len(), 64);
        assert_ne!(secret, random_secret().unwrap());
    }
}
