//! Client and gateway as an unprivileged user with CAP_NET_ADMIN and nothing else, as their systemd units start them.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test")]

use std::{fs, time::Duration};

use connlib_e2e::{
    Binaries, Lab, Namespace, Process, Scenario, Setup, scenario::event, topology::OFFICE_PAGE,
};

const DEADLINE: Duration = Duration::from_secs(20);

/// Starts `$1` with the arguments behind, and with the token of the file `$2`. The device is open to all, as
/// distributions have it; the program lies where the user can read it, which the place of a build need not be.
const SCRIPT: &str = "
    mount -t tmpfs tmpfs /mnt
    cp \"$1\" /mnt/program
    mount -t tmpfs tmpfs /dev/net
    mknod -m 666 /dev/net/tun c 10 200
    export CONNLIB_TOKEN=\"$(cat \"$2\")\"
    shift 2
    exec setpriv --reuid 65534 --regid 65534 --clear-groups --no-new-privs --bounding-set -all,+net_admin \
        --inh-caps -all,+net_admin --ambient-caps -all,+net_admin /mnt/program \"$@\"";

#[test]
fn for_the_gateway_and_for_the_client() {
    let setup = Setup { dns_control: "disabled".to_owned(), ..Setup::default() };
    let mut scenario = Scenario::prepare(Lab::new().unwrap(), setup).unwrap();
    scenario.start_portal().unwrap();
    let gateway = scenario.network.gateway.clone();
    assert_eq!(forwarding(&gateway), ["0", "0"]);

    scenario.gateway = Some(start(&scenario, &gateway, "gateway", &[]));
    let client = scenario.network.client.clone();
    scenario.client = Some(start(&scenario, &client, "client", &["--dns-control", "disabled"]));
    for url in ["http://10.20.0.10/", "http://[fd20::10]/"] {
        let page = scenario.fetch(url).unwrap_or_else(|e| panic!("{url}: {e:#}"));
        assert_eq!(page.trim(), OFFICE_PAGE, "{url}");
    }
    // It has made the host a router, and masquerades, by itself.
    assert_eq!(forwarding(&gateway), ["1", "1"]);
    assert!(rules(&gateway).contains("masquerade"));

    for process in [scenario.client.take().unwrap(), scenario.gateway.take().unwrap()] {
        assert!(process.terminate(DEADLINE).unwrap().success());
    }
    assert_eq!(forwarding(&gateway), ["0", "0"]);
    assert_eq!(rules(&gateway), "");
    assert!(!client.ip("rule").unwrap().contains("fwmark"));
    scenario.finish().unwrap();
}

fn start(scenario: &Scenario, at: &Namespace, role: &str, arguments: &[&str]) -> Process {
    let program = Binaries::locate().unwrap().path(&format!("connlib-{role}")).unwrap();
    let mut process = at
        .command("sh")
        .args(["-e", "-c", SCRIPT, "sh"])
        .arg(program)
        .arg(scenario.token(role, role).unwrap())
        .args(["--api-url", "ws://portal.example:8080", "--id", role, "--log-format", "json"])
        .args(arguments)
        .spawn_watched(role)
        .unwrap();
    process.wait_for(event::SIGNED_IN, DEADLINE).unwrap();
    let status = fs::read_to_string(format!("/proc/{}/status", process.id())).unwrap();
    let value = |key: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(key)).unwrap();
        line.split_whitespace().next().unwrap().to_owned()
    };
    for set in ["CapEff:", "CapPrm:", "CapBnd:", "CapAmb:"] {
        assert_eq!(value(set), "0000000000001000", "{set}");
    }
    assert_eq!((value("Uid:").as_str(), value("NoNewPrivs:").as_str()), ("65534", "1"));
    process
}

/// Whether the host forwards IPv4 and IPv6.
fn forwarding(namespace: &Namespace) -> [String; 2] {
    ["ipv4/ip_forward", "ipv6/conf/all/forwarding"].map(|key| {
        let path = format!("/proc/sys/net/{key}");
        namespace.enter(|| fs::read_to_string(path)).unwrap().unwrap().trim().to_owned()
    })
}

fn rules(namespace: &Namespace) -> String {
    namespace.command("nft").args(["list", "ruleset"]).run().unwrap()
}
