//! The real binary on a loopback port of its own, with its own folder.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

pub(crate) const DEADLINE: Duration = Duration::from_secs(20);

pub(crate) const POLICY: &str = r#"account = "lab"
[[site]]
name = "hq"
[[gateway]]
name = "gw"
site = "hq"
[[client]]
name = "alice"
[[resource]]
name = "net"
type = "cidr"
address = "10.88.0.0/24"
sites = ["hq"]
[[policy]]
name = "all"
groups = ["everyone"]
resources = ["net"]
"#;

/// Policy and database of a portal, before and between its runs.
pub(crate) struct Home(TempDir);

/// A portal that runs.
pub(crate) struct Program {
    pub(crate) address: SocketAddr,
    child: Child,
    log: Arc<Log>,
}

#[derive(Default)]
struct Log {
    lines: Mutex<Vec<Value>>,
    grown: Condvar,
}

impl Home {
    pub(crate) fn new(policy: &str) -> Self {
        let home = Self(tempfile::tempdir().expect("a folder"));
        std::fs::write(home.policy(), policy).expect("a policy");
        home
    }

    pub(crate) fn policy(&self) -> PathBuf {
        self.0.path().join("policy.toml")
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Replaces the policy file as a careful program does.
    pub(crate) fn replace_policy(&self, policy: &str) {
        std::fs::write(self.path("new"), policy).expect("a file");
        std::fs::rename(self.path("new"), self.policy()).expect("a rename");
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_connlib-portal"));
        command.args(args).arg("--database").arg(self.path("portal.db"));
        command
    }

    /// Runs a `token` command and gives what it prints.
    pub(crate) fn token(&self, args: &[&str]) -> String {
        let output = self.command(&[&["token"], args].concat()).output().expect("a run");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).expect("text").trim_end().to_owned()
    }

    pub(crate) fn run(&self) -> Program {
        self.run_with(&[])
    }

    pub(crate) fn run_with(&self, args: &[&str]) -> Program {
        let mut child = self
            .command(&["run", "--listen", "127.0.0.1:0", "--log-format", "json"])
            .arg("--config")
            .arg(self.policy())
            .args(args)
            .stderr(Stdio::piped())
            .spawn()
            .expect("a process");
        let log = Arc::new(Log::default());
        let stderr = BufReader::new(child.stderr.take().expect("stderr"));
        let reader = Arc::clone(&log);
        std::thread::spawn(move || {
            for line in stderr.lines().map_while(Result::ok) {
                let line = serde_json::from_str(&line).unwrap_or(Value::String(line));
                reader.lines.lock().expect("a lock").push(line);
                reader.grown.notify_all();
            }
        });
        let mut program = Program { address: ([127, 0, 0, 1], 0).into(), child, log };
        let line = program.wait_for_log("listening");
        program.address =
            line["address"].as_str().and_then(|a| a.parse().ok()).expect("an address");
        program
    }
}

impl Program {
    /// Waits for a line with this message. Gives the line.
    pub(crate) fn wait_for_log(&self, message: &str) -> Value {
        let is_it =
            |line: &Value| line["message"].as_str().is_some_and(|text| text.contains(message));
        let end = Instant::now() + DEADLINE;
        let mut lines = self.log.lines.lock().expect("a lock");
        loop {
            if let Some(line) = lines.iter().find(|line| is_it(line)) {
                return line.clone();
            }
            let left = end.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "no \"{message}\" in {lines:#?}");
            lines = self.log.grown.wait_timeout(lines, left).expect("a lock").0;
        }
    }

    /// No line is a warning or worse.
    pub(crate) fn assert_content(&self) {
        let lines = self.log.lines.lock().expect("a lock");
        for line in &*lines {
            assert!(line["level"] == "INFO" || line["level"] == "DEBUG", "{line}");
        }
    }

    pub(crate) fn signal(&self, name: &str) {
        let pid = self.child.id().to_string();
        let status = Command::new("kill").args(["-s", name, &pid]).status().expect("kill");
        assert!(status.success());
    }

    pub(crate) fn wait(&mut self) -> ExitStatus {
        let end = Instant::now() + DEADLINE;
        loop {
            if let Some(status) = self.child.try_wait().expect("a child") {
                return status;
            }
            assert!(Instant::now() < end, "it does not end");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Ends it as SIGKILL does.
    pub(crate) fn kill(mut self) {
        self.child.kill().expect("a process");
        self.wait();
    }

    /// Sends a request as it is and gives all of the answer.
    pub(crate) fn http(&self, request: &str) -> String {
        let mut stream = TcpStream::connect(self.address).expect("a connection");
        stream.set_read_timeout(Some(DEADLINE)).expect("a timeout");
        stream.write_all(request.as_bytes()).expect("a request");
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).expect("an answer");
        String::from_utf8(answer).expect("text")
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
