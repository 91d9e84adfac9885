//! Running Cargo, and programs like it.

use std::{
    env, io,
    path::{Path, PathBuf},
    process::{Command, ExitStatus},
};

use anyhow::{Context as _, Result, ensure};

/// The Cargo that runs us, at the root of the workspace.
pub(crate) fn cargo() -> Command {
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(root());
    command
}

/// Runs a command with its output on ours; an error if it fails.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    run_by(command, Command::status)
}

/// [`run`] with another way to wait for the end.
pub(crate) fn run_by(
    command: &mut Command,
    wait: impl FnOnce(&mut Command) -> io::Result<ExitStatus>,
) -> Result<()> {
    let line = line(command);
    eprintln!("  $ {line}");
    let status = wait(command).with_context(|| format!("cannot start `{line}`"))?;
    ensure!(status.success(), "`{line}` failed with {status}");
    Ok(())
}

/// Builds packages with a profile and returns the directory of their binaries.
pub(crate) fn build(profile: &str, packages: &[&str]) -> Result<PathBuf> {
    build_by(profile, packages, run)
}

/// [`build`] with another way to run the command.
pub(crate) fn build_by(
    profile: &str,
    packages: &[&str],
    run: impl FnOnce(&mut Command) -> Result<()>,
) -> Result<PathBuf> {
    let mut command = cargo();
    command.args(["build", "--profile", profile]);
    for package in packages {
        command.args(["--package", package]);
    }
    run(&mut command)?;
    Ok(target_directory().join(profile))
}

/// Where Cargo puts what it builds.
pub(crate) fn target_directory() -> PathBuf {
    // Relative paths of this variable count from where the user is.
    env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from)
}

/// The root of the workspace.
pub(crate) fn root() -> &'static Path {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
    manifest.parent().unwrap_or(manifest)
}

/// A command as one would type it.
fn line(command: &Command) -> String {
    let program = Path::new(command.get_program()).file_name().unwrap_or_default();
    let words = std::iter::once(program).chain(command.get_args());
    words.map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
}
