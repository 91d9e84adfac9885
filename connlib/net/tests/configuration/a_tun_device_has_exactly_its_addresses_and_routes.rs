use std::net::{Ipv4Addr, Ipv6Addr, UdpSocket};

use connlib_net::netlink::{Error, Interface, Ipv6Support, MAIN_TABLE};
use ipnet::IpNet;

use crate::namespace::{
    Monitor, Namespace, drop_capabilities, host, ip, ip_list, set_sysctl, wait_until,
};

const V4: Ipv4Addr = Ipv4Addr::new(100, 64, 0, 7);
const V6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x2021, 0x1111, 0, 0, 0, 0, 7);
const TABLE: u32 = 0x2021_fd00;

#[test]
fn addresses_are_set_replaced_and_removed() {
    host().run(|| {
        set_sysctl("net.ipv6.conf.tun.accept_dad", "1");
        ip("address add 192.0.2.1/24 dev tun");
        ip("address add 100.64.0.7/11 dev tun");
        ip("address add fe80::5/64 dev tun nodad");
        ip("address add 192.0.2.2/24 dev lan");

        let mut tun = Interface::open("tun").unwrap();
        assert_eq!(tun.set_addresses(Some(V4), Some(V6)).unwrap(), Ipv6Support::Available);
        let expected = ["100.64.0.7/32", "fd00:2021:1111::7/128", "fe80::5/64"];
        assert_eq!(addresses("tun"), expected);
        // They are usable at once, without a search for others that have them.
        UdpSocket::bind((V4, 0)).unwrap();
        UdpSocket::bind((V6, 0)).unwrap();

        let _ = tun.set_addresses(Some(Ipv4Addr::new(100, 64, 0, 8)), None).unwrap();
        assert_eq!(addresses("tun"), ["100.64.0.8/32", "fe80::5/64"]);

        let _ = tun.set_addresses(None, None).unwrap();
        assert_eq!(addresses("tun"), ["fe80::5/64"]);
        assert_eq!(addresses("lan"), ["192.0.2.2/24"]);
    });
}

#[test]
fn routes_are_set_replaced_and_removed_without_touching_others() {
    host().run(|| {
        ip("route add 192.0.2.0/24 dev tun");
        ip("route add 198.51.100.0/24 dev lan");
        // Another gateway's, on a device of its own.
        ip("route add 203.0.113.0/24 dev lan proto 253");
        let others = routes("table main");

        let mut tun = Interface::open("tun").unwrap();
        for (table, selector) in
            [(TABLE, "table 0x2021fd00"), (MAIN_TABLE, "table main dev tun proto 253")]
        {
            let _ = tun
                .set_routes(table, prefixes(&["10.0.0.0/8", "10.1.2.3/32", "fd12::/16"]))
                .unwrap();
            assert_eq!(routes(selector), ["10.0.0.0/8", "10.1.2.3", "fd12::/16"]);

            // Host bits are no reason to refuse a route.
            let _ = tun.set_routes(table, prefixes(&["10.9.9.9/8", "2001:db8::1/32"])).unwrap();
            assert_eq!(routes(selector), ["10.0.0.0/8", "2001:db8::/32"]);

            let _ = tun.set_routes(table, []).unwrap();
            assert!(routes(selector).is_empty());
        }
        assert_eq!(routes("table main"), others);
    });
}

#[test]
fn what_is_already_there_is_not_touched() {
    host().run(|| {
        let mut tun = Interface::open("tun").unwrap();
        let mut apply = || {
            let _ = tun.set_addresses(Some(V4), Some(V6)).unwrap();
            let _ = tun.set_routes(TABLE, prefixes(&["10.0.0.0/8", "fd12::/16"])).unwrap();
        };
        apply();
        // The kernel announces an IPv6 address when it has made a local route for it, a bit later.
        let local_route = "-6 route show table local dev tun fd00:2021:1111::7";
        wait_until("the address has its route", || !ip_list(local_route).is_empty());

        let mut monitor = Monitor::start();
        apply();
        assert_eq!(monitor.seen_until_now(), Vec::<String>::new());
        // It would have seen a change.
        let _ = tun.set_routes(TABLE, prefixes(&["10.0.0.0/8"])).unwrap();
        let seen = monitor.seen_until_now();
        assert!(matches!(&seen[..], [line] if line.contains("fd12::/16")), "{seen:#?}");
    });
}

#[test]
fn a_host_without_ipv6_gets_ipv4_only() {
    host().run(|| {
        set_sysctl("net.ipv6.conf.tun.disable_ipv6", "1");
        let mut tun = Interface::open("tun").unwrap();
        assert_eq!(tun.set_addresses(Some(V4), Some(V6)).unwrap(), Ipv6Support::Unavailable);
        let routes_set =
            tun.set_routes(MAIN_TABLE, prefixes(&["10.0.0.0/8", "fd12::/16"])).unwrap();
        assert_eq!(routes_set, Ipv6Support::Unavailable);
        assert_eq!(addresses("tun"), ["100.64.0.7/32"]);
        assert_eq!(routes("table main proto 253"), ["10.0.0.0/8"]);
    });
}

#[test]
fn an_interface_that_is_down_is_an_error() {
    host().run(|| {
        ip("link set tun down");
        let mut tun = Interface::open("tun").unwrap();
        let error = tun.set_routes(TABLE, prefixes(&["10.0.0.0/8"])).unwrap_err();
        assert!(matches!(error, Error::Kernel { .. }), "{error:?}");
    });
}

#[test]
fn an_unknown_interface_is_named() {
    Namespace::new().run(|| {
        let Err(error) = Interface::open("nosuch") else { panic!("there is no such interface") };
        assert_eq!(error.to_string(), "there is no network interface named \"nosuch\"");
    });
}

#[test]
fn without_the_capability_the_error_says_so() {
    host().run(|| {
        let mut tun = Interface::open("tun").unwrap();
        drop_capabilities();
        let error = tun.set_addresses(Some(V4), None).unwrap_err();
        assert!(matches!(error, Error::NoPermission { .. }), "{error:?}");
        assert!(error.to_string().contains("CAP_NET_ADMIN"), "{error}");
    });
}

fn prefixes(prefixes: &[&str]) -> Vec<IpNet> {
    prefixes.iter().map(|prefix| prefix.parse().unwrap()).collect()
}

fn addresses(interface: &str) -> Vec<String> {
    let list = ip_list(&format!("address show dev {interface}"));
    let mut addresses: Vec<String> = list[0]["addr_info"]
        .as_array()
        .unwrap()
        .iter()
        .map(|a| format!("{}/{}", a["local"].as_str().unwrap(), a["prefixlen"]))
        .collect();
    addresses.sort();
    addresses
}

/// Destinations of both families, without the kernel's own for link-local addresses.
fn routes(selector: &str) -> Vec<String> {
    ["-4", "-6"]
        .iter()
        .flat_map(|family| ip_list(&format!("{family} route show {selector}")))
        .map(|route| route["dst"].as_str().unwrap().to_owned())
        .filter(|destination| !destination.starts_with("fe80"))
        .collect()
}
