//! Settings and machines with which client and gateway cannot work: one line that says what is wrong and how to mend
//! it, an exit status that service managers do not restart upon, nothing left behind.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test")]

use std::{
    fs::{self, Permissions},
    net::TcpListener,
    os::unix::fs::PermissionsExt as _,
    path::PathBuf,
    process::Output,
};

use connlib_e2e::{Binaries, Lab, Namespace};

const PROGRAMS: [&str; 2] = ["connlib-gateway", "connlib-client"];
/// The command line is wrong.
const USAGE: i32 = 2;
/// `EX_CONFIG`.
const UNUSABLE: i32 = 78;

/// A machine on which everything would be in order, but for the portal.
struct Machine {
    namespace: Namespace,
    token: PathBuf,
    lab: Lab,
}

impl Machine {
    fn new() -> Self {
        let lab = Lab::new().unwrap();
        let namespace = lab.namespace("machine").unwrap();
        let token = lab.directory().join("token");
        fs::write(&token, ".id.secret\n").unwrap();
        fs::set_permissions(&token, Permissions::from_mode(0o600)).unwrap();
        Self { namespace, token, lab }
    }

    /// Another file with this content and mode.
    fn file(&self, name: &str, content: &[u8], mode: u32) -> String {
        let path = self.lab.directory().join(name);
        fs::write(&path, content).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
        path.to_str().unwrap().to_owned()
    }

    /// Asserts that both programs refuse this command line in one line with all of these words.
    fn refuses(&self, arguments: &[&str], status: i32, words: &[&str]) {
        for program in PROGRAMS {
            let output = self.namespace.command(program).args(arguments).output().unwrap();
            assert_refused(program, &output, status, words);
        }
    }

    /// The same for what comes after a portal and a token that are in order.
    fn refuses_besides(&self, arguments: &[&str], words: &[&str]) {
        let token = self.token.to_str().unwrap();
        let all = [&["--api-url", "ws://127.0.0.1:1", "--token-file", token], arguments].concat();
        self.refuses(&all, UNUSABLE, words);
    }

    /// The same for a shell script that has been given a command line in order as its arguments.
    fn refuses_script(&self, script: &str, words: &[&str]) {
        for program in PROGRAMS {
            let path = Binaries::locate().unwrap().path(program).unwrap();
            let output = self
                .namespace
                .command("sh")
                .args(["-e", "-c", script, "sh"])
                .arg(path)
                .args(["--api-url", "ws://127.0.0.1:1", "--token-file"])
                .arg(&self.token)
                .output()
                .unwrap();
            assert_refused(program, &output, UNUSABLE, words);
        }
    }
}

fn assert_refused(program: &str, output: &Output, status: i32, words: &[&str]) {
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(status), "{program}: {said}");
    for word in words {
        assert!(said.contains(word), "{program}, {word:?}: {said}");
    }
    if status == UNUSABLE {
        assert_eq!(said.lines().count(), 1, "{program}: {said}");
        // What one error says of another is said once.
        let reasons: Vec<&str> = said.trim().split(": ").collect();
        let mut unique = reasons.clone();
        unique.dedup();
        assert_eq!(reasons, unique, "{program}");
    }
}

#[test]
fn a_wrong_command_line() {
    let machine = Machine::new();
    machine.refuses(&["--frobnicate"], USAGE, &["--frobnicate", "--help"]);
    machine.refuses(&[], USAGE, &["--api-url"]);
    let health = ["--api-url", "ws://127.0.0.1:1", "--health-listen", "8080"];
    machine.refuses(&health, USAGE, &["--health-listen", "8080"]);
}

#[test]
fn no_token_or_one_that_is_none() {
    let machine = Machine::new();
    let api = ["--api-url", "ws://127.0.0.1:1"];
    machine.refuses(&api, UNUSABLE, &["no token", "--token-file", "CONNLIB_TOKEN", "/etc/connlib"]);
    let with = |file: &str, words: &[&str]| {
        machine.refuses(&[&api[..], &["--token-file", file]].concat(), UNUSABLE, words);
    };
    with("/nonexistent", &["/nonexistent", "No such file", "put the token there"]);
    with(machine.lab.directory().to_str().unwrap(), &["not a regular file"]);
    let open = machine.file("open", b".id.secret", 0o644);
    with(&open, &["can be read by others", &format!("chmod 600 {open}")]);
    with(&machine.file("empty", b"\n", 0o600), &["is empty"]);
    with(&machine.file("binary", b"\xff\xfe\x00", 0o600), &["characters that no token has"]);
    with(&machine.file("long", &[b'a'; 20_000], 0o600), &["longer than any token"]);
}

#[test]
fn a_url_that_leads_to_no_portal() {
    let machine = Machine::new();
    let token = machine.token.to_str().unwrap();
    let with = |url: &str, words: &[&str]| {
        machine.refuses(&["--api-url", url, "--token-file", token], UNUSABLE, words);
    };
    with("ftp://portal.example", &["wss://", "ftp://"]);
    with("portal.example", &["`portal.example`", "wss://"]);
    let arguments = ["--api-url", "wss://portal.example", "--token-file", token, "--ca-file"];
    let certificates = machine.file("ca.pem", b"no certificate", 0o600);
    for file in [certificates.as_str(), "/nonexistent"] {
        let arguments = [&arguments[..], &[file]].concat();
        machine.refuses(&arguments, UNUSABLE, &["certificates", file]);
    }
}

#[test]
fn settings_that_cannot_be() {
    let machine = Machine::new();
    machine.refuses_besides(&["--log-filter", "a=b=c"], &["a=b=c", "info,"]);
    machine.refuses_besides(&["--tun", "a/b"], &["a/b", "1 to 15 bytes"]);
    machine.refuses_besides(&["--tun", "lo"], &["interface lo", "choose another name"]);
}

#[test]
fn what_is_taken() {
    let machine = Machine::new();
    let address = "127.0.0.1:8080";
    let taken = machine.namespace.enter(|| TcpListener::bind(address)).unwrap().unwrap();
    let words = [address, "in use", "--health-listen"];
    machine.refuses_besides(&["--health-listen", address], &words);
    drop(taken);

    let token = machine.token.to_str().unwrap();
    let mut first = machine
        .namespace
        .command("connlib-gateway")
        .args(["--api-url", "ws://127.0.0.1:1", "--token-file", token, "--tun", "tun-taken"])
        .args(["--log-format", "json"])
        .spawn("gateway")
        .unwrap();
    first.wait_for("portal is away", std::time::Duration::from_secs(10)).unwrap();
    machine.refuses_besides(
        &["--tun", "tun-taken"],
        &["tun-taken", "in use by another process", "choose another name"],
    );
}

#[test]
fn no_privilege() {
    let machine = Machine::new();
    let script = format!("{COPY} exec setpriv {NOBODY} --inh-caps -all \"$@\"");
    machine.refuses_script(&script, &["CAP_NET_ADMIN", "AmbientCapabilities=CAP_NET_ADMIN"]);
}

#[test]
fn no_tun_device() {
    let machine = Machine::new();
    let net_admin = "--inh-caps -all,+net_admin --ambient-caps -all,+net_admin";
    let script =
        format!("{COPY} mount -t tmpfs tmpfs /dev/net; exec setpriv {NOBODY} {net_admin} \"$@\"");
    machine.refuses_script(&script, &["/dev/net/tun", "load the kernel module `tun`"]);
    // Not the device, but something else.
    let fake = script.replace("/dev/net;", "/dev/net; touch /dev/net/tun; chmod 666 /dev/net/tun;");
    machine.refuses_script(&fake, &["/dev/net/tun", "load the kernel module `tun`"]);
    // Not for this user.
    let closed = script.replace("/dev/net;", "/dev/net; mknod -m 600 /dev/net/tun c 10 200;");
    machine.refuses_script(&closed, &["no permission", "CAP_NET_ADMIN", "/dev/net/tun"]);
}

const NOBODY: &str = "--reuid 65534 --regid 65534 --clear-groups --no-new-privs";

/// Puts the program and the token where anybody can read them, which the places of builds and labs are not.
const COPY: &str = "mount -t tmpfs tmpfs /mnt; cp \"$1\" /mnt/program; cp \"$5\" /mnt/token; \
                    chown 65534 /mnt/token; set -- /mnt/program \"$2\" \"$3\" \"$4\" /mnt/token;";
