//! A session of existing peers, recorded on a lab network, played to our portal: what they said is
//! said again, and what the portal answers must look like what satisfied them then.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use crate::peer::Peer;
use crate::program::Home;

/// The policy of that lab, with its ids.
const POLICY: &str = r#"
account = "lab"
[dns]
upstream_do53 = ["10.77.0.1"]
[[site]]
name = "lab-site"
id = "fbae041b-02c4-4ed0-bd8a-4efb039bc780"
[[gateway]]
name = "gw1"
id = "dcd0f6b8-b959-4e0c-9cb9-804403c10373"
site = "lab-site"
[[client]]
name = "client1"
[[resource]]
name = "lab-cidr"
id = "9f1e952f-78e4-4439-a244-53b065c2ff0c"
type = "cidr"
address = "10.88.0.0/24"
sites = ["lab-site"]
[[resource]]
name = "lab-dns"
id = "efecb561-3fe8-46ae-8667-ce31f8d41744"
type = "dns"
address = "web.fz.test"
sites = ["lab-site"]
[[resource]]
name = "lab-dns-wild"
id = "6e6c97d9-034d-4f7a-9f45-ee56c789c9f1"
type = "dns"
address = "**.corp.fz.test"
sites = ["lab-site"]
[[policy]]
name = "all"
groups = ["everyone"]
resources = ["lab-cidr", "lab-dns", "lab-dns-wild"]
max_session = "24h"
"#;

/// Values that are the same in every such session.
const SAME: [&str; 17] = [
    "event",
    "topic",
    "status",
    "type",
    "address",
    "addr",
    "name",
    "resource_id",
    "gateway_id",
    "gateway_public_key",
    "public_key",
    "gateway_group_id",
    "account_slug",
    "ip_stack",
    "use_iceless",
    "candidates",
    "upload_interval_secs",
];

#[tokio::test]
async fn the_recorded_session_works_with_this_portal() {
    let home = Home::new(POLICY);
    let tokens = BTreeMap::from([
        ("relay", home.token(&["new", "--relay"])),
        ("gateway", home.token(&["new", "--gateway", "gw1"])),
        ("client", home.token(&["new", "--client", "client1"])),
    ]);
    let program = home.run();

    let recording = include_str!("../../../connlib/portal-api/tests/vectors/portal.jsonl");
    let mut peers: BTreeMap<&str, Peer> = BTreeMap::new();
    // Recorded names of things that each portal names as it likes, and what ours calls them.
    let mut ours = Map::new();
    let mut frames = 0;
    for line in recording.lines() {
        let line: Value = serde_json::from_str(line).unwrap();
        let of_peer = line["from"] != "portal";
        let role = line[if of_peer { "from" } else { "to" }].as_str().unwrap();
        let topic = ["client", "gateway", "relay"].into_iter().find(|t| *t == role).unwrap();
        if let Some(path) = line["upgrade"]["path"].as_str() {
            let peer = Peer::connect(program.address, topic, path, &tokens[topic]).await.unwrap();
            peers.insert(topic, peer);
            continue;
        }
        let recorded = &line["frame"];
        if line["t"].as_f64().unwrap() > 10.0 {
            continue; // Answers to heartbeats, which are not in the recording.
        }
        let peer = peers.get_mut(topic).unwrap();
        if of_peer {
            peer.send(&translate(recorded, &ours)).await;
        } else {
            let frame = peer.next_frame().await;
            assert_alike(recorded, &frame, &format!("{role} {}", recorded["event"]));
            learn(recorded, &frame, &mut ours);
        }
        frames += 1;
    }
    assert_eq!(frames, 27);
    program.assert_content();
}

/// Puts our names in place of the recorded ones.
fn translate(recorded: &Value, ours: &Map<String, Value>) -> Value {
    match recorded {
        Value::String(text) => ours.get(text).unwrap_or(recorded).clone(),
        Value::Array(list) => list.iter().map(|value| translate(value, ours)).collect(),
        Value::Object(map) => {
            map.iter().map(|(key, value)| (key.clone(), translate(value, ours))).collect()
        }
        _ => recorded.clone(),
    }
}

/// Learns what ours calls the client and a request.
fn learn(recorded: &Value, frame: &Value, ours: &mut Map<String, Value>) {
    for pointer in ["/payload/ref", "/payload/client/id"] {
        if let Some(name) = recorded.pointer(pointer).and_then(Value::as_str) {
            ours.insert(name.to_owned(), frame.pointer(pointer).unwrap().clone());
        }
    }
}

/// The same structure, the same types, and the same values where they do not depend on the portal.
fn assert_alike(recorded: &Value, ours: &Value, place: &str) {
    match (recorded, ours) {
        (Value::Object(a), Value::Object(b)) => {
            let keys = |map: &Map<String, Value>| map.keys().cloned().collect::<Vec<_>>();
            assert_eq!(keys(a), keys(b), "{place}");
            for (key, value) in a {
                let place = format!("{place}.{key}");
                if SAME.contains(&key.as_str()) {
                    assert_eq!(value, &b[key], "{place}");
                }
                if key != "ref" {
                    assert_alike(value, &b[key], &place);
                }
            }
        }
        (Value::Array(a), Value::Array(b)) => {
            assert_eq!(a.len(), b.len(), "{place}");
            // Lists of things with ids have no order.
            let mut b: Vec<_> = b.iter().collect();
            for value in a {
                let same = |other: &&&Value| other["id"] == value["id"];
                let other = *b.iter().find(same).unwrap_or(&b[0]);
                b.retain(|left| !std::ptr::eq(*left, other));
                assert_alike(value, other, place);
            }
        }
        _ => assert_eq!(kind(recorded), kind(ours), "{place}: {recorded} {ours}"),
    }
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "bool",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}
