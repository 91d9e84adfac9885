//! Client, gateway and a stub portal on a simulated network with virtual time.
#![forbid(unsafe_code)]
