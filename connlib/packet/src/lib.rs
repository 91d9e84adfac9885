//! IP packets: parse, build, rewrite, checksums, ICMP errors, control-protocol frames.
#![forbid(unsafe_code)]
