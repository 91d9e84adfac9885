//! A recorded session of existing programs, played to our relay: `relay.jsonl`.

use std::collections::HashMap;
use std::net::SocketAddr;

use connlib_relay::server::{Config, Credentials, FiveTuple, FromClient, Transport};
use connlib_stun::{Algorithm, ChannelData, Header, Key};
use data_encoding::HEXLOWER;
use serde_json::Value;
use stun_types::attribute::{AttributeType, Nonce};
use stun_types::message::{
    IntegrityAlgorithm, LongTermKeyCredentials, Message, MessageClass, MessageIntegrityCredentials,
};
use stun_types::prelude::*;
use turn_types::attribute::XorPeerAddress;

use crate::support::*;

const STAMP_SECRET: &str = "3e936fa3a500a3bfd471119b58e53c3ce4036bdabb686ab5d3d86072190f388c";
/// By username: as the portal gave them out.
const PASSWORDS: [(&str, &str); 2] = [
    (
        "1795316530:C/16dhNFNAKHaZw8AsKW/CEMKJS930iTwLKP2cYOUAw",
        "2Phn0wzTPdglcqcRgJUkds1XsIzYlT9e+x/xRQ/MPsw",
    ),
    (
        "1795316531:1e0hUvvHzRz70gAk/t2F9gMRUjwksyPWSqyeaPghPyY",
        "/w76akdw64EhLrSIkmJl8fwnDIaaXCA4GTkq9GoItfQ",
    ),
];
const RELAY: &str = "10.78.0.2:3478";

struct Datagram {
    src: String,
    dst: String,
    bytes: Vec<u8>,
}

fn recording() -> Vec<Datagram> {
    let datagram = |line: &str| {
        let line: Value = serde_json::from_str(line).unwrap();
        let text = |key: &str| line[key].as_str().unwrap().to_owned();
        Datagram {
            src: text("src"),
            dst: text("dst"),
            bytes: HEXLOWER.decode(text("payload").as_bytes()).unwrap(),
        }
    };
    include_str!("relay.jsonl").lines().map(datagram).collect()
}

fn credentials(request: &Message<'_>) -> MessageIntegrityCredentials {
    let username = request.raw_attribute(AttributeType::new(0x06)).unwrap();
    let known = PASSWORDS.iter().find(|(name, _)| name.as_bytes() == &*username.value).unwrap();
    LongTermKeyCredentials::new(known.0.to_owned(), known.1.to_owned(), REALM.to_owned()).into()
}

/// The same request with another nonce, and allocations of this time as peers instead of those of then.
fn again(request: &Message<'_>, nonce: &str, now: &HashMap<SocketAddr, SocketAddr>) -> Vec<u8> {
    let transaction = request.transaction_id();
    let mut again = Message::builder(
        request.get_type(),
        transaction,
        stun_types::message::MessageWriteVec::new(),
    );
    for (_, attribute) in request.iter_attributes() {
        match attribute.get_type().value() {
            0x08 => {}
            0x12 => {
                let peer = XorPeerAddress::from_raw(attribute).unwrap().addr(transaction);
                let peer = now.get(&peer).copied().unwrap_or(peer);
                again.add_attribute(&XorPeerAddress::new(peer, transaction)).unwrap();
            }
            0x15 => again.add_attribute(&Nonce::new(nonce).unwrap()).unwrap(),
            _ => again.add_attribute(&attribute).unwrap(),
        }
    }
    again.add_message_integrity(&credentials(request), IntegrityAlgorithm::Sha1).unwrap();
    again.finish()
}

#[test]
fn each_recorded_request_is_answered_as_it_was_then() {
    let stamp_secrets = vec![STAMP_SECRET.to_owned()];
    let mut config = Config::new(Credentials { stamp_secrets, ..Credentials::default() }, [1; 32]);
    config.public_ip4 = Some([10, 78, 0, 2].into());
    let mut relay = Relay::new(config);
    relay.now.unix_seconds = 1_795_316_530 - 86_400;

    let recording = recording();
    let recorded_answer = |request: &Message<'_>| {
        let answers =
            recording.iter().filter(|datagram| datagram.src == RELAY && datagram.bytes[0] < 2);
        let mut answers = answers.filter(|answer| answer.bytes[8..20] == request.as_bytes()[8..20]);
        answers.next().map(|answer| Answer { bytes: answer.bytes.clone() })
    };
    let mut requests: HashMap<u16, usize> = HashMap::new();
    let mut forwarded = 0;
    let mut relayed = HashMap::new();
    for datagram in recording.iter().filter(|datagram| datagram.dst == RELAY) {
        let tuple = FiveTuple {
            transport: Transport::Udp,
            remote: address(&datagram.src),
            local: address(RELAY),
        };
        if datagram.bytes[0] >= 0x40 {
            // What was recorded with generic receive offload is several datagrams.
            let len = 4 + usize::from(u16::from_be_bytes([datagram.bytes[2], datagram.bytes[3]]));
            for message in datagram.bytes.chunks(len) {
                let FromClient::Forward(to_peer) =
                    relay.server.handle_client(tuple, message, relay.now)
                else {
                    panic!("channel data is not forwarded: {message:x?}")
                };
                assert_eq!(to_peer.payload, &message[4..]);
                forwarded += 1;
            }
            continue;
        }
        let request = Message::from_bytes(&datagram.bytes).unwrap();
        assert!(request.has_class(MessageClass::Request));
        let has_nonce = request.has_attribute(AttributeType::new(0x15));
        let mut answer = Answer { bytes: relay.exchange(tuple, &datagram.bytes).unwrap() };
        if has_nonce {
            // Not ours: it is replaced, as any client would.
            assert_eq!(answer.code(), Some(438));
            answer.message().validate_integrity(&credentials(&request)).unwrap();
            let again = again(&request, &answer.nonce().unwrap(), &relayed);
            answer = Answer { bytes: relay.exchange(tuple, &again).unwrap() };
        }
        *requests.entry(request.method().value()).or_default() += 1;
        let Some(then) = recorded_answer(&request) else { continue };
        assert_eq!(answer.message().get_type(), then.message().get_type());
        assert_eq!(answer.code(), then.code());
        for kind in [0x08, 0x14, 0x0d, 0x20] {
            let (value, then) = (answer.value(kind), then.value(kind));
            if kind == 0x08 {
                assert_eq!(value.is_some(), then.is_some());
            } else {
                assert_eq!(value, then, "attribute {kind:x}");
            }
        }
        assert_eq!(answer.nonce().is_some(), then.nonce().is_some());
        relayed.extend(then.relayed().into_iter().zip(answer.relayed()));
        let ips = |answer: &Answer| {
            answer.relayed().iter().map(|relayed| relayed.ip()).collect::<Vec<_>>()
        };
        assert_eq!(ips(&answer), ips(&then));
        if answer.is_signed() {
            answer.message().validate_integrity(&credentials(&request)).unwrap();
        }
    }
    assert_eq!(requests[&BINDING], 3);
    assert_eq!(requests[&ALLOCATE], 4);
    assert_eq!(requests[&CHANNEL_BIND], 4);
    assert!(forwarded > 30, "{forwarded}");
    assert_eq!((relay.server.allocations(), relay.channels.len()), (2, 4));
}

#[test]
fn each_recorded_message_is_understood_by_our_codec() {
    let (mut signed, mut with_fingerprint) = (0, 0);
    for Datagram { bytes, .. } in recording() {
        let bytes = match ChannelData::parse(&bytes) {
            Some(data) if bytes[0] == 0x40 => data.payload,
            _ => &bytes,
        };
        // The rest is WireGuard's.
        if Header::parse(bytes).is_none() {
            continue;
        }
        let message = connlib_stun::Message::parse(bytes).unwrap();
        with_fingerprint += usize::from(message.has_fingerprint());
        if message.text(connlib_stun::Attribute::REALM).is_none() {
            continue;
        }
        let Some(user) = message.text(connlib_stun::Attribute::USERNAME) else { continue };
        let is_signed = |(_, password): &&(&str, &str)| {
            message.is_signed_with(&Key::new(user, REALM, password))
        };
        assert_eq!(PASSWORDS.iter().filter(is_signed).count(), 1);
        assert_eq!(message.integrity(), Some(Algorithm::Sha1));
        signed += 1;
    }
    assert!(signed >= 8 && with_fingerprint > 40, "{signed} {with_fingerprint}");
}
