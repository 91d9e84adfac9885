//! What is wrong shows at the start: the exit status, and words that help.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use super::support::{Network, RELAY, text};

#[test]
fn the_message_names_the_remedy() {
    let network = Network::new();
    let users = network.users();
    let open = network.file("open", "anna:secret\n");
    fs::set_permissions(&open, fs::Permissions::from_mode(0o644)).unwrap();
    let token = network.file("token", ".token\n");
    let guessable = network.file("secret", "horse\n");
    let tls = network.certificate("relay");
    let other = network.certificate("other");
    let address = ["--public-ip4-addr", RELAY];
    let alone = ["--public-ip4-addr", RELAY, "--user-file", text(&users)];
    let with = |base: &[&str], more: &[&str]| -> Vec<String> {
        base.iter().chain(more).map(ToString::to_string).collect()
    };
    let tls_with = |certificate, key| {
        with(&alone, &["--listen-tls", "0.0.0.0:443", "--tls-cert", certificate, "--tls-key", key])
    };

    for (arguments, status, words) in [
        (with(&alone, &["--wrong"]), 2, "--wrong"),
        (with(&["--user-file", text(&users)], &[]), 2, "--public-ip4-addr"),
        (with(&address, &[]), 2, "--static-secret-file"),
        (
            with(&alone, &["--lowest-port", "60000", "--highest-port", "50000"]),
            2,
            "above --highest-port",
        ),
        (with(&alone, &["--listen-tls", "0.0.0.0:443"]), 2, "--tls-cert"),
        (with(&address, &["--user-file", text(&open)]), 78, "chmod 600"),
        (with(&address, &["--user-file", "/nowhere"]), 78, "/nowhere"),
        (with(&address, &["--static-secret-file", "/dev/null"]), 78, "not a regular file"),
        (with(&address, &["--static-secret-file", text(&guessable)]), 78, "openssl rand -hex 32"),
        (with(&address, &["--api-url", "ws://127.0.0.1:1"]), 78, "--token-file"),
        (with(&address, &["--api-url", "ftp://x", "--token-file", text(&token)]), 78, "wss://"),
        (with(&alone, &["--bind-ip4-addr", "192.0.2.1"]), 78, "192.0.2.1:3478"),
        (tls_with(text(&tls.certificate), text(&other.key)), 78, "do not fit"),
        (tls_with(text(&tls.key), text(&tls.key)), 78, "there is no certificate"),
        (tls_with(text(&tls.certificate), text(&tls.certificate)), 78, "no usable private key"),
        (with(&alone, &["--log-filter", "=="]), 78, "log filter"),
    ] {
        let output = network.bare_command().args(&arguments).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(status), "{arguments:?}: {said}");
        assert!(said.contains(words), "{arguments:?}: {said}");
    }
}

#[test]
fn a_port_that_somebody_has_is_named() {
    let network = Network::new();
    let tcp = ["--listen-tcp", "0.0.0.0:3478"];
    let _relay = network.start(&tcp);
    let users = network.users();
    // Each lacks but one port.
    for (arguments, port) in [
        (&[][..], "203.0.113.5:3478 for TURN over UDP"),
        (
            &["--listen-port", "3479", "--listen-tcp", "0.0.0.0:3478"],
            "0.0.0.0:3478 for TURN over TCP",
        ),
        (&["--listen-port", "3480", "--health-listen", "127.0.0.1:8080"], "--health-listen"),
    ] {
        let command =
            network.bare_command().args(["--public-ip4-addr", RELAY, "--user-file", text(&users)]);
        let output = command.args(arguments).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(78), "{said}");
        assert!(said.contains(port), "{said}");
    }
}
