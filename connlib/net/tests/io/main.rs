//! Sockets and TUN devices against the real kernel, in network namespaces. Needs root.

#![allow(clippy::panic, clippy::unwrap_used, reason = "helpers of tests")]

mod host_candidates_come_from_the_right_interfaces;
mod namespace;
mod tun_moves_super_packets;
mod tun_opens_or_says_why_not;
mod udp_datagrams_keep_their_bounds_and_marks;
mod udp_sockets_survive_what_hosts_do;
