//! Ctrl-C: what was built is taken down before the process ends.

use std::{
    fs,
    io::{self, Write as _},
    os::unix::process::CommandExt as _,
    process::{self, Command, ExitStatus},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};

use anyhow::{Context as _, Result};
use connlib_e2e::lab::Site;
use nix::{
    sys::signal::{Signal, killpg},
    unistd::Pid,
};

use crate::cargo;

/// As a shell reports a program that SIGINT has ended.
const STATUS: i32 = 130;

/// Watches for SIGINT, SIGTERM and SIGHUP.
#[derive(Debug)]
pub(super) struct Interrupt {
    site: Arc<Mutex<Option<Site>>>,
    child: Child,
    happened: Arc<AtomicBool>,
}

/// A command that runs in a process group of its own, so that it ends with all that it has started: a signal may have
/// been for us alone.
#[derive(Debug, Clone, Default)]
struct Child(Arc<Mutex<Option<Pid>>>);

impl Interrupt {
    pub(super) fn watch() -> Result<Self> {
        let site = Arc::<Mutex<Option<Site>>>::default();
        let child = Child::default();
        let happened = Arc::<AtomicBool>::default();
        let interrupt =
            Self { site: Arc::clone(&site), child: child.clone(), happened: Arc::clone(&happened) };
        ctrlc::set_handler(move || {
            happened.store(true, Ordering::SeqCst);
            // Nothing more is started.
            let _child = child.end();
            // Held to the end: that the step under way fails now is of no interest.
            let mut out = io::stdout().lock();
            if let Some(site) = &*site.lock().unwrap_or_else(PoisonError::into_inner) {
                drop(writeln!(out, "\ninterrupted, cleaning up"));
                site.tear_down();
                // Nobody asks why it was not finished.
                drop(fs::remove_dir_all(site.directory()));
            }
            process::exit(STATUS);
        })
        .context("cannot watch for Ctrl-C")?;
        Ok(interrupt)
    }

    /// Runs a command as [`cargo::run`] does; an interruption ends it.
    pub(super) fn run(&self, command: &mut Command) -> Result<()> {
        let result = cargo::run_by(command, |command| self.child.run(command));
        self.wait_if_interrupted();
        result
    }

    /// From now on, an interruption takes this lab down.
    pub(super) fn takes_down(&self, site: &Site) {
        *self.site.lock().unwrap_or_else(PoisonError::into_inner) = Some(site.clone());
    }

    /// Once interrupted, every step fails, and what they say is of no interest: the handler ends
    /// the process.
    pub(super) fn wait_if_interrupted(&self) {
        while self.happened.load(Ordering::SeqCst) {
            thread::park();
        }
    }
}

impl Child {
    fn run(&self, command: &mut Command) -> io::Result<ExitStatus> {
        let mut group = self.lock();
        let mut child = command.process_group(0).spawn()?;
        *group = Some(Pid::from_raw(child.id().cast_signed()));
        drop(group);
        let status = child.wait();
        *self.lock() = None;
        status
    }

    /// Ends the command that is running, if one is. As long as the guard lives, none is started.
    fn end(&self) -> MutexGuard<'_, Option<Pid>> {
        let group = self.lock();
        if let Some(group) = *group {
            // It may have ended by itself just now.
            let _ = killpg(group, Signal::SIGTERM);
        }
        group
    }

    fn lock(&self) -> MutexGuard<'_, Option<Pid>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead as _, BufReader, Read as _};
    use std::os::unix::process::ExitStatusExt as _;

    use super::*;

    #[test]
    fn a_command_ends_with_what_it_has_started() {
        let child = Child::default();
        let (reader, writer) = io::pipe().unwrap();
        let running = child.clone();
        let run = thread::spawn(move || {
            let mut command = Command::new("sh");
            command.args(["-c", "sleep 1000 & echo started; wait"]).stdout(writer);
            running.run(&mut command).unwrap()
        });
        let mut output = BufReader::new(reader);
        output.read_line(&mut String::new()).unwrap();
        drop(child.end());
        assert_eq!(run.join().unwrap().signal(), Some(Signal::SIGTERM as i32));
        // The end comes when nobody holds the other end any more, `sleep` included.
        assert_eq!(output.read_to_end(&mut Vec::new()).unwrap(), 0);
    }
}
