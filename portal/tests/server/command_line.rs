//! What the command line prints, and its exit status.

use std::process::{Command, Output};

use crate::program::{Home, POLICY};

fn run(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_connlib-portal")).args(args).output().expect("a run")
}

#[test]
fn check_says_where_the_mistake_is() {
    let home = Home::new(POLICY);
    let path = home.policy();
    let path = path.to_str().expect("a path");
    let good = run(&["check", path]);
    assert_eq!(good.status.code(), Some(0));
    assert!(String::from_utf8_lossy(&good.stdout).starts_with("ok: 1 sites, 1 gateways"));

    home.replace_policy(&POLICY.replace("cidr", "cdir"));
    let bad = run(&["check", path]);
    assert_eq!(bad.status.code(), Some(1));
    let says = String::from_utf8_lossy(&bad.stderr).into_owned();
    assert!(says.starts_with(&format!("{path}:11:8: error: unknown variant `cdir`")), "{says}");

    let missing = run(&["check", "/does/not/exist"]);
    assert_eq!(missing.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&missing.stderr).contains("/does/not/exist"));
}

#[test]
fn run_refuses_what_cannot_work() {
    let home = Home::new(&POLICY.replace("cidr", "cdir"));
    let (policy, database) = (home.policy(), home.path("portal.db"));
    let run_with = |listen: &str| {
        run(&[
            "run",
            "--config",
            policy.to_str().expect("a path"),
            "--database",
            database.to_str().expect("a path"),
            "--listen",
            listen,
        ])
    };
    let wrong = run_with("127.0.0.1:0");
    assert_eq!(wrong.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&wrong.stderr).contains("policy.toml:11:8: error:"));

    home.replace_policy(POLICY);
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = taken.local_addr().expect("an address").to_string();
    let output = run_with(&address);
    assert_eq!(output.status.code(), Some(1));
    let says = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(says.contains(&format!("cannot listen on {address}")), "{says}");
}

#[test]
fn tokens_are_listed_without_being_shown() {
    let home = Home::new(POLICY);
    let client = home.token(&["new", "--client", "alice", "--expires", "30d"]);
    let relay = home.token(&["new", "--relay"]);
    assert!(client.starts_with('.') && !client.contains(char::is_whitespace));
    let id = relay.split('.').nth(1).expect("an id");
    home.token(&["revoke", id]);
    let list = home.token(&["list"]);
    let lines: Vec<Vec<&str>> =
        list.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(lines.len(), 3);
    assert_eq!((lines[1][1], lines[1][4], lines[1][5]), ("active", "client", "\"alice\""));
    assert_eq!((lines[2][0], lines[2][1], lines[2][2]), (id, "revoked", "never"));
    let secret = client.split('.').nth(2).expect("a secret");
    assert!(!list.contains(secret));
}

#[test]
fn a_token_for_a_name_that_the_policy_lacks_is_refused() {
    let home = Home::new(POLICY);
    let (policy, database) = (home.policy(), home.path("portal.db"));
    let output = run(&[
        "token",
        "new",
        "--gateway",
        "wg",
        "--config",
        policy.to_str().expect("a path"),
        "--database",
        database.to_str().expect("a path"),
    ]);
    assert_eq!(output.status.code(), Some(1));
    assert!(output.stdout.is_empty());
    assert!(String::from_utf8_lossy(&output.stderr).contains("has no gateway \"wg\""));
}
