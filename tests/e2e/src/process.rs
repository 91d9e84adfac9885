//! Programs that run in a namespace.

use std::{
    env,
    ffi::OsStr,
    io::Write as _,
    os::unix::process::{CommandExt as _, ExitStatusExt as _},
    path::PathBuf,
    process::{Child, ChildStdin, Command as System, ExitStatus, Output, Stdio},
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::{Namespace, log::Log, wait};

const SYSTEM_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// A program about to be run in a namespace.
///
/// It gets a clean environment: what is set where the tests run, a proxy or a token, must not
/// decide what they see. Only `PATH` and `RUST_BACKTRACE` are passed on.
#[derive(Debug)]
pub struct Command {
    namespace: Namespace,
    program: String,
    system: System,
    stdin: Option<String>,
}

impl Command {
    pub(crate) fn new(namespace: Namespace, program: &str) -> Self {
        let own = namespace.site().binaries().path(program);
        let is_ours = program.starts_with("connlib-");
        let path =
            if is_ours { own.unwrap_or_else(|_| PathBuf::from(program)) } else { program.into() };

        let mut system = System::new(path);
        system.env_clear().env("LANG", "C.UTF-8");
        // The system's own directories too: an unprivileged user's path lacks `sbin`.
        let path = env::var("PATH").unwrap_or_default();
        system.env("PATH", format!("{path}:{SYSTEM_PATH}"));
        if let Some(backtrace) = env::var_os("RUST_BACKTRACE") {
            system.env("RUST_BACKTRACE", backtrace);
        }
        system.stdin(Stdio::null());
        // Ctrl-C is for the lab, which then ends its programs.
        system.process_group(0);
        Self { namespace, program: program.to_owned(), system, stdin: None }
    }

    /// Adds one argument.
    pub fn arg(mut self, argument: impl AsRef<OsStr>) -> Self {
        self.system.arg(argument);
        self
    }

    /// Adds arguments.
    pub fn args<T: AsRef<OsStr>>(mut self, arguments: impl IntoIterator<Item = T>) -> Self {
        self.system.args(arguments);
        self
    }

    /// Sets an environment variable.
    pub fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.system.env(name, value);
        self
    }

    /// What the program reads from its standard input, where it is [run](Self::run) to its end.
    pub fn stdin(mut self, input: &str) -> Self {
        self.stdin = Some(input.to_owned());
        self
    }

    /// Runs the program to its end and returns its output and status, whatever it is.
    pub fn output(mut self) -> Result<Output> {
        let stdin = if self.stdin.is_some() { Stdio::piped() } else { Stdio::null() };
        self.system.stdin(stdin).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = self.start()?;
        if let (Some(mut pipe), Some(input)) = (child.stdin.take(), self.stdin.take()) {
            pipe.write_all(input.as_bytes())?;
        }
        Ok(child.wait_with_output()?)
    }

    /// Runs the program to its end and returns what it printed; an error with what it complained
    /// about if it failed.
    pub fn run(self) -> Result<String> {
        let line = typed(&self.system);
        text_of(&self.output()?).with_context(|| line)
    }

    /// Starts the program with all its output in a log file called `name`.
    pub fn spawn(self, name: &str) -> Result<Process> {
        self.spawn_logging(name, false)
    }

    /// Starts a program whose log must stay free of warnings and errors; see [`Log::allow`].
    pub fn spawn_watched(self, name: &str) -> Result<Process> {
        self.spawn_logging(name, true)
    }

    fn spawn_logging(mut self, name: &str, watched: bool) -> Result<Process> {
        let (log, file) = self.namespace.site().new_log(name, watched)?;
        self.system.stdin(Stdio::piped()).stdout(file.try_clone()?).stderr(file);
        let child = self.start()?;
        Ok(Process { name: name.to_owned(), namespace: self.namespace, child, log })
    }

    fn start(&mut self) -> Result<Child> {
        if self.program.starts_with("connlib-") {
            self.namespace.site().binaries().path(&self.program)?;
        }
        let Self { namespace, system, .. } = self;
        namespace
            .site()
            .while_standing(|| Ok(namespace.enter(|| system.spawn())??))
            .with_context(|| format!("cannot start {}", self.program))
    }
}

/// A running program. It is killed when this is dropped, unless its lab is kept.
#[derive(Debug)]
pub struct Process {
    name: String,
    namespace: Namespace,
    child: Child,
    log: Log,
}

impl Process {
    /// The process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// What the program printed.
    pub fn log(&self) -> &Log {
        &self.log
    }

    /// The namespace that it runs in.
    pub fn namespace(&self) -> &Namespace {
        &self.namespace
    }

    /// The other end of the program's standard input.
    pub(crate) fn stdin(&mut self) -> Option<&mut ChildStdin> {
        self.child.stdin.as_mut()
    }

    /// The exit status, if the program has ended.
    pub fn exit_status(&mut self) -> Result<Option<ExitStatus>> {
        Ok(self.child.try_wait()?)
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        let id = Pid::from_raw(self.child.id().cast_signed());
        kill(id, signal).with_context(|| format!("cannot signal {}", self.name))
    }

    /// Waits for the program to end by itself.
    pub fn wait(&mut self, deadline: Duration) -> Result<ExitStatus> {
        let child = &mut self.child;
        wait::until(&format!("{} to end", self.name), deadline, || child.try_wait().transpose())?
            .context("cannot wait")
    }

    /// Sends SIGTERM and waits for the end.
    pub fn terminate(mut self, deadline: Duration) -> Result<ExitStatus> {
        self.signal(Signal::SIGTERM)?;
        self.wait(deadline)
    }

    /// Ends the program by SIGKILL: it cannot say goodbye.
    pub fn kill(mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// Waits for a log line about `event`; see [`Log::wait_for`]. Gives up as soon as the program
    /// has ended.
    pub fn wait_for(&mut self, event: &str, deadline: Duration) -> Result<crate::log::Line> {
        let (child, log) = (&mut self.child, &self.log);
        let what = format!("{} to log {event:?} (log: {})", self.name, log.path().display());
        let end = wait::until(&what, deadline, || {
            // In this order: what a program logs just before it ends counts.
            let ended = child.try_wait().ok().flatten();
            log.find(event).map(Ok).or(ended.map(Err))
        })?;
        match end {
            Ok(line) => Ok(line),
            Err(status) => bail!(
                "{} ended with {status} before it logged {event:?}:\n{}",
                self.name,
                log.tail(5)
            ),
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if !self.namespace.site().is_kept() {
            drop(self.child.kill());
            drop(self.child.wait());
        }
    }
}

/// Runs a program of the system to its end and returns what it printed.
pub(crate) fn checked_output(mut command: System) -> Result<String> {
    let line = typed(&command);
    // Ctrl-C is for the lab: what it makes is whole, and then goes.
    command.process_group(0);
    let output = command.output().with_context(|| format!("cannot start {line}"))?;
    text_of(&output).with_context(|| line)
}

/// A command as one would type it.
fn typed(command: &System) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
}

fn text_of(output: &Output) -> Result<String> {
    if !output.status.success() {
        let how = match output.status.signal() {
            Some(signal) => format!("signal {signal}"),
            None => format!("status {}", output.status.code().unwrap_or_default()),
        };
        bail!("{how}: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
