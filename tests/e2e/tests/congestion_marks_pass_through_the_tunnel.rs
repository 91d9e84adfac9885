//! Explicit congestion notification (RFC 6040): what routers mark outside, applications see inside.
#![allow(clippy::unwrap_used, reason = "a test")]

use std::time::Duration;

use connlib_e2e::{
    Impairment, Namespace, Scenario, Setup,
    payload::{Hash, Payload},
    topology::Options,
};

const LENGTH: u64 = 2_000_003;

/// Counts what arrives for TCP at an interface by its mark.
fn count_marks(at: &Namespace, interface: &str) {
    let rules: String = ["ip", "ip6"]
        .iter()
        .flat_map(|family| ["ce", "ect0", "not-ect"].map(|mark| (family, mark)))
        .map(|(family, mark)| {
            format!(
                "iifname {interface} meta l4proto tcp {family} ecn {mark} \
                 counter comment \"{family} {mark}\"\n"
            )
        })
        .collect();
    let chain = format!("type filter hook input priority filter\n{rules}");
    at.nft(&format!("table inet marks {{\nchain input {{\n{chain}\n}}\n}}")).unwrap();
}

/// How many packets of a mark have arrived.
fn marked(at: &Namespace, kind: &str) -> u64 {
    let rules = at.command("nft").args(["list", "table", "inet", "marks"]).run().unwrap();
    let rule = rules.lines().find(|line| line.contains(&format!("\"{kind}\""))).unwrap();
    let count = rule.split("packets ").nth(1).and_then(|rest| rest.split(' ').next());
    count.unwrap().parse().unwrap()
}

#[test]
fn both_ways() {
    let access =
        Impairment { congestion: 0.1, delay: Duration::from_millis(1), ..Impairment::default() };
    let scenario = Scenario::start(Setup::on(Options { access, ..Options::default() })).unwrap();
    let (client, web) = (&scenario.network.client, &scenario.network.web);
    for end in [client, web] {
        end.sysctl("net.ipv4.tcp_ecn", 1).unwrap();
    }
    count_marks(client, "tun-connlib");
    count_marks(web, "eth0");

    let file = scenario.lab().directory().join("upload");
    std::io::copy(&mut Payload::new(LENGTH), &mut std::fs::File::create(&file).unwrap()).unwrap();
    for (server, family) in [("10.20.0.10", "ip"), ("[fd20::10]", "ip6")] {
        let body = scenario.curl().arg(format!("http://{server}/bytes/{LENGTH}")).output().unwrap();
        let mut hash = Hash::default();
        hash.update(&body.stdout);
        assert_eq!(hash.finish(), Payload::sha256(LENGTH), "{server}");
        let sum = scenario.curl().arg("-T").arg(&file).arg(format!("http://{server}/")).run();
        assert_eq!(sum.unwrap().trim(), Payload::sha256(LENGTH), "{server}");

        for (end, name) in [(client, "client"), (web, "web server")] {
            let [ce, ect] = ["ce", "ect0"].map(|mark| marked(end, &format!("{family} {mark}")));
            assert!(ce > 0, "no mark reached the {name} by {family}, of {ect} packets");
            assert!(ect > ce, "nearly everything is marked at the {name}: {ce} of {}", ect + ce);
        }
    }
    scenario.finish().unwrap();
}

#[test]
fn and_packets_that_cannot_be_marked_stay_as_they_are() {
    let access =
        Impairment { congestion: 1.0, delay: Duration::from_millis(1), ..Impairment::default() };
    let scenario = Scenario::start(Setup::on(Options { access, ..Options::default() })).unwrap();
    let (client, web) = (&scenario.network.client, &scenario.network.web);
    for end in [client, web] {
        end.sysctl("net.ipv4.tcp_ecn", 0).unwrap();
    }
    count_marks(client, "tun-connlib");
    count_marks(web, "eth0");
    for (server, family) in [("10.20.0.10", "ip"), ("[fd20::10]", "ip6")] {
        let body = scenario.curl().arg(format!("http://{server}/bytes/{LENGTH}")).output().unwrap();
        assert_eq!(body.stdout.len() as u64, LENGTH, "{server}");
        for end in [client, web] {
            for mark in ["ce", "ect0"] {
                assert_eq!(marked(end, &format!("{family} {mark}")), 0, "{family} {mark}");
            }
            assert!(marked(end, &format!("{family} not-ect")) > 0, "{family}");
        }
    }
    scenario.finish().unwrap();
}
