//! The portal's messages, the channel codec and the WebSocket client.
#![forbid(unsafe_code)]
