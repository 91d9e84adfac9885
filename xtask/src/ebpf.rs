//! `cargo xtask ebpf`: the relay's XDP program.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, ensure};

use crate::{
    cargo::{self, cargo},
    packages,
};

/// Build the relay's XDP program, which later builds of the relay embed, and have the kernel verify it
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {}

/// There is no standard library for this target: it is built along, which takes a nightly toolchain and its sources.
const TARGET: &str = "bpfel-unknown-none";
const TOOLCHAIN: &str = "nightly";
const SOURCES: &str = "rust-src";
const LINKER: &str = "bpf-linker";
const LINKER_VERSION: &str = "0.10.4";
/// The program says which kernel's registers it reads; it reads none, but its libraries want to know.
const FLAGS: &str = r#"--cfg bpf_target_arch="x86_64" -Dwarnings -Cdebuginfo=2 -Clink-arg=--btf"#;

/// A workspace of its own.
pub(crate) const MANIFEST: &str = "relay/ebpf/Cargo.toml";
const PROGRAM: &str = "relay";
/// Where the loader's build looks for it.
const OBJECT: &str = "relay/xdp/object/relay.o";
const LOADER: &str = "connlib-relay-xdp";
/// What makes a load for the bench, and where that looks for it, among its own programs.
const LOAD: &str = "load";
const LOAD_OBJECT: &str = "connlib-bench-load.o";

pub(crate) fn run(_: &Arguments) -> Result<()> {
    ensure_tools()?;
    build()?;
    if !packages::is_root() {
        println!("not verified: only root may load it; run this command as root to have it tried");
        return Ok(());
    }
    cargo::run(cargo().args(["test", "--quiet", "--package", LOADER, "the_kernel_accepts"]))?;
    println!("the running kernel accepts the program");
    Ok(())
}

/// Builds the program for whoever is to embed it. Whether what it is built with could be had; if not, the relay is built
/// without it.
pub(crate) fn build_if_possible() -> Result<bool> {
    if let Err(error) = ensure_tools() {
        println!("no XDP program: what it is built with cannot be had: {error:#}");
        return Ok(false);
    }
    build().map(|()| true)
}

/// Builds what makes a load for the bench, and puts it beside that.
pub(crate) fn build_load_if_possible(bench: &Path) -> Result<()> {
    if let Err(error) = ensure_tools() {
        println!("no load of frames: what makes it cannot be built: {error:#}");
        return Ok(());
    }
    compile(LOAD, &bench.join(LOAD_OBJECT))
}

/// Installs what the program is built with, and says so.
fn ensure_tools() -> Result<()> {
    if !succeeds(&mut nightly("rustc", &["--version"])) {
        println!("installing with rustup: {TOOLCHAIN}");
        let install = ["toolchain", "install", "--profile", "minimal", "--no-self-update"];
        cargo::run(Command::new("rustup").args(install).arg(TOOLCHAIN))?;
    }
    if !sysroot()?.join("lib/rustlib/src/rust/library/Cargo.toml").exists() {
        println!("installing with rustup: {SOURCES} of {TOOLCHAIN}");
        let add = ["component", "add", "--toolchain", TOOLCHAIN, SOURCES];
        cargo::run(Command::new("rustup").args(add))?;
    }
    if !has_linker() {
        println!("installing with cargo: {LINKER} {LINKER_VERSION}");
        let install = ["install", "--locked", "--quiet", "--version", LINKER_VERSION, LINKER];
        cargo::run(cargo().args(install))?;
    }
    Ok(())
}

/// Builds the program and puts it where the loader's build looks for it.
fn build() -> Result<()> {
    compile(PROGRAM, &cargo::root().join(OBJECT))
}

/// Builds a program and puts it somewhere.
fn compile(program: &str, object: &Path) -> Result<()> {
    let target = cargo::target_directory().join("ebpf");
    let build = ["build", "--release", "--locked", "--target", TARGET, "-Zbuild-std=core"];
    let build = [&build[..], &["--bin", program]].concat();
    cargo::run(
        nightly("cargo", &build)
            .args(["--manifest-path", MANIFEST])
            .current_dir(cargo::root())
            .env("CARGO_TARGET_DIR", &target)
            .env("CARGO_TARGET_BPFEL_UNKNOWN_NONE_LINKER", LINKER)
            .env("CARGO_TARGET_BPFEL_UNKNOWN_NONE_RUSTFLAGS", FLAGS),
    )?;
    let built = target.join(TARGET).join("release").join(program);
    fs::copy(&built, object)
        .with_context(|| format!("cannot copy {} to {}", built.display(), object.display()))?;
    Ok(())
}

/// A program of the toolchain, free of what the one that runs us has set up for itself.
fn nightly(program: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new("rustup");
    command.args(["run", TOOLCHAIN, program]).args(arguments);
    for variable in ["CARGO", "RUSTC", "RUSTDOC", "RUSTFLAGS", "LD_LIBRARY_PATH"] {
        command.env_remove(variable);
    }
    command
}

fn sysroot() -> Result<PathBuf> {
    let output = nightly("rustc", &["--print", "sysroot"]).output().context("cannot run rustup")?;
    ensure!(output.status.success(), "the {TOOLCHAIN} toolchain does not work");
    Ok(PathBuf::from(String::from_utf8_lossy(&output.stdout).trim()))
}

fn has_linker() -> bool {
    let output = Command::new(LINKER).arg("--version").output();
    output.is_ok_and(|output| String::from_utf8_lossy(&output.stdout).contains(LINKER_VERSION))
}

fn succeeds(command: &mut Command) -> bool {
    let quiet = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    quiet.status().is_ok_and(|status| status.success())
}
