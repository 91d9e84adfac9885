use std::net::{IpAddr, UdpSocket};
use std::time::Duration;

use connlib_net::netlink::{ClientRoutes, Ipv6Support, SOCKET_MARK};
use ipnet::IpNet;
use nix::sys::socket::{setsockopt, sockopt::Mark};
use serde_json::Value;

use crate::namespace::{Namespace, host, ip, ip_list, set_sysctl};

/// A host with a tunnel, a local network with a router, and rules of somebody else.
fn client_host() -> Namespace {
    let host = host();
    host.run(|| {
        ip("address add 100.64.0.7/32 dev tun");
        ip("-6 address add fd00:2021:1111::7/128 dev tun nodad");
        ip("address add 192.168.1.5/24 dev lan");
        ip("-6 address add 2001:db8:1::5/64 dev lan nodad");
        ip("route add default via 192.168.1.1");
        ip("-6 route add default via 2001:db8:1::1");
        ip("rule add priority 150 fwmark 0x7 lookup 77");
    });
    host
}

#[test]
fn packets_to_resources_enter_the_tunnel_but_marked_ones_do_not() {
    client_host().run_async(async || {
        let mut routes = ClientRoutes::install("tun").unwrap();
        assert_eq!(way_to("203.0.113.9"), "lan");
        assert_eq!(way_to("2001:db8:99::9"), "lan");

        let resources = prefixes(&["203.0.113.0/24", "2001:db8:99::/48"]);
        assert_eq!(routes.set(resources).unwrap(), Ipv6Support::Available);
        assert_eq!(way_to("203.0.113.9"), "tun");
        assert_eq!(way_to("2001:db8:99::9"), "tun");
        assert_eq!(marked_way_to("203.0.113.9"), "lan");
        assert_eq!(marked_way_to("2001:db8:99::9"), "lan");
        assert_eq!(way_to("198.51.100.1"), "lan");

        let _ = routes.set([]).unwrap();
        assert_eq!(way_to("203.0.113.9"), "lan");
        assert_eq!(way_to("2001:db8:99::9"), "lan");
    });
}

#[test]
fn the_internet_resource_takes_all_but_the_local_network() {
    client_host().run_async(async || {
        let mut routes = ClientRoutes::install("tun").unwrap();
        // Part of the local network is a resource: what is specific comes first.
        let _ = routes.set(prefixes(&["0.0.0.0/0", "::/0", "192.168.1.64/26"])).unwrap();
        for (destination, way) in [
            ("198.51.100.1", "tun"),
            ("2001:db8:2::1", "tun"),
            ("192.168.1.1", "lan"),
            ("2001:db8:1::1", "lan"),
            ("192.168.1.70", "tun"),
        ] {
            assert_eq!(way_to(destination), way, "{destination}");
            assert_eq!(marked_way_to(destination), "lan", "{destination}");
        }
        // For real, through a socket.
        assert_eq!(source_towards("198.51.100.1", None), "100.64.0.7");
        assert_eq!(source_towards("198.51.100.1", Some(SOCKET_MARK)), "192.168.1.5");
        assert_eq!(source_towards("192.168.1.1", None), "192.168.1.5");
    });
}

#[test]
fn the_local_network_is_followed_as_it_changes() {
    client_host().run_async(async || {
        let mut routes = ClientRoutes::install("tun").unwrap();
        let _ = routes.set(prefixes(&["0.0.0.0/0", "::/0"])).unwrap();
        assert_eq!(way_to("192.168.2.1"), "tun");
        for command in [
            "address add 192.168.2.5/24 dev lan",
            "link set lan-peer down",
            "link set lan-peer up",
            "route add 192.168.3.0/24 dev tun",
        ] {
            ip(command);
            // A link without carrier leads nowhere: better to try the tunnel.
            let expected = if command.ends_with("down") { "tun" } else { "lan" };
            sync_until(&mut routes, || {
                way_to("192.168.2.1") == expected && way_to("2001:db8:1::1") == expected
            })
            .await;
        }
        // Routes to our own device are not the neighbourhood.
        let copies = ["192.168.1.0/24", "192.168.2.0/24", "2001:db8:1::/64"];
        assert_eq!(destinations("table 0x2021fd01"), copies);
    });
}

#[test]
fn our_own_changes_are_none() {
    client_host().run_async(async || {
        let mut routes = ClientRoutes::install("tun").unwrap();
        let _ = routes.set(prefixes(&["0.0.0.0/0", "203.0.113.0/24"])).unwrap();
        let _ = routes.set(prefixes(&["0.0.0.0/0"])).unwrap();
        // The kernel has announced them by now, and the paused clock moves on only when nobody has anything to do.
        tokio::time::pause();
        let waiting = tokio::time::timeout(Duration::from_secs(60), routes.changed());
        assert!(waiting.await.is_err());
    });
}

#[test]
fn what_another_program_removes_comes_back() {
    client_host().run_async(async || {
        let mut routes = ClientRoutes::install("tun").unwrap();
        let _ = routes.set(prefixes(&["203.0.113.0/24"])).unwrap();
        // As network managers do when they start.
        ip("rule del priority 100");
        ip("route flush table 0x2021fd00");
        assert_eq!(way_to("203.0.113.9"), "lan");
        sync_until(&mut routes, || way_to("203.0.113.9") == "tun").await;
    });
}

#[test]
fn leftovers_of_a_crash_are_replaced_and_nothing_stays_at_the_end() {
    client_host().run_async(async || {
        let before = (rules(), destinations("table main"));
        let routes = || {
            ["0x2021fd00", "0x2021fd01", "0x2021fd02"].map(|t| destinations(&format!("table {t}")))
        };

        let mut crashed = ClientRoutes::install("tun").unwrap();
        let _ = crashed.set(prefixes(&["203.0.113.0/24", "::/0"])).unwrap();
        let in_force = rules();
        assert_eq!(in_force.len(), before.0.len() + 6, "{in_force:#?}");
        // As if the process had died here.
        std::mem::forget(crashed);
        ip("rule add priority 90 not fwmark 0xfd002021 lookup 0x2021fd00");
        ip("route add 198.51.100.0/24 dev lan table 0x2021fd02 proto 253");

        let mut second = ClientRoutes::install("tun").unwrap();
        assert_eq!(rules(), in_force);
        assert_eq!(routes()[0], Vec::<String>::new());
        assert_eq!(routes()[2], Vec::<String>::new());
        let _ = second.set(prefixes(&["203.0.113.0/24"])).unwrap();
        second.remove().unwrap();
        assert_eq!((rules(), destinations("table main")), before);
        assert_eq!(routes(), [const { Vec::<String>::new() }; 3]);

        // Dropping does the same.
        drop(ClientRoutes::install("tun").unwrap());
        assert_eq!((rules(), destinations("table main")), before);
        assert_eq!(routes(), [const { Vec::<String>::new() }; 3]);
    });
}

#[test]
fn a_host_without_ipv6_is_steered_for_ipv4_only() {
    let host = host();
    host.run_async(async || {
        set_sysctl("net.ipv6.conf.tun.disable_ipv6", "1");
        let mut routes = ClientRoutes::install("tun").unwrap();
        let support = routes.set(prefixes(&["203.0.113.0/24", "2001:db8:99::/48"])).unwrap();
        assert_eq!(support, Ipv6Support::Unavailable);
        assert_eq!(way_to("203.0.113.9"), "tun");
    });
}

/// Does what a client's event loop does, until the kernel's changes have all been announced.
async fn sync_until(routes: &mut ClientRoutes, is_so: impl Fn() -> bool) {
    let following = async {
        while !is_so() {
            routes.changed().await;
            let _ = routes.sync().unwrap();
        }
    };
    tokio::time::timeout(Duration::from_secs(10), following).await.expect("followed in vain");
}

/// The interface by which a packet without a mark leaves.
fn way_to(destination: &str) -> String {
    route_get(&format!("route get {destination}"))
}

fn marked_way_to(destination: &str) -> String {
    route_get(&format!("route get {destination} mark {SOCKET_MARK}"))
}

fn route_get(arguments: &str) -> String {
    ip_list(arguments)[0]["dev"].as_str().unwrap().to_owned()
}

/// The source address that the kernel picks for a socket.
fn source_towards(destination: &str, mark: Option<u32>) -> String {
    let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
    if let Some(mark) = mark {
        setsockopt(&socket, Mark, &mark).unwrap();
    }
    socket.connect((destination.parse::<IpAddr>().unwrap(), 9)).unwrap();
    socket.local_addr().unwrap().ip().to_string()
}

fn prefixes(prefixes: &[&str]) -> Vec<IpNet> {
    prefixes.iter().map(|prefix| prefix.parse().unwrap()).collect()
}

fn destinations(selector: &str) -> Vec<String> {
    ["-4", "-6"]
        .iter()
        .flat_map(|family| ip_list(&format!("{family} route show {selector}")))
        .map(|route| route["dst"].as_str().unwrap().to_owned())
        .collect()
}

fn rules() -> Vec<Value> {
    ["-4", "-6"].iter().flat_map(|family| ip_list(&format!("{family} rule show"))).collect()
}
