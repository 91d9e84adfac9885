//! What the demo prints.

use std::{
    fmt::Display,
    io::{self, Write as _},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use connlib_e2e::Scenario;

/// Prints a step as it begins, and how it went.
pub(super) fn step<T>(name: &str, action: impl FnOnce() -> Result<T>) -> Result<T> {
    telling_step(name, || Ok((action()?, String::new())))
}

/// A step whose action also returns a remark to print.
pub(super) fn telling_step<T>(
    name: &str,
    action: impl FnOnce() -> Result<(T, String)>,
) -> Result<T> {
    print!("{name:<44}");
    io::stdout().flush()?;
    let start = Instant::now();
    let result = action();
    let duration = start.elapsed().as_secs_f64();
    match result {
        Ok((value, remark)) => {
            println!("{}", format!("ok {duration:>7.2} s  {remark}").trim_end());
            Ok(value)
        }
        Err(error) => {
            println!("FAILED after {duration:.2} s");
            Err(error).with_context(|| format!("step \"{name}\""))
        }
    }
}

/// The way that packets take between client and gateway.
#[derive(Debug)]
pub(super) struct Path {
    /// The end that the client sends from, and the gateway as the client sees it.
    pub(super) client: [String; 2],
    /// The end that the gateway sends from, and the client as the gateway sees it.
    pub(super) gateway: [String; 2],
    /// Whether it leads through the relay.
    pub(super) is_relayed: bool,
}

/// The picture of the network, with the chosen path.
pub(super) fn picture(path: &Path) {
    println!(
        "
  client ─── router ───┐                                      ┌── web server  10.20.0.10  fd20::10
  192.168.77.2  NAT    │             ┌── router ── gateway ───┼── database    10.20.0.20  fd20::20
  fd77::2              │             │   NAT   192.168.88.2   └── name server 10.20.0.53  fd20::53
         203.0.113.20  ├─ internet ──┤   203.0.113.21  fd88::2    the office, 10.20.0.0/24, fd20::/64
                       │             ├── portal 203.0.113.5
                       │             └── relay 203.0.113.31
                       203.0.113.0/24, 2001:db8:113::/64
"
    );
    let Path { client: [client, gateway_outside], gateway: [gateway, client_outside], is_relayed } =
        path;
    let how = if *is_relayed { "through the relay" } else { "direct, through both routers" };
    println!("  chosen path: {how}");
    println!("    client   sends from {client} to {gateway_outside}");
    println!("    gateway  sends from {gateway} to {client_outside}");
}

/// One line of the table of times and rates.
pub(super) fn figure(name: &str, value: impl Display) {
    println!("  {name:<16}{value:>14}");
}

/// A time for people.
pub(super) fn milliseconds(duration: Duration) -> String {
    format!("{:.1} ms", duration.as_secs_f64() * 1000.0)
}

/// What somebody can do with a network that stays.
pub(super) fn how_to_enter(scenario: &Scenario) {
    let enter = format!("ip netns exec {}", scenario.network.client.full_name());
    let logs = scenario.lab().directory().join("logs");
    let commands = [
        (format!("{enter} curl http://web.office.example/"), "fetch a page as the client"),
        (format!("{enter} bash"), "enter the client's namespace"),
        (format!("less {}/client.log", logs.display()), "read its log; others lie beside it"),
        ("cargo xtask demo --clean".to_owned(), "take it down"),
    ];
    let width = commands.iter().map(|(command, _)| command.len()).max().unwrap_or_default();
    println!("\nthe network stays, with its programs. As root:\n");
    for (command, remark) in commands {
        println!("  {command:<width$}  # {remark}");
    }
}
