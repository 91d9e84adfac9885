//! The whole path on networks that lack something.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test")]

use connlib_e2e::{
    Nat, Scenario, Setup,
    scenario::event,
    topology::{OFFICE_PAGE, Options, PUBLIC_PAGE, Underlay},
};

fn check(options: Options) {
    let scenario = Scenario::start(Setup::on(options)).unwrap();
    // Inside, both families are there whatever is outside.
    for (family, url) in [
        ("-4", "http://10.20.0.10/"),
        ("-6", "http://[fd20::10]/"),
        ("-4", "http://web.office.example/"),
        ("-6", "http://web.office.example/"),
    ] {
        let page = scenario.curl().args([family, url]).run();
        assert_eq!(page.unwrap_or_else(|e| panic!("{url}: {e:#}")).trim(), OFFICE_PAGE, "{url}");
    }
    assert_eq!(scenario.fetch("http://public.example/").unwrap().trim(), PUBLIC_PAGE);
    for peer in [&scenario.client, &scenario.gateway] {
        assert!(peer.as_ref().unwrap().log().count(event::PATH_ESTABLISHED) == 1);
    }
    scenario.finish().unwrap();
}

#[test]
fn of_ipv4_alone() {
    check(Options { underlay: Underlay::V4Only, ..Options::default() });
}

#[test]
fn of_ipv6_alone() {
    check(Options { underlay: Underlay::V6Only, ..Options::default() });
}

#[test]
fn behind_a_symmetric_nat() {
    check(Options { nat: Nat::Symmetric, ..Options::default() });
}

#[test]
fn behind_a_symmetric_nat_with_ipv4_alone() {
    check(Options { nat: Nat::Symmetric, underlay: Underlay::V4Only, ..Options::default() });
}
