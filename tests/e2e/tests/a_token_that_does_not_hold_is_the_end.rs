//! Tokens that are unknown, expired or revoked: one clear line, an exit status of its own, no retries.
#![allow(clippy::unwrap_used, reason = "a test")]

use std::{fs, time::Duration};

use connlib_e2e::{Lab, Process, Scenario, Setup, wait};

const DEADLINE: Duration = Duration::from_secs(20);
/// `EX_NOPERM`: a new token is needed.
const SIGN_IN_REQUIRED: i32 = 77;

/// The program has ended, and has said why in one line.
fn assert_ended(process: &mut Process, why: &str) {
    let status = process.wait(DEADLINE).unwrap();
    assert_eq!(status.code(), Some(SIGN_IN_REQUIRED), "{}", process.log().tail(5));
    let errors: Vec<String> = process
        .log()
        .lines()
        .iter()
        .filter(|l| l.level == "ERROR")
        .map(|l| l.to_string())
        .collect();
    assert_eq!(errors.len(), 1, "{errors:?}");
    assert!(errors[0].contains(why) && errors[0].contains("token"), "{errors:?}");
    process.log().allow("token");
}

/// A client and a gateway without a valid token, next to a portal.
fn refuse(why: &str, spoil: impl Fn(&Scenario, &str)) {
    let mut scenario = Scenario::prepare(Lab::new().unwrap(), Setup::default()).unwrap();
    scenario.start_portal().unwrap();
    for role in ["client", "gateway"] {
        spoil(&scenario, role);
    }
    let mut client = scenario.spawn_client(&scenario.network.client, "client").unwrap();
    let mut gateway = scenario.spawn_gateway(&scenario.network.gateway, "gateway").unwrap();
    assert_ended(&mut client, why);
    assert_ended(&mut gateway, why);
    // Each knocked once.
    let portal = scenario.portal.as_ref().unwrap();
    assert_eq!(portal.log().count("refused"), 2, "{}", portal.log().tail(5));
    scenario.finish().unwrap();
}

#[test]
fn unknown() {
    refuse("unknown", |scenario, role| {
        let path = scenario.token(role, role).unwrap();
        let mut token = fs::read_to_string(&path).unwrap();
        let changed = if token.ends_with("A\n") { "B\n" } else { "A\n" };
        token.replace_range(token.len() - 2.., changed);
        fs::write(path, token).unwrap();
    });
}

#[test]
fn revoked_before() {
    refuse("revoked", revoke);
}

#[test]
fn revoked_while_it_is_in_use() {
    let mut scenario = Scenario::start(Setup::default()).unwrap();
    scenario.fetch("http://10.20.0.10/").unwrap();

    revoke(&scenario, "client");
    assert_ended(scenario.client.as_mut().unwrap(), "revoked");
    scenario.curl().args(["--connect-timeout", "2", "http://10.20.0.10/"]).run().unwrap_err();
    // Its DNS is the machine's own again.
    scenario.fetch("http://public.example/").unwrap();

    revoke(&scenario, "gateway");
    assert_ended(scenario.gateway.as_mut().unwrap(), "revoked");
    scenario.finish().unwrap();
}

fn revoke(scenario: &Scenario, name: &str) {
    scenario.token(name, name).unwrap();
    let list = scenario.token_command("list").run().unwrap();
    let row = list.lines().find(|row| row.contains("active") && row.contains(name)).unwrap();
    let id = row.split_whitespace().next().unwrap();
    scenario.token_command("revoke").arg(id).run().unwrap();
    let is_revoked = || {
        let list = scenario.token_command("list").run().unwrap();
        list.lines().any(|row| row.contains(id) && row.contains("revoked")).then_some(())
    };
    wait::until("the token to be revoked", DEADLINE, is_revoked).unwrap();
}
