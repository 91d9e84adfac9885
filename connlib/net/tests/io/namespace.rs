//! Network namespaces of a test's own: nothing of the host is touched.

#![allow(dead_code, reason = "each test binary uses a part")]

use std::process::Command;
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, unshare};

/// Long enough for anything that is going to happen at all.
const DEADLINE: Duration = Duration::from_secs(20);

/// Runs a test on a thread of its own, in a fresh network namespace with loopback up, inside of a tokio runtime. The
/// namespace ends with the thread.
///
/// Needs root: fails, and does not skip, without.
pub(crate) fn in_namespace(test: impl AsyncFnOnce() + Send + 'static) {
    in_thread(|| {
        enter_network();
        block_on(test());
    });
}

/// Puts the calling thread into a fresh network namespace with loopback up.
pub(crate) fn enter_network() {
    enter(CloneFlags::CLONE_NEWNET);
    ip("link set lo up");
    wait_until_usable("::1");
}

/// Runs a test on a thread of its own, so that what it unshares or gives up is given up for nobody else.
pub(crate) fn in_thread(test: impl FnOnce() + Send + 'static) {
    if let Err(panic) = std::thread::spawn(test).join() {
        std::panic::resume_unwind(panic);
    }
}

pub(crate) fn enter(flags: CloneFlags) {
    unshare(flags).expect("this test makes namespaces and needs root (CAP_SYS_ADMIN)");
}

pub(crate) fn block_on<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async { within(future).await })
}

/// Waits for something that must happen.
pub(crate) async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(DEADLINE, future).await.expect("it never happened")
}

/// Runs `ip` in the namespace of the calling thread, with arguments separated by spaces.
pub(crate) fn ip(arguments: &str) -> String {
    run("ip", arguments)
}

/// Gives an interface these addresses, separated by spaces, and waits until they can be used.
pub(crate) fn add_addresses(interface: &str, addresses: &str) {
    for address in addresses.split_ascii_whitespace() {
        let nodad = if address.contains(':') { "nodad" } else { "" };
        ip(&format!("addr add {address} dev {interface} {nodad}"));
        wait_until_usable(address.split('/').next().unwrap());
    }
}

/// The kernel adds the route to an IPv6 address of its own some time after the address, and loses what is sent to it in
/// between.
fn wait_until_usable(address: &str) {
    let start = Instant::now();
    while !ip(&format!("route get {address}")).starts_with("local") {
        assert!(start.elapsed() < DEADLINE, "{address} never became usable");
        std::thread::yield_now();
    }
}

/// Runs a program in the namespace of the calling thread, with arguments separated by spaces.
pub(crate) fn run(program: &str, arguments: &str) -> String {
    let output = Command::new(program)
        .args(arguments.split_ascii_whitespace())
        .output()
        .unwrap_or_else(|error| panic!("this test needs the program `{program}`: {error}"));
    assert!(
        output.status.success(),
        "{program} {arguments}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap()
}
