//! Labs stand side by side, and go however their process ends.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test")]

use std::{
    env, fs,
    io::{BufRead as _, BufReader, Read as _},
    panic,
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

use connlib_e2e::{Lab, wait};

fn namespaces() -> Vec<String> {
    let entries = fs::read_dir("/run/netns").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().into_string().ok()).collect()
}

fn is_gone(full_name: &str) -> bool {
    !namespaces().contains(&full_name.to_owned())
        && !Path::new("/etc/netns").join(full_name).exists()
}

#[test]
fn when_it_is_dropped() {
    let lab = Lab::new().unwrap();
    let node = lab.namespace("node").unwrap();
    let mut sleeper = node.command("sleep").arg("1000").spawn("sleeper").unwrap();
    let directory = lab.directory().to_owned();
    assert!(namespaces().contains(&node.full_name().to_owned()));

    drop(lab);

    assert!(is_gone(node.full_name()));
    assert!(!directory.exists());
    assert!(sleeper.exit_status().unwrap().is_some(), "a program outlived its lab");
    node.command("true").run().expect_err("a program started in a lab that is gone");
}

/// As Ctrl-C at a bad moment leaves it.
#[test]
fn when_a_namespace_has_files_and_no_handle() {
    let lab = Lab::new().unwrap();
    let node = lab.namespace("node").unwrap();
    let deleted = Command::new("ip").args(["netns", "delete", node.full_name()]).status();
    assert!(deleted.unwrap().success());

    drop(lab);

    assert!(is_gone(node.full_name()));
}

#[test]
fn when_a_test_panics_but_for_the_logs() {
    let mut facts = None;
    let failure = panic::catch_unwind(panic::AssertUnwindSafe(|| {
        let lab = Lab::new().unwrap();
        let node = lab.namespace("node").unwrap();
        node.command("echo")
            .arg("a clue")
            .spawn("clue")
            .unwrap()
            .wait(Duration::from_secs(5))
            .unwrap();
        facts = Some((lab.directory().to_owned(), node.full_name().to_owned()));
        panic!("on purpose");
    }));
    assert!(failure.is_err());

    let (directory, node) = facts.unwrap();
    assert!(is_gone(&node));
    assert_eq!(fs::read_to_string(directory.join("logs/clue.log")).unwrap(), "a clue\n");
    fs::remove_dir_all(directory).unwrap();
}

#[test]
fn when_its_process_is_killed_and_another_lab_starts() {
    let mut victim = Command::new(env::current_exe().unwrap())
        .args(["--ignored", "--exact", "--nocapture", "stand_until_killed"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(victim.stdout.take().unwrap()).lines();
    let node = lines
        .map(Result::unwrap)
        .find_map(|line| Some(line.split_once("standing: ")?.1.to_owned()))
        .unwrap();
    let _beside = Lab::new().unwrap();
    assert!(!is_gone(&node), "a lab was swept while its process lived");

    victim.kill().unwrap();
    victim.wait().unwrap();
    assert!(!is_gone(&node));

    let _next = Lab::new().unwrap();
    assert!(is_gone(&node));
}

#[test]
#[ignore = "run by the test above"]
fn stand_until_killed() {
    let lab = Lab::new().unwrap();
    let node = lab.namespace("node").unwrap();
    let _sleeper = node.command("sleep").arg("1000").spawn("sleeper").unwrap();
    println!("standing: {}", node.full_name());
    drop(std::io::stdin().read(&mut [0]));
}

#[test]
fn a_complaint_in_a_watched_log_fails_the_lab() {
    let complain = |allowed: Option<&str>| {
        let lab = Lab::new().unwrap();
        let node = lab.namespace("node").unwrap();
        let line = r#"{"level":"WARN","fields":{"message":"disk is full"}}"#;
        let mut program = node.command("echo").arg(line).spawn_watched("program").unwrap();
        program.wait(Duration::from_secs(5)).unwrap();
        if let Some(text) = allowed {
            program.log().allow(text);
        }
        let directory = lab.directory().to_owned();
        let result = lab.finish();
        if result.is_err() {
            fs::remove_dir_all(directory).unwrap();
        }
        result
    };
    let error = complain(None).unwrap_err().to_string();
    assert!(error.contains("program: WARN disk is full"), "{error}");
    complain(Some("disk is full")).unwrap();
}

#[test]
fn programs_see_resolvers_of_their_own() {
    let lab = Lab::new().unwrap();
    let node = lab.namespace("node").unwrap();
    let before = fs::read_to_string("/etc/resolv.conf").unwrap();
    node.set_resolvers(&["203.0.113.53".parse().unwrap()]).unwrap();
    let read = || node.command("cat").arg("/etc/resolv.conf").run().unwrap();
    assert_eq!(read(), "nameserver 203.0.113.53\n");

    // A program that rewrites the file in place does so for all others of its namespace.
    node.command("sh")
        .args(["-c", "echo nameserver 100.100.111.1 > /etc/resolv.conf"])
        .run()
        .unwrap();
    assert_eq!(read(), "nameserver 100.100.111.1\n");
    assert_eq!(fs::read_to_string("/etc/resolv.conf").unwrap(), before);

    // What it puts beside that file is there for them, and for nobody else.
    let other = lab.namespace("other").unwrap();
    let path = "/etc/resolv.conf.before-test";
    node.command("sh").args(["-c", &format!("echo hello > {path}")]).run().unwrap();
    assert_eq!(node.command("cat").arg(path).run().unwrap(), "hello\n");
    other.command("cat").arg(path).run().unwrap_err();
    assert!(!Path::new(path).exists(), "{path} is on the host");
    // All else is the host's, for everybody.
    let passwd = fs::read_to_string("/etc/passwd").unwrap();
    let nobody = node.command("setpriv").args(["--reuid", "65534", "--clear-groups"]);
    assert_eq!(nobody.args(["cat", "/etc/passwd"]).run().unwrap(), passwd);
}

#[test]
fn a_wait_gives_up_at_its_deadline() {
    let error = wait::until("godot", Duration::from_millis(30), || None::<()>).unwrap_err();
    assert!(error.to_string().contains("godot"));
}
