//! One datagram of anybody.
#![no_main]

#[path = "relay.rs"]
mod relay;

use connlib_relay::server::FromClient;
use libfuzzer_sys::fuzz_target;
use relay::Relay;

fuzz_target!(|datagram: &[u8]| {
    let mut relay = Relay::new();
    for client in [0, 1] {
        let received = relay.server.handle_client(Relay::client(client), datagram, relay.now);
        assert!(!matches!(received, FromClient::Forward(_)));
        relay.drain(client, 0);
    }
    assert_eq!(relay.server.allocations(), 0);
});
