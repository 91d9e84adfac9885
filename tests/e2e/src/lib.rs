//! Namespaces, NAT routers and impaired links on which the real binaries run.
#![forbid(unsafe_code)]
