use std::fmt;
use std::str::FromStr;

/// The longest name that DNS has (RFC 1035 §2.3.4).
const MAX_LEN: usize = 253;

/// A domain name that can safely stand in a configuration file and on a command line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SearchDomain(String);

/// A search domain that is not a domain name.
#[derive(Debug, thiserror::Error)]
#[error("not a domain name that can be searched")]
pub struct InvalidSearchDomain;

impl SearchDomain {
    /// The name, without a dot at its end.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for SearchDomain {
    type Err = InvalidSearchDomain;

    fn from_str(name: &str) -> Result<Self, InvalidSearchDomain> {
        let name = name.strip_suffix('.').unwrap_or(name);
        let is_label = |label: &str| {
            (1..=63).contains(&label.len())
                && !label.starts_with('-')
                && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
        };
        if name.len() <= MAX_LEN && name.split('.').all(is_label) {
            Ok(Self(name.to_owned()))
        } else {
            Err(InvalidSearchDomain)
        }
    }
}

impl fmt::Display for SearchDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_are_accepted() {
        for name in ["example.com", "example.com.", "_x.a-b.example", "corp"] {
            assert!(name.parse::<SearchDomain>().is_ok(), "{name}");
        }
        let long = "a.".repeat(128);
        for name in [
            "",
            ".",
            "a..b",
            "a b",
            "a\nnameserver 192.0.2.1",
            "--help",
            "-x.example",
            "~.",
            "ü.de",
            long.as_str(),
        ] {
            assert!(name.parse::<SearchDomain>().is_err(), "{name:?}");
        }
    }
}
