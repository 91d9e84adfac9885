//! Network namespaces without a name: each lives as long as its [`Namespace`], whatever becomes of the test.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::os::fd::AsRawFd;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, setns, unshare};
use serde_json::Value;

pub(crate) struct Namespace(File);

impl Namespace {
    /// An empty network with its loopback interface up.
    pub(crate) fn new() -> Self {
        let file = std::thread::spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET)
                .expect("this test must be run as root: it makes a network namespace");
            ip("link set lo up");
            // No search for others that have the same IPv6 address.
            set_sysctl("net.ipv6.conf.default.accept_dad", "0");
            File::open("/proc/thread-self/ns/net").unwrap()
        })
        .join();
        Self(file.unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
    }

    /// Runs `body` on a thread inside. What it opens (sockets, processes) belongs to this network.
    pub(crate) fn run<R: Send>(&self, body: impl FnOnce() -> R + Send) -> R {
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                setns(&self.0, CloneFlags::CLONE_NEWNET).unwrap();
                body()
            });
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// The same with a tokio runtime.
    pub(crate) fn run_async<R: Send>(&self, body: impl AsyncFnOnce() -> R + Send) -> R {
        self.run(|| {
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(body())
        })
    }

    /// Lays a cable: `name` here, `peer` in the other namespace, both up.
    pub(crate) fn connect(&self, name: &str, other: &Self, peer: &str) {
        let other_path = format!("/proc/{}/fd/{}", std::process::id(), other.0.as_raw_fd());
        self.run(|| {
            ip(&format!("link add {name} type veth peer name {peer} netns {other_path}"));
            ip(&format!("link set {name} up"));
        });
        other.run(|| ip(&format!("link set {peer} up")));
        self.run(|| wait_for_carrier(name));
        other.run(|| wait_for_carrier(peer));
    }
}

/// A namespace in which `tun` is up and running, and so is `lan`.
///
/// `tun` is one end of a cable here and not a TUN device, so that it has a carrier without a program behind it.
pub(crate) fn host() -> Namespace {
    let host = Namespace::new();
    host.run(|| {
        for name in ["tun", "lan"] {
            ip(&format!("link add {name} type veth peer name {name}-peer"));
            let ends = [name.to_owned(), format!("{name}-peer")];
            for end in &ends {
                ip(&format!("link set {end} addrgenmode none"));
                ip(&format!("link set {end} up"));
            }
            ends.iter().for_each(|end| wait_for_carrier(end));
        }
    });
    host
}

/// Runs `ip` in the namespace of this thread.
pub(crate) fn ip(arguments: &str) {
    let output = Command::new("ip").args(arguments.split_whitespace()).output();
    let output = output.expect("`ip` of iproute2 is needed");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "ip {arguments}: {errors}");
}

/// Waits until the kernel has noticed the cable: before, IPv6 addresses can't be used.
fn wait_for_carrier(interface: &str) {
    // The last thing that it does then.
    let routes = format!("-6 route show table local type multicast dev {interface}");
    wait_until("the interface has a carrier", || !ip_list(&routes).is_empty());
}

/// What `ip` lists. A table that does not exist is an empty list.
pub(crate) fn ip_list(arguments: &str) -> Vec<Value> {
    let output = Command::new("ip").arg("-j").args(arguments.split_whitespace()).output().unwrap();
    match serde_json::from_slice(&output.stdout) {
        Ok(Value::Array(list)) => list,
        _ => Vec::new(),
    }
}

/// The value of a sysctl in the namespace of this thread.
pub(crate) fn sysctl(name: &str) -> String {
    let path = format!("/proc/sys/{}", name.replace('.', "/"));
    std::fs::read_to_string(path).unwrap().trim().to_owned()
}

/// Sets a sysctl in the namespace of this thread.
pub(crate) fn set_sysctl(name: &str, value: &str) {
    std::fs::write(format!("/proc/sys/{}", name.replace('.', "/")), value).unwrap();
}

/// Takes all capabilities from this thread, and from no other.
pub(crate) fn drop_capabilities() {
    const VERSION_3: u32 = 0x2008_0522;
    let (header, sets) = ([VERSION_3, 0], [0u32; 6]);
    // SAFETY: the kernel reads a header of two and sets of six numbers, which is what the arrays hold.
    let result = unsafe { libc::syscall(libc::SYS_capset, header.as_ptr(), sets.as_ptr()) };
    assert_eq!(result, 0, "{}", std::io::Error::last_os_error());
}

/// Waits for a condition that comes about by itself.
pub(crate) fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !is_so() {
        assert!(Instant::now() < deadline, "waited in vain: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// `ip monitor`: the changes of addresses and routes in the namespace of this thread.
pub(crate) struct Monitor {
    process: Child,
    lines: std::io::Lines<BufReader<ChildStdout>>,
    marks: u8,
}

impl Monitor {
    pub(crate) fn start() -> Self {
        let mut command = Command::new("ip");
        command.args(["-o", "monitor", "address", "route"]).stdout(Stdio::piped());
        let mut process = command.spawn().unwrap();
        let lines = BufReader::new(process.stdout.take().unwrap()).lines();
        let id = process.id().to_string();
        wait_until("`ip monitor` listens", || {
            // Columns: socket, protocol, port (the process), mask of groups.
            let sockets = std::fs::read_to_string("/proc/thread-self/net/netlink").unwrap();
            sockets
                .lines()
                .map(|line| line.split_whitespace().collect::<Vec<_>>())
                .any(|columns| columns[1] == "0" && columns[2] == id && columns[3] != "00000000")
        });
        Self { process, lines, marks: 0 }
    }

    /// What changed since the last call.
    pub(crate) fn seen_until_now(&mut self) -> Vec<String> {
        self.marks += 1;
        let mark = format!("192.0.2.{}", self.marks);
        ip(&format!("address add {mark}/32 dev lo"));
        let mut lines = self.lines.by_ref().map(Result::unwrap);
        let seen: Vec<_> = lines.by_ref().take_while(|line| !line.contains(&mark)).collect();
        // The kernel announces more than one thing about a mark.
        seen.into_iter().filter(|line| !line.contains("192.0.2.")).collect()
    }
}

impl Drop for Monitor {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
