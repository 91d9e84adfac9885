//! The lab that subjects stand in: with our programs where they are needed, and gone when the process ends.

use std::{fs, path::PathBuf, process};

use anyhow::{Context as _, Result};
use connlib_e2e::{Binaries, Lab};
use connlib_interop::tools;

/// As a shell reports a program that SIGINT has ended.
const INTERRUPTED: i32 = 130;

/// A new lab. These of our own programs are built if they are missing.
pub(crate) fn open(packages: &[&str]) -> Result<Lab> {
    let mut binaries = Binaries::locate()?;
    if packages.iter().any(|package| binaries.path(package).is_err()) {
        binaries = Binaries::in_directory(release_binaries(packages)?);
    }
    let lab = Lab::with_binaries(binaries)?;
    // Whether all went well is told by figures; what programs complained about is told by `close`.
    lab.site().examine_by_hand();

    let site = lab.site();
    let directory = lab.directory().to_owned();
    ctrlc::set_handler(move || {
        eprintln!("\ninterrupted, cleaning up");
        site.tear_down();
        // Nobody asks why it was not finished.
        drop(fs::remove_dir_all(&directory));
        process::exit(INTERRUPTED);
    })
    .context("cannot watch for Ctrl-C")?;
    Ok(lab)
}

/// Takes the lab down. Logs stay if `failed`, or if one of our programs complained.
pub(crate) fn close(lab: Lab, failed: bool) -> Result<()> {
    let complaints = lab.site().complaints();
    if !failed && complaints.is_empty() {
        return lab.finish();
    }
    for complaint in complaints {
        eprintln!("complaint: {complaint}");
    }
    eprintln!("logs are in {}", lab.directory().join("logs").display());
    Ok(())
}

/// Our own programs with the release profile: the directory that they lie in.
fn release_binaries(packages: &[&str]) -> Result<PathBuf> {
    let mut command = tools::cargo();
    command.args(["build", "--release"]).current_dir(tools::root());
    for package in packages {
        command.args(["--package", package]);
    }
    tools::run(&mut command)?;
    Ok(tools::target_directory().join("release"))
}
