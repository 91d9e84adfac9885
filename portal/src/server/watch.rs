//! Notices that a file has changed, without looking all the time: inotify on its folder, since a
//! file that is replaced is another file.

use std::ffi::OsString;
use std::os::fd::{AsFd as _, AsRawFd, RawFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify, InotifyEvent};
use tokio::io::unix::AsyncFd;
use tokio::time::{Instant, sleep_until};

/// What changes once changes some more within this time.
const SETTLE: Duration = Duration::from_millis(100);

/// Watches a file by its folder. Where that fails, nothing is ever noticed and SIGHUP is left.
#[derive(Debug)]
pub(super) struct Watch {
    inotify: Option<AsyncFd<Fd>>,
    /// What names of interest begin with.
    prefix: Option<OsString>,
    due: Option<Instant>,
}

#[derive(Debug)]
struct Fd(Inotify);

impl AsRawFd for Fd {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_fd().as_raw_fd()
    }
}

impl Watch {
    /// A file that people and programs write, replace or swing a link to: any such change in its
    /// folder, or in that of its target, is worth a look.
    pub(super) fn policy(path: &Path) -> Self {
        let flags = AddWatchFlags::IN_CLOSE_WRITE
            | AddWatchFlags::IN_MOVED_TO
            | AddWatchFlags::IN_CREATE
            | AddWatchFlags::IN_DELETE;
        let mut folders = vec![folder(path)];
        folders.extend(path.canonicalize().ok().map(|target| folder(&target)));
        Self::new(&folders, flags, None)
    }

    /// A database: its file and those beside it whose names begin with its name.
    pub(super) fn database(path: &Path) -> Self {
        let prefix = path.file_name().map(ToOwned::to_owned);
        Self::new(&[folder(path)], AddWatchFlags::IN_MODIFY, prefix)
    }

    fn new(folders: &[PathBuf], flags: AddWatchFlags, prefix: Option<OsString>) -> Self {
        let open = || -> std::io::Result<_> {
            let inotify = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC)?;
            for folder in folders {
                inotify.add_watch(folder, flags)?;
            }
            register(Fd(inotify))
        };
        let inotify = open().inspect_err(|error| {
            tracing::warn!(%error, ?folders, "cannot watch for changes: send SIGHUP after one");
        });
        Self { inotify: inotify.ok(), prefix, due: None }
    }

    /// Returns when something has changed and settled. May be dropped and called again.
    pub(super) async fn changed(&mut self) {
        loop {
            let settled = async {
                match self.due {
                    Some(due) => sleep_until(due).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = settled => {
                    self.due = None;
                    return;
                }
                events = events(self.inotify.as_ref()) => {
                    if events.iter().any(|event| self.concerns(event)) {
                        self.due.get_or_insert_with(|| Instant::now() + SETTLE);
                    }
                }
            }
        }
    }

    fn concerns(&self, event: &InotifyEvent) -> bool {
        let (Some(prefix), Some(name)) = (&self.prefix, &event.name) else { return true };
        name.as_encoded_bytes().starts_with(prefix.as_encoded_bytes())
    }
}

/// Deprecated for types whose descriptor may change or go under it; ours keeps its own for life,
/// and what replaces this is `unsafe`.
#[allow(deprecated)]
fn register(fd: Fd) -> std::io::Result<AsyncFd<Fd>> {
    AsyncFd::new(fd)
}

async fn events(inotify: Option<&AsyncFd<Fd>>) -> Vec<InotifyEvent> {
    let Some(inotify) = inotify else { return std::future::pending().await };
    loop {
        let Ok(mut ready) = inotify.readable().await else { return std::future::pending().await };
        match ready.try_io(|fd| Ok(fd.get_ref().0.read_events()?)) {
            Ok(Ok(events)) => return events,
            Ok(Err(error)) => {
                tracing::debug!(%error, "cannot read what changed");
                return std::future::pending().await;
            }
            Err(_would_block) => {}
        }
    }
}

fn folder(path: &Path) -> PathBuf {
    match path.parent() {
        Some(parent) if parent != Path::new("") => parent.to_owned(),
        _ => PathBuf::from("."),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEADLINE: Duration = Duration::from_secs(10);

    async fn must_notice(watch: &mut Watch) {
        tokio::time::timeout(DEADLINE, watch.changed()).await.expect("a change");
    }

    #[tokio::test]
    async fn a_file_that_is_written_replaced_or_linked_anew_is_noticed() {
        let folder = tempfile::tempdir().unwrap();
        let elsewhere = tempfile::tempdir().unwrap();
        let path = folder.path().join("policy.toml");
        let target = elsewhere.path().join("v1");
        std::fs::write(&target, "a").unwrap();
        std::os::unix::fs::symlink(&target, &path).unwrap();
        let mut watch = Watch::policy(&path);

        std::fs::write(&target, "b").unwrap();
        must_notice(&mut watch).await;
        let new = folder.path().join("new");
        std::os::unix::fs::symlink(elsewhere.path().join("v2"), &new).unwrap();
        std::fs::rename(&new, &path).unwrap();
        must_notice(&mut watch).await;
    }

    #[tokio::test]
    async fn only_the_database_and_its_companions_count() {
        let folder = tempfile::tempdir().unwrap();
        let mut watch = Watch::database(&folder.path().join("portal.db"));
        std::fs::write(folder.path().join("other"), "x").unwrap();
        // A second change, so that the first one has been read when this one is noticed.
        std::fs::write(folder.path().join("portal.db-wal"), "x").unwrap();
        must_notice(&mut watch).await;
        std::fs::write(folder.path().join("other"), "y").unwrap();
        let noticed = tokio::time::timeout(3 * SETTLE, watch.changed()).await;
        assert!(noticed.is_err());
    }
}
