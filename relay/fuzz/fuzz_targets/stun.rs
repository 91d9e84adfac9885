//! One datagram of anybody.
#![no_main]

#[path = "relay.rs"]
mod relay;

use connlib_relay::server::FromClient;
use libfuzzer_sys::fuzz_target;
use relay::Relay;

fuzz_target!(|input: (bool, [u8; 2], &[u8])| {
    let (has_header, kind, bytes) = input;
    let mut datagram = bytes.to_vec();
    if has_header {
        // What would take a while to be found: length and magic cookie.
        datagram.resize(bytes.len().next_multiple_of(4), 0);
        let len = (datagram.len() as u16).to_be_bytes();
        let header = [[kind[0] & 1, kind[1]], len].concat();
        datagram.splice(..0, [&header, b"\x21\x12\xa4\x42transaction!".as_slice()].concat());
    }
    let datagram = &datagram;
    let mut relay = Relay::new();
    for client in [0, 1] {
        let received = relay.server.handle_client(Relay::client(client), datagram, relay.now);
        assert!(!matches!(received, FromClient::Forward(_)));
        relay.drain(client, 0);
    }
    assert_eq!(relay.server.allocations(), 0);
});
