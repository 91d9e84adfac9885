//! The user agent is part of the protocol: the portal reads operating system and version out of it.

use std::fmt;
use std::str::FromStr;

/// `{os}/{os version} {component}/{component version} ({arch}[; {kernel}])`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UserAgent {
    /// Operating system or distribution: `Debian`, `Android`, `iOS`.
    pub os: String,
    /// Its version: `12.0.0`.
    pub os_version: String,
    /// What runs: `gateway`, `headless-client`, `android-client`, …
    pub component: String,
    /// Its version. The portal refuses versions that are too far from the other side's.
    pub version: String,
    /// The processor: `x86_64`.
    pub arch: String,
    /// The version of the kernel.
    pub kernel: Option<String>,
}

/// Not a user agent of the portal's grammar.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the user agent must read `os/version component/version (arch)`")]
pub struct InvalidUserAgent;

impl UserAgent {
    /// The user agent of this component on this machine. Reads `/etc/os-release` and the kernel's version
    /// where there are such files.
    pub fn of_this_machine(component: &str, version: &str) -> Self {
        let release = std::fs::read_to_string("/etc/os-release").unwrap_or_default();
        let (os, os_version) = parse_os_release(&release);
        let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").ok();
        Self {
            os: os.unwrap_or_else(|| std::env::consts::OS.to_owned()),
            os_version: os_version.unwrap_or_else(|| "0.0.0".to_owned()),
            component: component.to_owned(),
            version: version.to_owned(),
            arch: std::env::consts::ARCH.to_owned(),
            kernel: kernel.map(|kernel| kernel.trim().to_owned()),
        }
    }
}

/// Name in one word (`Debian GNU/Linux` is `Debian`) and version with three numbers.
fn parse_os_release(text: &str) -> (Option<String>, Option<String>) {
    let field = |name: &str| {
        let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='))?;
        Some(value.trim_matches(['"', '\'']).to_owned()).filter(|value| !value.is_empty())
    };
    let name = field("NAME").and_then(|name| Some(name.split_whitespace().next()?.to_owned()));
    let version = field("VERSION_ID").map(|version| {
        let missing = 2_usize.saturating_sub(version.matches('.').count());
        version + &".0".repeat(missing)
    });
    (name, version)
}

/// Only visible ASCII; what would end a part is left out.
fn word(text: &str) -> String {
    text.chars().filter(|c| c.is_ascii_graphic() && !"/();".contains(*c)).collect()
}

impl fmt::Display for UserAgent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [os, os_version, component, version, arch] =
            [&self.os, &self.os_version, &self.component, &self.version, &self.arch]
                .map(|s| word(s));
        write!(f, "{os}/{os_version} {component}/{version} ({arch}")?;
        if let Some(kernel) = &self.kernel {
            write!(f, "; {}", word(kernel))?;
        }
        f.write_str(")")
    }
}

impl FromStr for UserAgent {
    type Err = InvalidUserAgent;

    /// Reads what [`fmt::Display`] writes; the operating system may have several words.
    fn from_str(text: &str) -> Result<Self, InvalidUserAgent> {
        let parse = || {
            let (products, details) = text.trim().strip_suffix(')')?.split_once(" (")?;
            let (os, component) = products.rsplit_once(' ')?;
            let (os, os_version) = os.rsplit_once('/')?;
            let (component, version) = component.split_once('/')?;
            let (arch, kernel) = match details.split_once("; ") {
                Some((arch, kernel)) => (arch, Some(kernel.to_owned())),
                None => (details, None),
            };
            let [os, os_version, component, version, arch] =
                [os, os_version, component, version, arch].map(str::to_owned);
            let named = [&os, &os_version, &component, &version].iter().all(|s| !s.is_empty());
            named.then_some(Self { os, os_version, component, version, arch, kernel })
        };
        parse().ok_or(InvalidUserAgent)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_recorded_user_agent_is_read_and_written() {
        let text = "Debian/12.0.0 headless-client/1.5.12 (x86_64; 6.18.44-fc-v595)";
        let agent: UserAgent = text.parse().unwrap();
        assert_eq!((agent.os.as_str(), agent.version.as_str()), ("Debian", "1.5.12"));
        assert_eq!(agent.kernel.as_deref(), Some("6.18.44-fc-v595"));
        assert_eq!(agent.to_string(), text);
    }

    #[test]
    fn several_words_and_no_kernel_are_read() {
        let agent: UserAgent = "Mac OS/14.1 apple-client/1.2.3 (arm64)".parse().unwrap();
        assert_eq!((agent.os.as_str(), agent.kernel), ("Mac OS", None));
    }

    #[test]
    fn other_texts_are_refused() {
        for text in ["", "curl/8.1", "a b (c)", "a/1 b/ (c)", "Linux/1 x/2", ")", " ()"] {
            assert_eq!(text.parse::<UserAgent>(), Err(InvalidUserAgent), "{text}");
        }
    }

    #[test]
    fn no_value_breaks_the_header_or_the_grammar() {
        let mut agent = UserAgent::of_this_machine("gateway", "0.1.0");
        agent.os = "Bücher (beta)\r\nX: y/".to_owned();
        let text = agent.to_string();
        assert!(text.starts_with("BcherbetaX:y/"), "{text}");
        assert_eq!(
            text.parse::<UserAgent>().map(|agent| agent.component),
            Ok("gateway".to_owned())
        );
    }

    #[test]
    fn versions_get_three_numbers() {
        let debian = "PRETTY_NAME=\"Debian\"\nNAME=\"Debian GNU/Linux\"\nVERSION_ID=\"12\"\n";
        assert_eq!(parse_os_release(debian), (Some("Debian".into()), Some("12.0.0".into())));
        let ubuntu = "NAME=Ubuntu\nVERSION_ID=24.04";
        assert_eq!(parse_os_release(ubuntu), (Some("Ubuntu".into()), Some("24.04.0".into())));
        assert_eq!(parse_os_release("NAME=\"\"\nNAMESPACE=x"), (None, None));
    }
}
