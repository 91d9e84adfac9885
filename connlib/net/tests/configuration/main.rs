//! What the crate sets on a Linux host and what it notices of it, in network namespaces of the tests' own.
//!
//! Needs root (or CAP_NET_ADMIN and CAP_SYS_ADMIN) and `ip` of iproute2. Nothing outside of the namespaces is touched.

#![cfg(target_os = "linux")]
#![allow(clippy::panic, clippy::unwrap_used, reason = "helpers of tests")]

mod a_client_steers_packets_into_its_tunnel;
mod a_gateway_masquerades_its_clients;
mod a_tun_device_has_exactly_its_addresses_and_routes;
mod changes_of_the_network_are_noticed;
mod forwarding_is_given_back;
mod namespace;
