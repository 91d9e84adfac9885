use std::net::{Ipv6Addr, SocketAddrV6};

use connlib_net::netlink::Ipv6Support;
use connlib_net::nft::{Forwarding, ForwardingError};
use nix::net::if_::if_nametoindex;
use socket2::{Domain, Protocol, Socket, Type};

use crate::namespace::{
    Namespace, drop_capabilities, host, ip_list, set_sysctl, sysctl, wait_until,
};

const SYSCTLS: [&str; 10] = [
    "net.ipv4.ip_forward",
    "net.ipv4.conf.default.forwarding",
    "net.ipv4.conf.tun.forwarding",
    "net.ipv4.conf.lan.forwarding",
    "net.ipv6.conf.all.forwarding",
    "net.ipv6.conf.default.forwarding",
    "net.ipv6.conf.tun.forwarding",
    "net.ipv6.conf.lan.forwarding",
    "net.ipv6.conf.lan.accept_ra",
    "net.ipv6.conf.default.accept_ra",
];

fn values() -> Vec<(&'static str, String)> {
    SYSCTLS.map(|name| (name, sysctl(name))).to_vec()
}

#[test]
fn values_are_as_before_even_where_interfaces_differed() {
    host().run(|| {
        set_sysctl("net.ipv6.conf.lan.forwarding", "1");
        set_sysctl("net.ipv4.conf.lan.forwarding", "1");
        let before = values();

        let forwarding = Forwarding::enable("tun").unwrap();
        assert_eq!(forwarding.ipv6(), Ipv6Support::Available);
        for name in SYSCTLS {
            let expected = if name.ends_with("accept_ra") { "2" } else { "1" };
            assert_eq!(sysctl(name), expected, "{name}");
        }
        forwarding.restore().unwrap();
        assert_eq!(values(), before);

        drop(Forwarding::enable("tun").unwrap());
        assert_eq!(values(), before);
    });
}

#[test]
fn a_router_stays_a_router() {
    host().run(|| {
        set_sysctl("net.ipv4.ip_forward", "1");
        set_sysctl("net.ipv6.conf.all.forwarding", "1");
        set_sysctl("net.ipv6.conf.lan.accept_ra", "0");
        let before = values();
        let forwarding = Forwarding::enable("tun").unwrap();
        assert_eq!(sysctl("net.ipv6.conf.lan.accept_ra"), "0", "somebody else handles them");
        forwarding.restore().unwrap();
        assert_eq!(values(), before);
    });
}

#[test]
fn what_somebody_else_has_set_meanwhile_stays() {
    host().run(|| {
        let forwarding = Forwarding::enable("tun").unwrap();
        set_sysctl("net.ipv6.conf.lan.accept_ra", "0");
        forwarding.restore().unwrap();
        assert_eq!(sysctl("net.ipv6.conf.lan.accept_ra"), "0");
        assert_eq!(sysctl("net.ipv4.ip_forward"), "0");
    });
}

#[test]
fn without_ipv6_only_ipv4_is_forwarded() {
    host().run(|| {
        set_sysctl("net.ipv6.conf.tun.disable_ipv6", "1");
        let forwarding = Forwarding::enable("tun").unwrap();
        assert_eq!(forwarding.ipv6(), Ipv6Support::Unavailable);
        assert_eq!(sysctl("net.ipv4.ip_forward"), "1");
        assert_eq!(sysctl("net.ipv6.conf.all.forwarding"), "0");
        assert_eq!(sysctl("net.ipv6.conf.lan.accept_ra"), "1");
    });
}

#[test]
fn without_the_capability_the_error_names_the_sysctl() {
    host().run(|| {
        set_sysctl("net.ipv4.ip_forward", "0");
        drop_capabilities();
        // Root's files stay root's without the capability; this is another user's view.
        let Err(error) = Forwarding::enable("tun") else { panic!("it must fail") };
        assert!(matches!(error, ForwardingError::NoPermission { .. }), "{error:?}");
        assert!(error.to_string().contains("net.ipv4.ip_forward"), "{error}");
    });
}

#[test]
fn a_default_route_from_router_advertisements_survives() {
    let (host, router) = (host(), Namespace::new());
    router.connect("lan", &host, "uplink");
    let advertise = || router.run(advertise_router);
    let has_default = || host.run(|| !ip_list("-6 route show default").is_empty());
    wait_until("the host learns its default route", || {
        advertise();
        has_default()
    });

    let forwarding = host.run(|| Forwarding::enable("tun").unwrap());
    assert!(has_default(), "the kernel has dropped the default route");
    host.run(|| crate::namespace::ip("-6 route del default"));
    wait_until("the host still learns from advertisements", || {
        advertise();
        has_default()
    });

    forwarding.restore().unwrap();
    assert!(has_default());
    assert_eq!(host.run(|| sysctl("net.ipv6.conf.uplink.accept_ra")), "1");
}

/// Sends a router advertisement (RFC 4861 §4.2) out of `lan`.
fn advertise_router() {
    const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
    let interface = if_nametoindex("lan").unwrap();
    let socket = Socket::new(Domain::IPV6, Type::RAW, Some(Protocol::ICMPV6)).unwrap();
    socket.set_multicast_hops_v6(255).unwrap();
    // Type 134; hop limit 64; a router for 1800 seconds. The kernel fills in the checksum.
    let message = [134, 0, 0, 0, 64, 0, 0x07, 0x08, 0, 0, 0, 0, 0, 0, 0, 0];
    let destination = SocketAddrV6::new(ALL_NODES, 0, 0, interface);
    // Fails as long as the interface has no link-local address to send from.
    let _ = socket.send_to(&message, &destination.into());
}
