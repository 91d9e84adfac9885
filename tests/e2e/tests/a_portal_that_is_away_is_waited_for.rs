//! Client and gateway that start before their portal: they try again, less and less often, and say why.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test")]

use std::time::Duration;

use connlib_e2e::{Lab, Scenario, Setup, scenario::event, topology::OFFICE_PAGE, wait};

const DEADLINE: Duration = Duration::from_secs(60);
const AWAY: &str = "portal is away";

#[test]
fn with_growing_pauses_until_it_is_there() {
    let mut scenario = Scenario::prepare(Lab::new().unwrap(), Setup::default()).unwrap();
    let (gateway, client) = (scenario.network.gateway.clone(), scenario.network.client.clone());
    scenario.gateway = Some(scenario.spawn_gateway(&gateway, "gateway").unwrap());
    scenario.client = Some(scenario.spawn_client(&client, "client").unwrap());
    for process in [&scenario.gateway, &scenario.client] {
        let log = process.as_ref().unwrap().log();
        wait::until("several attempts", DEADLINE, || log.find_nth(AWAY, 5)).unwrap();
        let lines = log.lines();
        let attempts: Vec<_> = lines.iter().filter(|line| line.is_about(AWAY)).collect();
        let pauses: Vec<Duration> =
            attempts.iter().map(|line| duration(line.text("retry_in").unwrap())).collect();
        // Each is between half and one and a half of what the one before was to grow to.
        assert!(pauses[5] > pauses[0], "{pauses:?}");
        for line in &attempts {
            let error = line.text("error").unwrap();
            assert!(error.contains("cannot connect to") && error.contains("refused"), "{error}");
        }
    }
    scenario.start_portal().unwrap();
    for process in [&mut scenario.gateway, &mut scenario.client] {
        process.as_mut().unwrap().wait_for(event::SIGNED_IN, DEADLINE).unwrap();
    }
    assert_eq!(scenario.fetch("http://web.office.example/").unwrap().trim(), OFFICE_PAGE);
    scenario.finish().unwrap();
}

/// A duration as the log has it: `1.597s` or `575.9ms`.
fn duration(text: &str) -> Duration {
    let (number, unit) = match text.strip_suffix("ms") {
        Some(number) => (number, 1e-3),
        None => (text.strip_suffix('s').unwrap(), 1.0),
    };
    Duration::from_secs_f64(number.parse::<f64>().unwrap() * unit)
}
