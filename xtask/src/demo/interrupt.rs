//! Ctrl-C: what was built is taken down before the process ends.

use std::{
    fs,
    io::{self, Write as _},
    process,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};

use anyhow::{Context as _, Result};
use connlib_e2e::lab::Site;

/// As a shell reports a program that SIGINT has ended.
const STATUS: i32 = 130;

/// Watches for SIGINT, SIGTERM and SIGHUP.
#[derive(Debug)]
pub(super) struct Interrupt {
    site: Arc<Mutex<Option<Site>>>,
    happened: Arc<AtomicBool>,
}

impl Interrupt {
    pub(super) fn watch() -> Result<Self> {
        let site = Arc::<Mutex<Option<Site>>>::default();
        let happened = Arc::<AtomicBool>::default();
        let interrupt = Self { site: Arc::clone(&site), happened: Arc::clone(&happened) };
        ctrlc::set_handler(move || {
            happened.store(true, Ordering::SeqCst);
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
