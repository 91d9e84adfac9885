//! The kernel spreads clients over the workers as it likes; how many there may be does not depend on that.

use super::support::{Network, PEER, RELAY};

#[test]
fn all_allocations_can_be_had_and_no_more() {
    let network = Network::new();
    let _echo = network.echo();
    let _relay = network.start(&["--workers", "8", "--max-allocations", "16"]);
    // Each makes two allocations.
    let spawn = |clients: usize| {
        let client = format!("-e {PEER} -c -m {clients} -n 3000 -z 20 {RELAY}");
        network.uclient_command(&client).spawn("clients").unwrap()
    };
    let refused = "code=\"508\"";

    let _clients = spawn(8);
    network.wait_for_metric("connlib_relay_allocations", 16);
    assert_eq!(network.metric("connlib_relay_responses_total", refused), 0);

    let _one_more = spawn(1);
    network.wait_for_metric_with("connlib_relay_responses_total", refused, |count| count > 0);
    network.wait_for_metric("connlib_relay_allocations", 16);
}
