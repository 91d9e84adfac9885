//! One text frame: an object of topic, event, payload and reference.

use std::borrow::Cow;
use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{HEARTBEAT_TOPIC, event};
use crate::messages::{DecodeError, Message};

/// A frame of the channel, as both ends write it.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
pub struct Frame {
    /// `client`, `gateway` or `relay`; `phoenix` for heartbeats.
    pub topic: Cow<'static, str>,
    /// What it is.
    pub event: Cow<'static, str>,
    /// What it says.
    #[serde(default)]
    pub payload: Value,
    /// The number of a peer's frame, which the portal's answer repeats; `None` if the portal speaks first.
    #[serde(rename = "ref", default)]
    pub reference: Option<u64>,
}

/// Does not show the payload: it may hold secrets.
impl fmt::Debug for Frame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Frame")
            .field("topic", &self.topic)
            .field("event", &self.event)
            .field("ref", &self.reference)
            .finish_non_exhaustive()
    }
}

/// Not a frame.
#[derive(Debug, thiserror::Error)]
#[error("not a frame of the channel")]
pub struct InvalidFrame(#[source] serde_json::Error);

impl Frame {
    /// A frame with this message. `reference` is `None` at the portal.
    pub fn message<M: Message>(
        topic: &'static str,
        message: &M,
        reference: impl Into<Option<u64>>,
    ) -> Self {
        Self::new(topic, message.event(), message.payload(), reference.into())
    }

    /// The portal's answer to a frame: all is well. Answers joins and heartbeats.
    pub fn reply_ok(to: &Self) -> Self {
        Self { event: event::REPLY.into(), payload: Reply::ok(), ..to.clone() }
    }

    /// The portal's answer to a frame: refused.
    pub fn reply_error(to: &Self, reason: &str) -> Self {
        Self { event: event::REPLY.into(), payload: Reply::error(reason), ..to.clone() }
    }

    /// The portal ends the session: [`Disconnect`].
    pub fn disconnect(topic: &'static str, reason: &str) -> Self {
        Self::new(topic, event::DISCONNECT, json!({ "reason": reason }), None)
    }

    /// A heartbeat of a peer.
    pub fn heartbeat(reference: u64) -> Self {
        Self::new(HEARTBEAT_TOPIC, event::HEARTBEAT, json!({}), Some(reference))
    }

    /// The join of a peer.
    pub fn join(topic: &'static str, payload: Value, reference: u64) -> Self {
        Self::new(topic, event::JOIN, payload, Some(reference))
    }

    pub(crate) fn new(
        topic: &'static str,
        event: &'static str,
        payload: Value,
        reference: Option<u64>,
    ) -> Self {
        Self { topic: topic.into(), event: event.into(), payload, reference }
    }

    /// Reads a text frame.
    ///
    /// # Errors
    /// If it is not an object with at least topic and event.
    pub fn parse(text: &str) -> Result<Self, InvalidFrame> {
        serde_json::from_str(text).map_err(InvalidFrame)
    }

    /// The text frame.
    pub fn to_text(&self) -> String {
        // INVARIANT: texts, a number and a JSON value always encode.
        serde_json::to_string(self).expect("a frame is plain JSON")
    }

    /// The message in it.
    ///
    /// # Errors
    /// If we do not know the event, or its payload is another one.
    pub fn decode<M: Message>(self) -> Result<M, DecodeError> {
        M::decode(&self.event, self.payload)
    }
}

/// The payload of a `phx_reply`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    /// All is well.
    Ok,
    /// Refused.
    Error {
        /// Why; empty if it does not say.
        reason: String,
    },
}

impl Reply {
    /// The server does not know (any more) that we joined.
    pub const UNMATCHED_TOPIC: &'static str = "unmatched topic";

    fn ok() -> Value {
        json!({ "status": "ok", "response": {} })
    }

    fn error(reason: &str) -> Value {
        json!({ "status": "error", "response": { "reason": reason } })
    }

    /// Reads the payload; `None` if it is not that of a reply.
    pub fn parse(payload: &Value) -> Option<Self> {
        match payload.get("status")?.as_str()? {
            "ok" => Some(Self::Ok),
            "error" => {
                let reason = payload.pointer("/response/reason").and_then(Value::as_str);
                Some(Self::Error { reason: reason.unwrap_or_default().to_owned() })
            }
            _ => None,
        }
    }
}

/// The payload of a `disconnect`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Disconnect {
    /// Why: [`Disconnect::TOKEN_EXPIRED`], [`Disconnect::CERTIFICATE_REVOKED`] or another reason.
    #[serde(default)]
    pub reason: String,
}

impl Disconnect {
    /// The token has expired or was revoked: sign in again.
    pub const TOKEN_EXPIRED: &'static str = "token_expired";
    /// The device's certificate was revoked.
    pub const CERTIFICATE_REVOKED: &'static str = "certificate_revoked";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_read_what_they_write() {
        let join = Frame::join("client", Value::Null, 0);
        assert_eq!(
            join.to_text(),
            r#"{"topic":"client","event":"phx_join","payload":null,"ref":0}"#
        );
        let ok = Frame::reply_ok(&join);
        assert_eq!(
            serde_json::to_value(&ok).unwrap(),
            json!({"topic":"client","event":"phx_reply","ref":0,"payload":{"status":"ok","response":{}}})
        );
        assert_eq!(Reply::parse(&ok.payload), Some(Reply::Ok));
        let error = Frame::reply_error(&join, "disabled");
        assert_eq!(Reply::parse(&error.payload), Some(Reply::Error { reason: "disabled".into() }));
        assert_eq!(Frame::parse(&error.to_text()).unwrap(), error);
    }

    #[test]
    fn payload_and_reference_may_be_absent() {
        let frame = Frame::parse(r#"{"topic":"client","event":"phx_close","extra":1}"#).unwrap();
        assert_eq!((frame.payload, frame.reference), (Value::Null, None));
    }

    #[test]
    fn debug_shows_no_payload() {
        let frame = Frame::join("relay", json!({"stamp_secret": "hidden"}), 0);
        assert_eq!(
            format!("{frame:?}"),
            r#"Frame { topic: "relay", event: "phx_join", ref: Some(0), .. }"#
        );
    }

    #[test]
    fn other_texts_are_no_frames() {
        for text in
            ["", "null", "[]", "{}", r#"{"topic":1,"event":"x"}"#, "[null,\"0\",\"client\"]"]
        {
            assert!(Frame::parse(text).is_err(), "{text}");
        }
    }
}
