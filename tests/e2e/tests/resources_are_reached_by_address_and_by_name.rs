//! The whole path: pages of a private web server, through client, gateway and portal.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test")]

use connlib_e2e::{Scenario, Setup, topology::OFFICE_PAGE};

#[test]
fn by_address_and_by_name_and_not_where_the_policy_says_no() {
    let scenario = Scenario::start(Setup::default()).unwrap();
    for url in ["http://10.20.0.10/", "http://[fd20::10]/", "http://web.office.example/"] {
        let page = scenario.fetch(url).unwrap_or_else(|e| panic!("{url}: {e:#}"));
        assert_eq!(page.trim(), OFFICE_PAGE, "{url}");
    }
    for family in ["-4", "-6"] {
        let output = scenario.curl().args([family, "http://web.office.example/"]).output().unwrap();
        assert!(output.status.success(), "{family}");
    }
    for refused in ["http://10.20.0.10:8080/", "http://10.20.0.20/"] {
        assert!(scenario.fetch(refused).is_err(), "{refused} was reached");
    }
    scenario.finish().unwrap();
}
