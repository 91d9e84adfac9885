//! What `dig` and the system's resolver get from the client's DNS.
#![allow(clippy::unwrap_used, reason = "a test")]

use std::net::IpAddr;

use connlib_e2e::{
    Scenario, Setup,
    scenario::POLICY,
    topology::{OFFICE_PAGE, PUBLIC_PAGE},
};

/// Where resolvers that the client replaces are reached: the first of its sentinels.
const SENTINEL: &str = "100.100.111.1";

fn dig(scenario: &Scenario, arguments: &[&str]) -> String {
    let dig = scenario.network.client.command("dig");
    dig.args(["+time=5", "+tries=1"]).args(arguments).run().unwrap()
}

/// The addresses of a name, as `dig` gets them from the machine's resolver.
fn look_up(scenario: &Scenario, arguments: &[&str]) -> Vec<IpAddr> {
    let output = dig(scenario, &[&["+short"], arguments].concat());
    output.lines().map(|line| line.parse().unwrap()).collect()
}

fn is_proxy(address: &IpAddr) -> bool {
    // 100.96.0.0/11 and fd00:2021:1111:8000::/107.
    match address {
        IpAddr::V4(ip) => u32::from(*ip) >> 21 == u32::from_be_bytes([100, 96, 0, 0]) >> 21,
        IpAddr::V6(ip) => ip.segments()[..6] == [0xfd00, 0x2021, 0x1111, 0x8000, 0, 0],
    }
}

#[test]
fn a_name_of_a_wildcard_has_addresses_of_both_families() {
    let scenario = Scenario::start(Setup::default()).unwrap();
    for (family, kind) in [("-4", "A"), ("-6", "AAAA")] {
        let addresses = look_up(&scenario, &["web.office.example", kind]);
        assert_eq!(addresses.len(), 4, "{kind}: {addresses:?}");
        assert!(addresses.iter().all(is_proxy), "{addresses:?}");
        // An alias, and a name that nobody has asked for before.
        for name in ["web.office.example", "WIKI.office.example"] {
            let page = scenario.curl().args([family, &format!("http://{name}/")]).run().unwrap();
            assert_eq!(page.trim(), OFFICE_PAGE, "{family} {name}");
        }
    }
    scenario.finish().unwrap();
}

#[test]
fn other_names_are_left_alone() {
    let scenario = Scenario::start(Setup::default()).unwrap();
    assert_eq!(scenario.fetch("http://public.example/").unwrap().trim(), PUBLIC_PAGE);
    let addresses = look_up(&scenario, &["public.example", "A"]);
    assert_eq!(addresses, ["203.0.113.80".parse::<IpAddr>().unwrap()]);
    let missing = dig(&scenario, &["missing.example"]);
    assert!(missing.contains("status: NXDOMAIN"), "{missing}");
    scenario.finish().unwrap();
}

#[test]
fn over_tcp_as_well() {
    let scenario = Scenario::start(Setup::default()).unwrap();
    let server = &format!("@{SENTINEL}");
    let proxies = look_up(&scenario, &["+tcp", server, "web.office.example", "A"]);
    assert_eq!(proxies, look_up(&scenario, &[server, "web.office.example", "A"]));
    assert!(proxies.len() == 4 && proxies.iter().all(is_proxy), "{proxies:?}");
    let public = look_up(&scenario, &["+tcp", server, "public.example", "A"]);
    assert_eq!(public, ["203.0.113.80".parse::<IpAddr>().unwrap()]);
    scenario.finish().unwrap();
}

#[test]
fn records_of_other_kinds_come_from_the_site() {
    let policy = POLICY.replace("\"*.office.example\"", "\"**.office.example\"");
    let scenario = Scenario::start(Setup::with_policy(policy)).unwrap();
    for transport in ["+notcp", "+tcp"] {
        let service = dig(&scenario, &["+short", transport, "_web._tcp.office.example", "SRV"]);
        assert_eq!(service.trim(), "1 2 80 web.office.example.", "{transport}");
        let text = dig(&scenario, &["+short", transport, "about.office.example", "TXT"]);
        assert_eq!(text.trim(), "\"the office\"", "{transport}");
    }
    scenario.finish().unwrap();
}

#[test]
fn a_proxy_address_has_the_name_that_it_stands_for() {
    let scenario = Scenario::start(Setup::default()).unwrap();
    for proxy in look_up(&scenario, &["web.office.example", "AAAA"]) {
        let name = dig(&scenario, &["+short", "-x", &proxy.to_string()]);
        assert_eq!(name.trim(), "web.office.example.");
    }
    scenario.finish().unwrap();
}
