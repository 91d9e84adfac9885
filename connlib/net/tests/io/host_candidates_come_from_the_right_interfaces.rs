//! Which of the host's addresses peers are told.

use std::net::IpAddr;

use crate::namespace::{add_addresses, in_namespace, ip};
use connlib_net::udp::interfaces;

#[test]
fn only_addresses_that_peers_could_reach() {
    in_namespace(async || {
        for (interface, peer) in
            [("lan", "lan-peer"), ("own-tun", "tun-peer"), ("unused", "unused-peer")]
        {
            ip(&format!("link add {interface} type veth peer name {peer}"));
            ip(&format!("link set {interface} up"));
            ip(&format!("link set {peer} up"));
        }
        for (interface, addresses) in [
            ("lan", "192.0.2.1/24 169.254.1.1/16 2001:db8::1/64 fd12::1/64"),
            ("lan", "2001:db8::dead/64"),
            ("own-tun", "100.64.0.1/32 fd00:2021:1111::1/128"),
            ("unused", "198.51.100.1/24"),
        ] {
            add_addresses(interface, addresses);
        }
        ip("link set unused down");
        ip("addr change 2001:db8::dead/64 dev lan preferred_lft 0");

        let mut found = interfaces("own-tun").unwrap();
        found.sort();
        let mut expected =
            ["192.0.2.1", "2001:db8::1", "fd12::1"].map(|text| text.parse::<IpAddr>().unwrap());
        expected.sort();
        assert_eq!(found, expected);
    });
}
