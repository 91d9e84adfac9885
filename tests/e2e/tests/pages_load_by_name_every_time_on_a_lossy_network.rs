//! A hundred pages, each on a connection of its own, where every fiftieth packet is lost.
#![allow(clippy::unwrap_used, reason = "a test")]

use std::time::Duration;

use connlib_e2e::{
    Impairment, Scenario, Setup,
    topology::{OFFICE_PAGE, Options},
};

const PAGES: usize = 100;

#[test]
fn all_of_them() {
    let access =
        Impairment { loss: 0.02, delay: Duration::from_millis(5), ..Impairment::default() };
    let scenario = Scenario::start(Setup::on(Options { access, ..Options::default() })).unwrap();
    let failures: Vec<String> = (0..PAGES)
        .filter_map(|number| match scenario.fetch("http://web.office.example/") {
            Ok(page) if page.trim() == OFFICE_PAGE => None,
            Ok(page) => Some(format!("page {number}: {page}")),
            Err(error) => Some(format!("page {number}: {error:#}")),
        })
        .collect();
    assert!(failures.is_empty(), "{}", failures.join("\n"));
    scenario.finish().unwrap();
}
