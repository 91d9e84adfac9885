//! DNS of a client: names, patterns, messages and the stub resolver.
#![forbid(unsafe_code)]
