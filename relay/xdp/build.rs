//! Finds out whether the program is there to be embedded: `cargo xtask ebpf` puts it there, where it can be built.

use std::path::Path;

fn main() {
    println!("cargo::rerun-if-changed=object");
    println!("cargo::rustc-check-cfg=cfg(has_program)");
    if Path::new("object/relay.o").exists() {
        println!("cargo::rustc-cfg=has_program");
    }
}
