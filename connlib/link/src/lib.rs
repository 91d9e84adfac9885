//! One encrypted link per peer: candidates, ICE and WireGuard.
#![forbid(unsafe_code)]
