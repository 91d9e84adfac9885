//! IPv6 switched off on the machines of client and gateway: everything goes by IPv4, and nobody complains.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test")]

use connlib_e2e::{
    Lab, Scenario, Setup,
    topology::{OFFICE_PAGE, Options, Underlay},
};

#[test]
fn resources_are_reached_by_ipv4() {
    let network = Options { underlay: Underlay::V4Only, ..Options::default() };
    let setup = Setup { network, ..Setup::default() };
    let mut scenario = Scenario::prepare(Lab::new().unwrap(), setup).unwrap();
    for namespace in [&scenario.network.client, &scenario.network.gateway] {
        for interfaces in ["all", "default"] {
            namespace.sysctl(&format!("net.ipv6.conf.{interfaces}.disable_ipv6"), 1).unwrap();
        }
    }
    scenario.start_portal().unwrap();
    scenario.start_gateway().unwrap();
    scenario.start_client().unwrap();
    for url in ["http://10.20.0.10/", "http://web.office.example/"] {
        let page = scenario.fetch(url).unwrap_or_else(|e| panic!("{url}: {e:#}"));
        assert_eq!(page.trim(), OFFICE_PAGE, "{url}");
    }
    for process in [&scenario.client, &scenario.gateway] {
        let log = process.as_ref().unwrap().log();
        assert!(log.lines().iter().any(|line| line.message.contains("has no IPv6")));
    }
    scenario.finish().unwrap();
}
