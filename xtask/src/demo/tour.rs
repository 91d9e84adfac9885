//! The demo's steps, in the order in which a user would notice that they fail.

use std::{
    fs::File,
    io,
    time::{Duration, SystemTime},
};

use anyhow::{Context as _, Result, bail, ensure};
use connlib_e2e::{
    Process, Scenario,
    log::Line,
    payload::Payload,
    scenario::{self, event},
    topology::{OFFICE_PAGE, PUBLIC_PAGE},
};

use super::{
    report::{self, Path, figure, milliseconds, step, telling_step},
    transfer::{Transfer, sha256},
};

/// 100 MB.
const LENGTH: u64 = 100_000_000;
const SOON: Duration = Duration::from_secs(5);

/// Starts everything, uses it, and prints what was seen.
///
/// `is_relayed`: whether there must be no other path than through the relay, or that must be left.
pub(super) fn tour(mut scenario: Scenario, is_relayed: bool) -> Result<Scenario> {
    step("starting the portal", || scenario.start_portal().map(drop))?;
    step("starting the relay", || scenario.start_relays())?;
    step("starting the gateway", || scenario.start_gateway().map(drop))?;
    let start = SystemTime::now();
    step("starting the client", || scenario.start_client().map(drop))?;

    let named = page("a page by name, A and AAAA", &scenario, "http://web.office.example/")?;
    page("a page by name, A only", &scenario, "http://v4.office.example/")?;
    page("a page by name, AAAA only", &scenario, "http://v6.office.example/")?;
    page("a page by IPv4 address", &scenario, "http://10.20.0.10/")?;
    page("a page by IPv6 address", &scenario, "http://[fd20::10]/")?;
    step("a page outside, past the tunnel", || {
        let text = scenario.fetch("http://public.example/")?;
        ensure!(text.trim() == PUBLIC_PAGE, "the page says {text:?}");
        Ok(())
    })?;
    let upload = telling_step("100 MB up", || upload(&scenario))?;
    let download = telling_step("100 MB down", || download(&scenario))?;
    refusal("refused: a port that the filter leaves out", &scenario, "10.20.0.10:8080")?;
    refusal("refused: a machine without a policy", &scenario, "10.20.0.20:80")?;

    let moments = Moments::read(&scenario)?;
    let path = path(&scenario)?;
    ensure!(path.is_relayed == is_relayed, "packets take another path than they should: {path:?}");
    report::picture(&path);
    println!("\nthe first page, and the large file:\n");
    let sign_in = moments.signed_in.time.and_then(|time| time.duration_since(start).ok());
    figure("sign-in", sign_in.map_or_else(|| "?".to_owned(), milliseconds));
    figure("name", milliseconds(named.name));
    figure("authorization", between(&moments.requested, &moments.authorized));
    figure("path", between(&moments.authorized, &moments.path));
    figure("first byte", milliseconds(named.first_byte));
    figure("up", upload.throughput());
    figure("down", download.throughput());
    Ok(scenario)
}

fn page(name: &str, scenario: &Scenario, url: &str) -> Result<Transfer> {
    telling_step(name, || {
        let file = scenario.lab().directory().join("page");
        let transfer = Transfer::fetch(scenario, url, &file)?;
        let text = std::fs::read_to_string(file)?;
        ensure!(text.trim() == OFFICE_PAGE, "the page says {text:?}");
        Ok((transfer, url.to_owned()))
    })
}

fn upload(scenario: &Scenario) -> Result<(Transfer, String)> {
    let directory = scenario.lab().directory();
    let (file, answer) = (directory.join("upload"), directory.join("answer"));
    io::copy(&mut Payload::new(LENGTH), &mut File::create(&file)?)?;
    let url = "http://web.office.example/upload";
    let transfer = Transfer::upload(scenario, url, &file, &answer)?;
    let sum = std::fs::read_to_string(answer)?;
    ensure!(sum.trim() == Payload::sha256(LENGTH), "the checksum of what arrived differs");
    std::fs::remove_file(file)?;
    let remark = format!("{}, checksum matches", transfer.throughput());
    Ok((transfer, remark))
}

fn download(scenario: &Scenario) -> Result<(Transfer, String)> {
    let file = scenario.lab().directory().join("download");
    let url = format!("http://web.office.example/bytes/{LENGTH}");
    let transfer = Transfer::fetch(scenario, &url, &file)?;
    ensure!(sha256(&file)? == Payload::sha256(LENGTH), "the checksum of what arrived differs");
    std::fs::remove_file(file)?;
    let remark = format!("{}, checksum matches", transfer.throughput());
    Ok((transfer, remark))
}

/// The office reaches `address`, and the client must not.
fn refusal(name: &str, scenario: &Scenario, address: &str) -> Result<()> {
    let url = format!("http://{address}/");
    telling_step(name, || {
        let office = scenario.network.gateway.command("curl");
        office
            .args(["-q", "-sS", "--fail", "--max-time", "5", &url])
            .run()
            .context("nobody at all reaches it, so a refusal would prove nothing")?;
        match scenario.fetch(&url) {
            Ok(_) => bail!("the client got a page from {url}"),
            Err(error) => {
                let reason = error.root_cause().to_string();
                Ok(((), reason.rsplit("curl: ").next().unwrap_or_default().to_owned()))
            }
        }
    })
}

/// When the client got how far with the first page, by its log.
struct Moments {
    signed_in: Line,
    requested: Line,
    authorized: Line,
    path: Line,
}

impl Moments {
    fn read(scenario: &Scenario) -> Result<Self> {
        let client = scenario.client.as_ref().context("the client is not running")?.log();
        Ok(Self {
            signed_in: client.wait_for(event::SIGNED_IN, SOON)?,
            requested: client.wait_for(event::AUTHORIZATION_REQUESTED, SOON)?,
            authorized: client.wait_for(event::AUTHORIZED, SOON)?,
            path: client.wait_for(event::PATH_ESTABLISHED, SOON)?,
        })
    }
}

/// The path that packets take now, as both ends logged it.
fn path(scenario: &Scenario) -> Result<Path> {
    let ends = |peer: &Option<Process>| {
        let line = peer.as_ref().and_then(scenario::path_of).context("an end has no path")?;
        let end = |name: &str| {
            line.text(name).map(str::to_owned).with_context(|| format!("no `{name}` in: {line}"))
        };
        Ok::<_, anyhow::Error>(([end("local")?, end("remote")?], scenario::relay_of(&line)))
    };
    let (client, relay) = ends(&scenario.client)?;
    let (gateway, relay_at_gateway) = ends(&scenario.gateway)?;
    let is_relayed = relay.or(relay_at_gateway).is_some();
    Ok(Path { client, gateway, is_relayed })
}

fn between(earlier: &Line, later: &Line) -> String {
    later.since(earlier).map_or_else(|| "?".to_owned(), milliseconds)
}
