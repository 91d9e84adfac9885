//! Taking labs down: the own one, and those whose process is gone.
//!
//! A lab's process holds an exclusive `flock` on the file `lock` in the lab's directory. The
//! kernel lets go of it when the process ends, however it ends, so a lock that can be had
//! belongs to an abandoned lab. A directory without one holds the logs of a lab that failed.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    io::ErrorKind,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, Result};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::{lab::ROOT, namespace, wait};

/// How many failed runs' logs stay.
const LOGS_KEPT: usize = 10;

/// What the names of a lab's namespaces begin with.
pub(crate) fn namespace_prefix(id: &str) -> String {
    format!("cl-{id}-")
}

/// Held while a lab is created or labs are swept.
pub(crate) fn exclusively() -> Result<File> {
    let path = Path::new(ROOT).join("creation");
    let file = File::create(&path).with_context(|| path.display().to_string())?;
    file.lock()?;
    Ok(file)
}

/// Takes down the labs whose process is gone, except kept ones, and drops the oldest logs.
pub(crate) fn leftovers() -> Result<()> {
    let mut old_logs = Vec::new();
    for directory in directories()? {
        if !directory.join("lock").exists() {
            old_logs.push(directory);
        } else if !directory.join("kept").exists() {
            take_down_abandoned(&directory)?;
        }
    }
    old_logs.sort_by_key(|directory| fs::metadata(directory).and_then(|m| m.modified()).ok());
    for directory in old_logs.iter().rev().skip(LOGS_KEPT) {
        remove(directory)?;
    }
    Ok(())
}

/// Removes a directory, which may be on its way out: a lab that ends removes its own.
fn remove(directory: &Path) -> Result<()> {
    match fs::remove_dir_all(directory) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(error).with_context(|| directory.display().to_string())
        }
        _ => Ok(()),
    }
}

/// Takes down kept and abandoned labs. Says how many.
pub(crate) fn kept() -> Result<usize> {
    let mut count = 0;
    for directory in directories()? {
        if directory.join("lock").exists() && take_down_abandoned(&directory)? {
            count += 1;
        }
    }
    Ok(count)
}

/// Kills everything that runs in the namespaces of lab `id` and removes them.
pub(crate) fn take_down(id: &str) -> Result<()> {
    let prefix = namespace_prefix(id);
    // One whose making was cut short has files and no handle.
    let parts =
        [namespace::HANDLES, namespace::FILES].into_iter().filter_map(|d| fs::read_dir(d).ok());
    let names: BTreeSet<String> = parts
        .flat_map(|entries| entries.flatten())
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter(|name| name.starts_with(&prefix))
        .collect();

    let inodes: Vec<u64> = names
        .iter()
        .filter_map(|name| Some(fs::metadata(Path::new(namespace::HANDLES).join(name)).ok()?.ino()))
        .collect();
    // A program may start another one while we look, hence more than one look.
    wait::until("the lab's programs to end", Duration::from_secs(10), || {
        let processes = processes_in(&inodes);
        for &process in &processes {
            // One that has just ended needs no signal.
            let _ = kill(process, Signal::SIGKILL);
        }
        processes.is_empty().then_some(())
    })?;

    for name in &names {
        namespace::remove(name)?;
    }
    namespace::remove_etc(id, &Path::new(ROOT).join(id));
    Ok(())
}

/// Takes a lab down if its lock can be had, and says whether it could.
fn take_down_abandoned(directory: &Path) -> Result<bool> {
    let lock = match File::open(directory.join("lock")) {
        Ok(lock) => lock,
        // It has just been taken down by its own process.
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(error.into()),
    };
    if lock.try_lock().is_err() {
        return Ok(false);
    }
    let id = directory.file_name().unwrap_or_default().to_string_lossy();
    take_down(&id)?;
    remove(directory)?;
    Ok(true)
}

fn directories() -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(ROOT).with_context(|| format!("cannot read {ROOT}"))?;
    Ok(entries.flatten().map(|entry| entry.path()).filter(|path| path.is_dir()).collect())
}

fn processes_in(inodes: &[u64]) -> Vec<Pid> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    entries
        .flatten()
        .filter(|entry| {
            // Ended processes that nobody has waited for yet have no namespace any more.
            fs::metadata(entry.path().join("ns/net")).is_ok_and(|ns| inodes.contains(&ns.ino()))
        })
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok().map(Pid::from_raw))
        .collect()
}
