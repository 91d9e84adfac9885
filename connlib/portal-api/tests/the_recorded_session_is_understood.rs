//! A session of existing programs, both sides' frames: see `vectors/portal.jsonl`.
#![allow(clippy::unwrap_used, clippy::panic)] // Helpers of tests are tests.

use connlib_portal_api::channel::{Frame, Reply};
use connlib_portal_api::login::{Params, UserAgent};
use connlib_portal_api::messages::client::{self, ClientRole};
use connlib_portal_api::messages::gateway::{self, GatewayRole};
use connlib_portal_api::messages::relay::{self, RelayRole};
use connlib_portal_api::messages::{Message, Role};
use serde_json::{Value, json};

const SESSION: &str = include_str!("vectors/portal.jsonl");

/// The lines that hold this, with the names of sender and receiver.
fn lines(what: &str) -> Vec<(String, String, Value)> {
    let line = |line: &str| {
        let mut line: Value = serde_json::from_str(line).unwrap();
        let name = |end: &str| line[end].as_str().unwrap().to_owned();
        let (from, to) = (name("from"), name("to"));
        Some((from, to, line.get_mut(what)?.take()))
    };
    SESSION.lines().filter_map(line).collect()
}

/// Decodes the message and encodes it again, as both ends do.
fn round_trip<M: Message>(mut frame: Frame) -> Value {
    let message: M = frame.clone().decode().unwrap();
    assert!(message.skipped().is_empty());
    frame.payload = message.payload();
    frame.event = message.event().into();
    serde_json::to_value(frame).unwrap()
}

#[test]
fn every_frame_is_decoded_and_encodes_to_the_same_json() {
    let frames = lines("frame");
    assert_eq!(frames.len(), 30);
    for (from, to, mut recorded) in frames {
        // The recording says in words what an answer repeats.
        if recorded["ref"].is_string() {
            recorded["ref"] = json!(7);
        }
        let frame = Frame::parse(&recorded.to_string()).unwrap();
        assert_eq!(serde_json::to_value(&frame).unwrap(), recorded);
        let encoded = match (&*frame.event, from.as_str(), to.as_str()) {
            ("phx_reply", "portal", _) => {
                assert_eq!(Reply::parse(&frame.payload), Some(Reply::Ok));
                serde_json::to_value(Frame::reply_ok(&frame)).unwrap()
            }
            ("phx_join", "relay", _) => {
                let join: relay::Join = serde_json::from_value(frame.payload).unwrap();
                let payload = serde_json::to_value(join).unwrap();
                serde_json::to_value(Frame::join(RelayRole::TOPIC, payload, 0)).unwrap()
            }
            ("phx_join", "client", _) => {
                serde_json::to_value(Frame::join(ClientRole::TOPIC, Value::Null, 0)).unwrap()
            }
            ("phx_join", "gateway", _) => {
                serde_json::to_value(Frame::join(GatewayRole::TOPIC, Value::Null, 0)).unwrap()
            }
            (_, "portal", "client") => round_trip::<client::FromPortal>(frame),
            (_, "client", "portal") => round_trip::<client::ToPortal>(frame),
            (_, "portal", "gateway") => round_trip::<gateway::FromPortal>(frame),
            (_, "gateway", "portal") => round_trip::<gateway::ToPortal>(frame),
            (_, "portal", "relay") => round_trip::<relay::FromPortal>(frame),
            other => panic!("a frame that nobody decodes: {other:?}"),
        };
        assert_eq!(encoded, recorded);
    }
}

#[test]
fn every_upgrade_is_read_and_written_the_same() {
    let upgrades = lines("upgrade");
    assert_eq!(upgrades.len(), 3);
    for (from, _, upgrade) in upgrades {
        let path = match from.as_str() {
            "client" => ClientRole::PATH,
            "gateway" => GatewayRole::PATH,
            _ => RelayRole::PATH,
        };
        let recorded = upgrade["path"].as_str().unwrap();
        let query = recorded.strip_prefix(path).and_then(|rest| rest.strip_prefix('?')).unwrap();
        assert_eq!(Params::from_query(query).unwrap().to_query(), query);

        let agent = upgrade["headers"]["User-Agent"].as_str().unwrap();
        assert_eq!(agent.parse::<UserAgent>().unwrap().to_string(), agent);
    }
}
