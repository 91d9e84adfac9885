//! What clients who know a password can make of a relay together.
#![no_main]

#[path = "relay.rs"]
mod relay;

use std::net::SocketAddr;

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use relay::Relay;

#[derive(Debug, Arbitrary)]
enum Step {
    Request { client: u8, method: Method, attributes: Vec<(Attribute, Vec<u8>)>, failures: u8 },
    Message { client: u8, bytes: Vec<u8> },
    FromPeer { allocation: u8, peer: SocketAddr, len: u16 },
    Close { client: u8 },
    Pass { seconds: u16 },
    Drain,
}

#[derive(Debug, Clone, Copy, Arbitrary)]
enum Method {
    Allocate = 3,
    Refresh = 4,
    CreatePermission = 8,
    ChannelBind = 9,
}

#[derive(Debug, Clone, Copy, Arbitrary)]
enum Attribute {
    Channel,
    Lifetime,
    Peer,
    Data,
    RequestedFamily,
    EvenPort,
    Transport,
    ReservationToken,
    AdditionalFamily,
    Other(u16),
}

impl Attribute {
    fn kind(self) -> u16 {
        match self {
            Self::Channel => 0x0c,
            Self::Lifetime => 0x0d,
            Self::Peer => 0x12,
            Self::Data => 0x13,
            Self::RequestedFamily => 0x17,
            Self::EvenPort => 0x18,
            Self::Transport => 0x19,
            Self::ReservationToken => 0x22,
            Self::AdditionalFamily => 0x8000,
            Self::Other(kind) => kind,
        }
    }
}

fuzz_target!(|steps: Vec<Step>| {
    let mut relay = Relay::new();
    for step in steps {
        match step {
            Step::Request { client, method, attributes, failures } => {
                let attributes: Vec<_> =
                    attributes.into_iter().map(|(kind, value)| (kind.kind(), value)).collect();
                let Some(request) = relay.signed(client, method as u16, &attributes) else { continue };
                relay.server.handle_client(Relay::client(client), &request, relay.now);
                relay.drain(client, failures);
            }
            Step::Message { client, bytes } => {
                relay.server.handle_client(Relay::client(client), &bytes, relay.now);
            }
            Step::FromPeer { allocation, peer, len } => {
                let Some(id) = relay.allocations.get(usize::from(allocation)) else { continue };
                relay.server.handle_peer(*id, peer, len.into());
            }
            Step::Close { client } => relay.server.handle_stream_closed(Relay::client(client)),
            Step::Pass { seconds } => relay.pass(seconds),
            Step::Drain => relay.server.drain(),
        }
        relay.drain(0, 0);
        assert!(relay.server.allocations() <= 8 && relay.server.channels() <= 16);
    }
    relay.pass(3601);
    relay.drain(0, 0);
    assert_eq!((relay.server.allocations(), relay.server.channels()), (0, 0));
});
