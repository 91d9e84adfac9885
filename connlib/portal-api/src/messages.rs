//! The messages of the portal (v2), one enum per peer and direction.
//!
//! Decoding is total: what does not decode is a [`DecodeError`] that the receiver logs once and skips, and in a
//! list only the bad element is left out ([`crate::Tolerant`]).

pub mod client;
pub mod common;
pub mod gateway;
pub mod relay;

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::Skipped;

/// The messages of one direction: what stands in a frame as `event` and `payload`.
pub trait Message: Sized {
    /// The name on the wire.
    fn event(&self) -> &'static str;

    /// The body on the wire.
    fn payload(&self) -> Value;

    /// The message of this name and body.
    ///
    /// # Errors
    /// If the name is unknown or the body is not that of this event.
    fn decode(event: &str, payload: Value) -> Result<Self, DecodeError>;

    /// The elements of its lists that were left out.
    fn skipped(&self) -> Vec<&Skipped> {
        Vec::new()
    }
}

/// Why a message was not understood.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    /// We do not know this event: a newer peer.
    #[error("unknown event `{event}`")]
    UnknownEvent {
        /// Its name, at most 64 characters of it.
        event: String,
    },
    /// We know the event, but its body is another one.
    #[error("malformed `{event}`")]
    Malformed {
        /// Its name.
        event: &'static str,
        /// What is wrong. May quote a value of the message: for DEBUG only.
        source: serde_json::Error,
    },
}

/// What a peer is to the portal: where it connects and which messages it exchanges.
pub trait Role: 'static {
    /// The topic that it joins.
    const TOPIC: &'static str;
    /// The path of its endpoint, below the path of the API's URL.
    const PATH: &'static str;
    /// What it says when it joins; `null` on the wire for [`unit`].
    type Join: Serialize + Send;
    /// What the portal tells it.
    type FromPortal: Message;
    /// What it tells the portal.
    type ToPortal: Message;
}

/// Declares the messages of one direction. A variant without a type has the body `{}`.
macro_rules! messages {
    (
        $(#[$doc:meta])*
        pub enum $name:ident {
            $($(#[$variant_doc:meta])* $variant:ident $(($payload:ty))? = $event:literal $(| $alias:literal)*,)*
        }
        $(skipped($message:ident) $skipped:block)?
    ) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq)]
        pub enum $name {
            $($(#[$variant_doc])* $variant $(($payload))?,)*
        }

        impl crate::messages::Message for $name {
            fn event(&self) -> &'static str {
                match *self {
                    $(Self::$variant { .. } => $event,)*
                }
            }

            fn payload(&self) -> serde_json::Value {
                match *self {
                    $(messages!(@pattern payload $variant $($payload)?) => messages!(@encode payload $($payload)?),)*
                }
            }

            fn decode(
                event: &str,
                payload: serde_json::Value,
            ) -> Result<Self, crate::messages::DecodeError> {
                let _ = &payload;
                match event {
                    $($event $(| $alias)* => messages!(@decode payload $event $variant $($payload)?),)*
                    _ => Err(crate::messages::unknown(event)),
                }
            }

            $(fn skipped(&self) -> Vec<&crate::Skipped> {
                let $message = self;
                $skipped
            })?
        }
    };
    (@pattern $body:ident $variant:ident) => { Self::$variant };
    (@pattern $body:ident $variant:ident $payload:ty) => { Self::$variant(ref $body) };
    (@encode $body:ident) => { serde_json::Value::Object(serde_json::Map::new()) };
    (@encode $body:ident $payload:ty) => { crate::messages::encode($body) };
    (@decode $body:ident $event:literal $variant:ident) => { Ok(Self::$variant) };
    (@decode $body:ident $event:literal $variant:ident $payload:ty) => {
        crate::messages::decode::<$payload>($event, $body).map(Self::$variant)
    };
}
use messages;

fn encode<T: Serialize>(payload: &T) -> Value {
    // INVARIANT: our payloads are plain structs and lists; their keys are texts and no `Serialize` of ours fails.
    serde_json::to_value(payload).expect("a payload is plain JSON")
}

fn decode<T: DeserializeOwned>(event: &'static str, payload: Value) -> Result<T, DecodeError> {
    T::deserialize(payload).map_err(|source| DecodeError::Malformed { event, source })
}

fn unknown(event: &str) -> DecodeError {
    DecodeError::UnknownEvent { event: event.chars().take(64).collect() }
}
