//! User-space WireGuards that `wg` configures.

use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use connlib_e2e::{Namespace, Process, wait};

use super::{
    DEADLINE, MTU,
    network::{CLIENT_OUTSIDE, GATEWAY_OUTSIDE, Network, RESOURCES},
};

const INTERFACE: &str = "wg0";
const PORT: u16 = 51820;
const CLIENT_INSIDE: &str = "10.30.0.1";
const GATEWAY_INSIDE: &str = "10.30.0.2";

/// One end of the tunnel and its keys.
struct End<'a> {
    namespace: &'a Namespace,
    process: Process,
    private_key: String,
    public_key: String,
}

/// Starts both ends and joins them. The client's process is the first.
pub(super) fn set_up(network: &Network, name: &str, program: &Path) -> Result<Vec<Process>> {
    let client = End::start(&network.client, program, &format!("{name}-client"))?;
    let gateway = End::start(&network.gateway, program, &format!("{name}-gateway"))?;

    let join = || {
        let allowed = format!("{GATEWAY_INSIDE}/32,{RESOURCES}");
        client.configure(CLIENT_INSIDE, &gateway, &allowed, GATEWAY_OUTSIDE)?;
        let allowed = format!("{CLIENT_INSIDE}/32");
        gateway.configure(GATEWAY_INSIDE, &client, &allowed, CLIENT_OUTSIDE)?;
        client.namespace.route(RESOURCES, GATEWAY_INSIDE)
    };
    join().with_context(|| [&client, &gateway].map(End::last_words).concat())?;
    Ok(vec![client.process, gateway.process])
}

impl<'a> End<'a> {
    fn start(namespace: &'a Namespace, program: &Path, name: &str) -> Result<Self> {
        // The control sockets of all such programs lie in one directory, which namespaces of networks do not part.
        let script =
            "mkdir -p /run/wireguard && mount -t tmpfs none /run/wireguard && exec \"$0\" \"$@\"";
        let mut process = namespace
            .command("sh")
            .args(["-c", script])
            .arg(program)
            .args(["--foreground", INTERFACE])
            .env("WG_PROCESS_FOREGROUND", "1")
            // boringtun-cli would look for whoever called sudo.
            .env("WG_SUDO", "true")
            .spawn(name)?;
        let is_there = |process: &Process| wg(namespace, process, &["show", INTERFACE], "").is_ok();
        wait::until(&format!("{name} to make its device"), DEADLINE, || {
            let ended = process.exit_status().is_ok_and(|status| status.is_some());
            (ended || is_there(&process)).then_some(())
        })?;
        ensure!(process.exit_status()?.is_none(), "it ended at once: {}", process.log().tail(5));

        let private_key = namespace.command("wg").arg("genkey").run()?;
        let public_key = namespace.command("wg").arg("pubkey").stdin(&private_key).run()?;
        let public_key = public_key.trim().to_owned();
        Ok(Self { namespace, process, private_key, public_key })
    }

    fn last_words(&self) -> String {
        self.process.log().tail(5)
    }

    /// Takes an address and makes `peer` known, which is at `endpoint` and speaks for `allowed`.
    fn configure(&self, address: &str, peer: &Self, allowed: &str, endpoint: &str) -> Result<()> {
        let (port, endpoint) = (PORT.to_string(), format!("{endpoint}:{PORT}"));
        let own = ["set", INTERFACE, "private-key", "/dev/stdin", "listen-port", &port];
        let other = ["peer", &peer.public_key, "allowed-ips", allowed, "endpoint", &endpoint];
        wg(self.namespace, &self.process, &[&own[..], &other[..]].concat(), &self.private_key)?;
        self.namespace.address(INTERFACE, &format!("{address}/24"))?;
        self.namespace.ip(&format!("link set {INTERFACE} mtu {MTU} up"))?;
        Ok(())
    }
}

/// Runs `wg` where it sees the control socket of `process`.
fn wg(at: &Namespace, process: &Process, arguments: &[&str], stdin: &str) -> Result<String> {
    let id = process.id().to_string();
    at.command("nsenter")
        .args(["--mount", "--target", &id, "wg"])
        .args(arguments)
        .stdin(stdin)
        .run()
}
