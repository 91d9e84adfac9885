//! Finds out whether the program is there to be embedded: `cargo xtask ebpf` puts it there, where it can be built.

use std::{fs, io, path::Path, time::SystemTime};

const OBJECT: &str = "object/relay.o";
/// What it is made of.
const SOURCES: [&str; 2] = ["../ebpf/src", "../xdp-types/src"];

fn main() {
    println!("cargo::rustc-check-cfg=cfg(has_program)");
    for path in ["object"].iter().chain(&SOURCES) {
        println!("cargo::rerun-if-changed={path}");
    }
    let Ok(built) = changed(Path::new(OBJECT)) else {
        return;
    };
    println!("cargo::rustc-cfg=has_program");
    if SOURCES.iter().any(|source| newest(source).is_ok_and(|changed| changed > built)) {
        println!(
            "cargo::warning=the XDP program is older than its sources: run `cargo xtask ebpf`"
        );
    }
}

fn changed(path: &Path) -> io::Result<SystemTime> {
    fs::metadata(path)?.modified()
}

fn newest(folder: &str) -> io::Result<SystemTime> {
    let mut newest = SystemTime::UNIX_EPOCH;
    for entry in fs::read_dir(folder)? {
        newest = newest.max(changed(&entry?.path())?);
    }
    Ok(newest)
}
