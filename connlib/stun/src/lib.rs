//! The messages of STUN (RFC 8489) and TURN (RFC 8656), as both ends need them: read, written, signed. No sockets, no
//! clock, no randomness, no state.
//!
//! What comes is checked as a whole before anything of it is believed; reading allocates nothing and takes time in
//! proportion to the datagram, whatever strangers send:
//!
//! ```
//! use connlib_stun::{Attribute, Builder, Class, Key, Message, Method};
//!
//! let key = Key::new("user", "example.org", "password");
//! let bytes = Builder::new(Method::REFRESH, Class::Success, *b" transaction")
//!     .attribute(Attribute::LIFETIME, &600_u32.to_be_bytes())
//!     .sign(&key, connlib_stun::Algorithm::Sha1)
//!     .finish();
//!
//! let message = Message::parse(&bytes).ok_or("not STUN, or malformed")?;
//! assert!(message.is(Method::REFRESH, Class::Success) && message.is_signed_with(&key));
//! assert_eq!(message.number(Attribute::LIFETIME), Some(600));
//! # Ok::<(), &str>(())
//! ```
//!
//! - [`Header`]: what a datagram that may be STUN says at first sight (RFC 8489 §5); [`Class`], [`Method`]
//! - [`Message`]: a message that came, [`Builder`] one that goes
//! - [`Attribute`]: the kinds of attributes (RFC 8489 §14, RFC 8656 §18); [`XorAddress`] those that are addresses
//! - [`Key`]: long-term credentials (RFC 8489 §9.2); [`Algorithm`] what they sign with (RFC 8489 §14.5, §14.6)
//! - [`ChannelData`]: data without STUN around it (RFC 8656 §12.4); [`message_len`]: where messages end in a stream
//!
//! `stun-types` reads and writes the same, but it warns in the log about every malformed datagram, which strangers can
//! send; it builds keys behind mutexes, and none for SHA-256 as RFC 8489 §9.2 wants it without password algorithms. It
//! checks the relay's messages in tests.
#![forbid(unsafe_code)]

mod address;
mod attribute;
mod builder;
mod framing;
mod header;
mod integrity;
mod message;

pub use address::{FAMILY_IP4, FAMILY_IP6, XorAddress};
pub use attribute::{Attribute, MAX_VALUE};
pub use builder::Builder;
pub use framing::{CHANNEL_HEADER, ChannelData, Kind, NotAMessage, message_len, padding};
pub use header::{Class, Header, MAGIC_COOKIE, Method, Transaction};
pub use integrity::{Algorithm, Key};
pub use message::Message;
