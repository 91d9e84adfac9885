//! What comes over a stream whose client has a channel, and a datagram of a peer.
#![no_main]

#[path = "relay.rs"]
mod relay;

use connlib_relay::server::{FromClient, message_len};
use libfuzzer_sys::fuzz_target;
use relay::Relay;

fuzz_target!(|stream: &[u8]| {
    if stream.len() > usize::from(u16::MAX) {
        return; // no datagram
    }
    for client in [0, 1] {
        let mut relay = Relay::with_channel(client);
        let allocation = *relay.allocations.last().unwrap();
        let framed =
            relay.server.handle_peer(allocation, ([192, 0, 2, 9], 1).into(), stream.len()).unwrap();
        let message = [framed.prefix.as_bytes(), stream, &[0; 3][..framed.padding]].concat();
        match relay.server.handle_client(Relay::client(client), &message, relay.now) {
            FromClient::Forward(to_peer) => assert_eq!(to_peer.payload, stream),
            _ => panic!("what comes from a peer can be sent back to it"),
        }

        let mut rest = stream;
        while let Ok(Some(len)) = message_len(rest) {
            let Some((message, after)) = rest.split_at_checked(len) else { break };
            relay.server.handle_client(Relay::client(client), message, relay.now);
            relay.drain(client, 0);
            rest = after;
        }
    }
});
