//! The program is one that the running kernel's verifier agrees with; or this build says that it has none.
#![allow(clippy::unwrap_used, reason = "a test")]

use connlib_relay_xdp::{AttachError, Config, Preference, Xdp};

#[test]
#[cfg_attr(not(has_program), ignore = "needs the program: run `cargo xtask ebpf` first")]
fn the_kernel_accepts_the_program() {
    Xdp::load(&config()).unwrap();
}

#[test]
#[cfg_attr(has_program, ignore = "this build has the program")]
fn a_build_without_the_program_says_so() {
    let error = Xdp::load(&config()).unwrap_err();
    assert!(matches!(error, AttachError::NotBuilt), "{error:?}");
    assert!(error.to_string().contains("cargo xtask ebpf"));
}

fn config() -> Config {
    Config {
        interfaces: vec!["lo".to_owned()],
        preference: Preference::Auto,
        listen_port: 3478,
        v4: None,
        v6: None,
    }
}
