//! What one run owns: an id, a directory, namespaces and what goes on in them.

use std::{
    fs::{self, File, Permissions},
    io::ErrorKind,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    process,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread,
};

use anyhow::{Context as _, Result, bail, ensure};

use crate::{Binaries, Namespace, Router, link::Switch, log::Log, namespace, sweep};

/// Where labs keep their locks and logs; one directory a lab. On a disk, because tests move large
/// files.
pub(crate) const ROOT: &str = "/var/tmp/connlib-labs";

/// A run's networks and programs. Dropping it takes everything down.
///
/// Dropping it fails a test whose programs logged a WARN or ERROR that nobody [allowed](Log::allow).
#[derive(Debug)]
pub struct Lab {
    site: Site,
}

/// A lab as its parts see it: they need its names and must know when it is gone.
#[derive(Debug, Clone)]
pub struct Site {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    id: String,
    directory: PathBuf,
    binaries: Binaries,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    phase: Phase,
    /// Held as long as this process answers for the lab; see [`sweep`].
    _lock: Option<File>,
    logs: Vec<Log>,
    is_examined: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Standing,
    Kept,
    Gone,
}

impl Lab {
    /// Lays the ground for a run, with the binaries that [`Binaries::locate`] finds.
    ///
    /// Fails without root, and where the kernel refuses network namespaces.
    pub fn new() -> Result<Self> {
        Self::with_binaries(Binaries::locate()?)
    }

    /// [`Lab::new`] with binaries from elsewhere.
    pub fn with_binaries(binaries: Binaries) -> Result<Self> {
        ensure!(
            nix::unistd::geteuid().is_root(),
            "network namespaces need root: run this as root, for example with `sudo -E env PATH=$PATH`"
        );
        create_root().with_context(|| format!("cannot use the directory {ROOT}"))?;

        // Nobody may take a half-made lab for an abandoned one.
        let _creation = sweep::exclusively()?;
        sweep::leftovers()?;

        let (id, directory) = unused_directory()?;
        fs::create_dir(directory.join("logs"))?;
        let lock = File::create_new(directory.join("lock"))?;
        lock.lock()?;
        let state = State {
            phase: Phase::Standing,
            _lock: Some(lock),
            logs: Vec::new(),
            is_examined: false,
        };
        let shared = Shared { id, directory, binaries, state: Mutex::new(state) };
        Ok(Self { site: Site { shared: Arc::new(shared) } })
    }

    /// A new namespace with its loopback up and no resolver.
    pub fn namespace(&self, name: &str) -> Result<Namespace> {
        Namespace::create(self.site.clone(), name)
    }

    /// A new namespace that forwards between its interfaces.
    pub fn router(&self, name: &str) -> Result<Router> {
        Router::create(self.namespace(name)?)
    }

    /// A new Ethernet segment, in a namespace of its own.
    pub fn switch(&self, name: &str) -> Result<Switch> {
        Switch::create(self.namespace(name)?)
    }

    /// The directory of this run: logs in `logs/`, and whatever else the run wants to put there.
    pub fn directory(&self) -> &Path {
        &self.site.shared.directory
    }

    /// A handle that can take the lab down from another thread.
    pub fn site(&self) -> Site {
        self.site.clone()
    }

    /// Takes everything down and fails if a program complained.
    pub fn finish(self) -> Result<()> {
        let complaints = self.site.complaints();
        self.site.tear_down();
        ensure!(
            complaints.is_empty(),
            "unexpected warnings or errors, logs in {}:\n{}",
            self.directory().display(),
            complaints.join("\n")
        );
        // Nothing is left to look into.
        fs::remove_dir_all(self.directory())?;
        Ok(())
    }

    /// Leaves the lab standing after this process has ended. `Lab::clean` takes it down.
    pub fn keep(self) -> Result<()> {
        fs::write(self.directory().join("kept"), "")?;
        self.site.state().phase = Phase::Kept;
        Ok(())
    }

    /// Takes down all labs that no living process answers for, kept ones included. Says how many.
    pub fn clean() -> Result<usize> {
        if !Path::new(ROOT).exists() {
            return Ok(0);
        }
        let _creation = sweep::exclusively()?;
        sweep::kept()
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if self.site.state().phase != Phase::Standing {
            return;
        }
        let complaints = self.site.complaints();
        self.site.tear_down();
        let logs = self.directory().display();
        if self.site.state().is_examined {
            return;
        }
        if thread::panicking() {
            eprintln!("logs are in {logs}");
            return;
        }
        assert!(
            complaints.is_empty(),
            "unexpected warnings or errors, logs in {logs}:\n{}",
            complaints.join("\n")
        );
        drop(fs::remove_dir_all(self.directory()));
    }
}

impl Site {
    /// Kills all programs of the lab, removes its namespaces and refuses new ones. Logs stay.
    pub fn tear_down(&self) {
        let mut state = self.state();
        if state.phase != Phase::Standing {
            return;
        }
        state.phase = Phase::Gone;
        if let Err(error) = sweep::take_down(&self.shared.id) {
            eprintln!("cannot clean up after lab {}: {error:#}", self.shared.id);
        }
        drop(fs::remove_file(self.shared.directory.join("lock")));
    }

    /// Leaves it to the caller to look at the logs: dropping the lab neither removes them nor
    /// fails because of what is in them. [`Lab::finish`] still does.
    pub fn examine_by_hand(&self) {
        self.state().is_examined = true;
    }

    /// What the programs of the lab complained about, one line each.
    pub fn complaints(&self) -> Vec<String> {
        let logs = self.state().logs.clone();
        logs.iter().flat_map(Log::complaints).collect()
    }

    /// Runs `action` unless the lab is gone; it cannot go meanwhile.
    pub(crate) fn while_standing<T>(&self, action: impl FnOnce() -> Result<T>) -> Result<T> {
        let state = self.state();
        if state.phase != Phase::Standing {
            bail!("the lab has been taken down");
        }
        action()
    }

    pub(crate) fn is_kept(&self) -> bool {
        self.state().phase == Phase::Kept
    }

    /// The system-wide name of one of the lab's parts.
    pub(crate) fn full_name(&self, name: &str) -> String {
        format!("{}{name}", sweep::namespace_prefix(&self.shared.id))
    }

    /// Where the lab's programs find the host's `/etc`.
    pub(crate) fn host_etc(&self) -> PathBuf {
        namespace::host_etc(&self.shared.id)
    }

    pub(crate) fn binaries(&self) -> &Binaries {
        &self.shared.binaries
    }

    /// The directory of the run; see [`Lab::directory`].
    pub fn directory(&self) -> &Path {
        &self.shared.directory
    }

    /// A log file of that name that does not exist yet, watched for complaints if so asked.
    pub(crate) fn new_log(&self, name: &str, watched: bool) -> Result<(Log, File)> {
        let logs = self.directory().join("logs");
        for number in 1.. {
            let suffix = if number == 1 { String::new() } else { format!("-{number}") };
            let path = logs.join(format!("{name}{suffix}.log"));
            match File::options().append(true).create_new(true).open(&path) {
                Ok(file) => {
                    let log = Log::new(path);
                    if watched {
                        self.state().logs.push(log.clone());
                    }
                    return Ok((log, file));
                }
                Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
                Err(error) => return Err(error).with_context(|| path.display().to_string()),
            }
        }
        bail!("no free name for the log of {name}");
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.shared.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Everybody may write where the root directory lies, so it is ours only if root made it.
fn create_root() -> Result<()> {
    fs::create_dir_all(ROOT)?;
    let metadata = fs::symlink_metadata(ROOT)?;
    ensure!(metadata.is_dir() && metadata.uid() == 0, "it belongs to somebody else");
    fs::set_permissions(ROOT, Permissions::from_mode(0o700))?;
    Ok(())
}

/// Creates a directory whose name nobody uses; the name is the lab's id.
fn unused_directory() -> Result<(String, PathBuf)> {
    for letter in 'a'..='z' {
        let id = format!("{}{letter}", process::id());
        let directory = Path::new(ROOT).join(&id);
        match fs::create_dir(&directory) {
            Ok(()) => return Ok((id, directory)),
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error).with_context(|| directory.display().to_string()),
        }
    }
    bail!("too many labs in one process, or too many old logs in {ROOT}");
}
