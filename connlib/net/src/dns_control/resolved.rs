use std::ffi::OsStr;
use std::io;
use std::process::Stdio;
use std::time::Duration;

use tokio::process::Command;

use super::Settings;
use super::error::Error;

/// A `resolvectl` that takes longer hangs: its own time limit for D-Bus is 25 s, in which nobody could resolve names.
const TIME_LIMIT: Duration = Duration::from_secs(5);

/// The settings that systemd-resolved has for one interface.
#[derive(Debug)]
pub(super) struct Resolved {
    program: String,
    interface: String,
    in_force: Option<Settings>,
}

impl Resolved {
    pub(super) fn new(interface: &str) -> Self {
        let (program, interface) = ("resolvectl".to_owned(), interface.to_owned());
        Self { program, interface, in_force: None }
    }

    pub(super) async fn set(&mut self, settings: &Settings) -> Result<(), Error> {
        if settings.servers.is_empty() {
            return self.revert().await;
        }
        if self.in_force.as_ref() == Some(settings) {
            return Ok(());
        }
        // Whatever comes of it: the old settings are no longer in force, but something is.
        self.in_force = Some(Settings::default());
        let servers: Vec<String> = settings.servers.iter().map(ToString::to_string).collect();
        // `~.` makes us the ones to ask for all names; a search domain alone would not.
        let search = settings.search_domain.iter().map(|domain| domain.as_str().to_owned());
        let domains: Vec<String> = std::iter::once("~.".to_owned()).chain(search).collect();

        // We have no keys to sign addresses that we make up, and speak no TLS.
        for setting in ["dnssec", "dnsovertls"] {
            if let Err(error) = self.run(setting, ["no"]).await {
                tracing::debug!(%error, "systemd-resolved keeps its own setting");
            }
        }
        self.run("dns", &servers).await?;
        self.run("domain", &domains).await?;
        self.run("default-route", ["yes"]).await?;
        self.flush_caches().await?;
        self.in_force = Some(settings.clone());
        Ok(())
    }

    pub(super) async fn flush_caches(&self) -> Result<(), Error> {
        self.resolvectl("flush-caches", &[] as &[&str]).await
    }

    pub(super) async fn revert(&mut self) -> Result<(), Error> {
        if self.in_force.is_none() {
            return Ok(());
        }
        self.run("revert", [] as [&str; 0]).await?;
        self.in_force = None;
        self.flush_caches().await
    }

    /// Runs a command for our interface.
    async fn run<S: AsRef<OsStr>>(
        &self,
        command: &str,
        values: impl IntoIterator<Item = S>,
    ) -> Result<(), Error> {
        let mut arguments = vec![OsStr::new(&self.interface).to_owned()];
        arguments.extend(values.into_iter().map(|value| value.as_ref().to_owned()));
        self.resolvectl(command, &arguments).await
    }

    async fn resolvectl(
        &self,
        command: &str,
        arguments: &[impl AsRef<OsStr>],
    ) -> Result<(), Error> {
        let failed = |message: String| Error::Resolvectl { command: command.to_owned(), message };
        let mut process = Command::new(&self.program);
        process.arg(command).args(arguments).stdin(Stdio::null()).kill_on_drop(true);
        // What it would tell the service manager is not for ours.
        process.env_remove("NOTIFY_SOCKET");
        let output = match tokio::time::timeout(TIME_LIMIT, process.output()).await {
            Ok(Ok(output)) => output,
            Ok(Err(error)) if error.kind() == io::ErrorKind::NotFound => {
                return Err(Error::NoResolvectl);
            }
            Ok(Err(error)) => return Err(failed(error.to_string())),
            Err(_) => return Err(failed("it did not finish in time".to_owned())),
        };
        if output.status.success() {
            return Ok(());
        }
        Err(failed(String::from_utf8_lossy(&output.stderr).trim().to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    /// A program in the place of `resolvectl`: it writes down its arguments, and fails for the command in `failing`.
    fn stand_in(folder: &Path) -> Resolved {
        let script = "#!/bin/sh\necho \"$@\" >> \"$0.log\"\n\
                      if test \"$1\" = \"$(cat \"$0.failing\")\"; then echo no such link >&2; exit 1; fi\n";
        let path = folder.join("resolvectl");
        // Written by another process: this one forks on several threads, and an open file could not be executed.
        let status = std::process::Command::new("sh")
            .args(["-c", "printf %s \"$1\" > \"$2\" && chmod +x \"$2\"", "sh", script])
            .arg(&path)
            .status();
        assert!(status.unwrap().success());
        std::fs::write(folder.join("resolvectl.failing"), "").unwrap();
        Resolved {
            program: path.to_str().unwrap().to_owned(),
            interface: "tun0".to_owned(),
            in_force: None,
        }
    }

    /// What was run since the last call.
    fn commands(folder: &Path) -> Vec<String> {
        let log = folder.join("resolvectl.log");
        let text = std::fs::read_to_string(&log).unwrap_or_default();
        let _ = std::fs::remove_file(log);
        text.lines().map(str::to_owned).collect()
    }

    fn settings(search_domain: Option<&str>) -> Settings {
        Settings {
            servers: vec!["100.100.111.1".parse().unwrap(), "fd00::1".parse().unwrap()],
            search_domain: search_domain.map(|domain| domain.parse().unwrap()),
        }
    }

    #[tokio::test]
    async fn all_names_come_to_us_with_and_without_a_search_domain() {
        let folder = tempfile::tempdir().unwrap();
        let mut resolved = stand_in(folder.path());
        for (domain, expected) in
            [(None, "domain tun0 ~."), (Some("corp.example"), "domain tun0 ~. corp.example")]
        {
            resolved.set(&settings(domain)).await.unwrap();
            assert_eq!(
                commands(folder.path()),
                [
                    "dnssec tun0 no",
                    "dnsovertls tun0 no",
                    "dns tun0 100.100.111.1 fd00::1",
                    expected,
                    "default-route tun0 yes",
                    "flush-caches",
                ]
            );
            // Again: nothing.
            resolved.set(&settings(domain)).await.unwrap();
            assert_eq!(commands(folder.path()), [] as [&str; 0]);
        }
        resolved.set(&Settings::default()).await.unwrap();
        assert_eq!(commands(folder.path()), ["revert tun0", "flush-caches"]);
        resolved.revert().await.unwrap();
        assert_eq!(commands(folder.path()), [] as [&str; 0]);
    }

    #[tokio::test]
    async fn a_failure_is_told_and_tried_again_by_the_next_call() {
        let folder = tempfile::tempdir().unwrap();
        let mut resolved = stand_in(folder.path());
        std::fs::write(folder.path().join("resolvectl.failing"), "domain").unwrap();
        let error = resolved.set(&settings(None)).await.unwrap_err();
        assert_eq!(error.to_string(), "`resolvectl domain` failed: no such link");

        std::fs::write(folder.path().join("resolvectl.failing"), "").unwrap();
        resolved.set(&settings(None)).await.unwrap();
        assert!(commands(folder.path()).contains(&"default-route tun0 yes".to_owned()));
    }

    #[tokio::test]
    async fn without_resolvectl_the_alternatives_are_named() {
        let mut resolved =
            Resolved { program: "/nonexistent/resolvectl".to_owned(), ..Resolved::new("tun0") };
        let error = resolved.set(&settings(None)).await.unwrap_err();
        assert!(matches!(error, Error::NoResolvectl), "{error:?}");
        assert!(error.to_string().contains("etc-resolv-conf"), "{error}");
    }
}
