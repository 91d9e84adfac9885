//! The program is one that the running kernel's verifier agrees with.
#![allow(clippy::unwrap_used, reason = "a test")]

use connlib_relay_xdp::{Config, Preference, Xdp};

#[test]
#[cfg_attr(not(has_program), ignore = "needs the program: run `cargo xtask ebpf` first")]
fn the_kernel_accepts_the_program() {
    let config = Config {
        interfaces: vec!["lo".to_owned()],
        preference: Preference::Auto,
        listen_port: 3478,
        v4: None,
        v6: None,
    };
    Xdp::load(&config).unwrap();
}
