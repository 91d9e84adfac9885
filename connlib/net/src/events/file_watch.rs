use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify, InotifyEvent};
use tokio::io::unix::AsyncFd;

use crate::readiness::{Owner, register};
use crate::retry::Retry;

/// What happens to a file that is written, and to a folder in which a file is replaced.
const CHANGES: AddWatchFlags = AddWatchFlags::IN_CLOSE_WRITE
    .union(AddWatchFlags::IN_MODIFY)
    .union(AddWatchFlags::IN_ATTRIB)
    .union(AddWatchFlags::IN_CREATE)
    .union(AddWatchFlags::IN_DELETE)
    .union(AddWatchFlags::IN_MOVED_FROM)
    .union(AddWatchFlags::IN_MOVED_TO)
    .union(AddWatchFlags::IN_DELETE_SELF)
    .union(AddWatchFlags::IN_MOVE_SELF);

/// Links to links to links: more than anybody has.
const MAX_LINKS: usize = 8;

/// Notices that a file was written or replaced, also if it is a symbolic link, a mount, or missing for a while.
pub(super) struct FileWatch {
    path: PathBuf,
    /// What the file is called in the folders that are watched.
    names: Vec<OsString>,
    /// `None`: it failed, and is due to be replaced.
    inotify: Option<AsyncFd<Descriptor>>,
    retry: Retry,
}

struct Descriptor(Inotify);

impl AsRawFd for Descriptor {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_fd().as_raw_fd()
    }
}

impl Owner for Descriptor {}

impl FileWatch {
    /// Must be called within a tokio runtime.
    pub(super) fn new(path: &Path) -> io::Result<Self> {
        let mut watch = Self {
            path: path.to_owned(),
            names: Vec::new(),
            inotify: Some(open()?),
            retry: Retry::default(),
        };
        watch.renew();
        Ok(watch)
    }

    /// Waits until something has, or may have, happened to the file. Cancel safe.
    pub(super) async fn changed(&mut self) {
        loop {
            let Some(inotify) = &self.inotify else {
                self.retry.due().await;
                match open() {
                    Ok(inotify) => {
                        self.inotify = Some(inotify);
                        self.renew();
                        return;
                    }
                    Err(error) => {
                        tracing::debug!(%error, "cannot watch files");
                        self.retry.later();
                    }
                }
                continue;
            };
            match hear(inotify).await {
                Ok(events) => {
                    self.retry.succeeded();
                    // Without a name: the file or a folder as such, or more than the queue could hold.
                    let is_relevant = |event: &InotifyEvent| {
                        event.name.as_ref().is_none_or(|name| self.names.contains(name))
                    };
                    if events.iter().any(is_relevant) {
                        self.renew();
                        return;
                    }
                }
                Err(error) => {
                    tracing::info!(%error, "cannot hear of changes of DNS servers, trying again");
                    self.inotify = None;
                    self.retry.later();
                }
            }
        }
    }

    /// Watches the file that the name stands for now, and each folder in which a replacement of it can appear.
    ///
    /// The file itself as well, because a mount is written by way of another folder. Watches on what is
    /// watched already stay as they are; those on what has gone go with it.
    fn renew(&mut self) {
        let mut path = self.path.clone();
        self.names.clear();
        for _ in 0..MAX_LINKS {
            self.names.extend(path.file_name().map(ToOwned::to_owned));
            let folder = match path.parent() {
                Some(folder) if !folder.as_os_str().is_empty() => folder.to_owned(),
                _ => PathBuf::from("."),
            };
            self.add(&folder, CHANGES | AddWatchFlags::IN_ONLYDIR);
            match std::fs::read_link(&path) {
                Ok(target) => path = folder.join(target),
                Err(_) => break,
            }
        }
        self.add(&path, CHANGES);
    }

    fn add(&self, path: &Path, flags: AddWatchFlags) {
        let Some(inotify) = &self.inotify else { return };
        if let Err(error) = inotify.get_ref().0.add_watch(path, flags) {
            tracing::debug!(path = %path.display(), %error, "Not watched");
        }
    }
}

fn open() -> io::Result<AsyncFd<Descriptor>> {
    let inotify = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK)?;
    register(Descriptor(inotify))
}

async fn hear(inotify: &AsyncFd<Descriptor>) -> io::Result<Vec<InotifyEvent>> {
    loop {
        let mut ready = inotify.readable().await?;
        match ready.get_inner().0.read_events() {
            Err(Errno::EAGAIN) => ready.clear_ready(),
            events => return Ok(events?),
        }
    }
}
