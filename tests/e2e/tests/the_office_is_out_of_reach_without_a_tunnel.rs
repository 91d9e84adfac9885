//! The network of the product's tests: who reaches whom before any of the product runs.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test")]

use std::{process::Output, time::Duration};

use connlib_e2e::{
    Impairment, Lab, Namespace,
    topology::{Direct, OFFICE_PAGE, Options, PUBLIC_PAGE, Underlay},
};

fn curl(at: &Namespace, url: &str) -> Output {
    at.command("curl").args(["-q", "-sS", "--fail", "--max-time", "5", url]).output().unwrap()
}

fn page(at: &Namespace, url: &str) -> String {
    let output = curl(at, url);
    assert!(output.status.success(), "{url}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

fn check(options: &Options) {
    let lab = Lab::new().unwrap();
    let network = Direct::lay(&lab, options).unwrap();

    assert_eq!(page(&network.client, "http://public.example/"), PUBLIC_PAGE);
    for url in ["http://web.office.example/", "http://10.20.0.10:8080/", "http://[fd20::10]/"] {
        assert_eq!(page(&network.gateway, url), OFFICE_PAGE);
        assert!(!curl(&network.client, url).status.success(), "the client reached {url}");
    }
    let url = "http://web.office.example/";
    assert!(!curl(&network.portal, url).status.success(), "the portal reached the office");
}

#[test]
fn on_an_internet_with_both_families() {
    check(&Options::default());
}

#[test]
fn on_ipv4_alone() {
    check(&Options { underlay: Underlay::V4Only, ..Options::default() });
}

#[test]
fn on_ipv6_alone_over_a_slow_cable() {
    let access = Impairment { delay: Duration::from_millis(5), ..Impairment::default() };
    check(&Options { underlay: Underlay::V6Only, access, ..Options::default() });
}

#[test]
fn a_pulled_cable_can_be_put_back() {
    let lab = Lab::new().unwrap();
    let network = Direct::lay(&lab, &Options::default()).unwrap();
    network.unplug_client().unwrap();
    assert!(!curl(&network.client, "http://203.0.113.80/").status.success());
    network.plug_client().unwrap();
    assert_eq!(page(&network.client, "http://203.0.113.80/"), PUBLIC_PAGE);
    assert_eq!(page(&network.client, "http://[2001:db8:113::80]/"), PUBLIC_PAGE);
}
