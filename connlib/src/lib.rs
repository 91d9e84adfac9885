//! Sessions that an app or a binary starts: the event loops of client and gateway.
#![forbid(unsafe_code)]
