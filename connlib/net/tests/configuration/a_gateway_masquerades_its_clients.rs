use std::io::{BufRead, BufReader};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::process::{Command, Stdio};
use std::time::Duration;

use connlib_net::nft::{Forwarding, GatewayNat, Masquerade, NatError};

use crate::namespace::{Namespace, drop_capabilities, ip, set_sysctl};

const BOTH: Masquerade = Masquerade { ipv4: true, ipv6: true };

/// A client, whose packets come out of `tun` on the gateway, and a server in the network behind the gateway.
///
/// The server knows no way to the client: it can only answer the gateway.
struct Lab {
    client: Namespace,
    gateway: Namespace,
    server: Namespace,
}

#[derive(Clone, Copy)]
struct Addresses {
    client: &'static str,
    gateway: &'static str,
    server: &'static str,
}

const V4: Addresses = Addresses { client: "100.64.0.7", gateway: "192.0.2.1", server: "192.0.2.2" };
const V6: Addresses =
    Addresses { client: "fd00:2021:1111::7", gateway: "2001:db8::1", server: "2001:db8::2" };

impl Lab {
    fn new() -> Self {
        let lab =
            Self { client: Namespace::new(), gateway: Namespace::new(), server: Namespace::new() };
        lab.gateway.connect("tun", &lab.client, "eth0");
        // Not a name that one would guess.
        lab.gateway.connect("x-lan.7", &lab.server, "eth0");
        lab.client.run(|| {
            ip("address add 100.64.0.7/11 dev eth0");
            ip("address add fd00:2021:1111::7/107 dev eth0 nodad");
            ip("route add default via 100.64.0.1");
            ip("-6 route add default via fd00:2021:1111::1");
        });
        lab.gateway.run(|| {
            ip("address add 100.64.0.1/11 dev tun");
            ip("address add fd00:2021:1111::1/107 dev tun nodad");
            ip("address add 192.0.2.1/24 dev x-lan.7");
            ip("address add 2001:db8::1/64 dev x-lan.7 nodad");
        });
        lab.server.run(|| {
            ip("address add 192.0.2.2/24 dev eth0");
            ip("address add 2001:db8::2/64 dev eth0 nodad");
        });
        lab
    }

    /// Whose packets the server thinks it gets, over TCP and over UDP.
    fn client_as_seen_by_server(&self, addresses: Addresses) -> IpAddr {
        let (tcp, udp) = self.server.run(|| (listen(addresses.server), socket(addresses.server)));
        let (tcp_address, udp_address) = (tcp.local_addr().unwrap(), udp.local_addr().unwrap());
        let (_stream, sender) = self.client.run(|| {
            let sender = socket(addresses.client);
            sender.send_to(b"ping", udp_address).unwrap();
            (TcpStream::connect_timeout(&tcp_address, TIMEOUT).unwrap(), sender)
        });
        let (_, tcp_peer) = tcp.accept().unwrap();
        let mut buffer = [0; 16];
        let (_, udp_peer) = udp.recv_from(&mut buffer).unwrap();
        assert_eq!(tcp_peer.ip(), udp_peer.ip());
        // The way back works, and ends where it began.
        udp.send_to(b"pong", udp_peer).unwrap();
        let (len, from) = sender.recv_from(&mut buffer).unwrap();
        assert_eq!((&buffer[..len], from), (&b"pong"[..], udp_address));
        tcp_peer.ip()
    }
}

/// Only ever waited for when something is broken.
const TIMEOUT: Duration = Duration::from_secs(5);

fn listen(address: &str) -> TcpListener {
    TcpListener::bind((ip_address(address), 0)).unwrap()
}

fn socket(address: &str) -> UdpSocket {
    let socket = UdpSocket::bind((ip_address(address), 0)).unwrap();
    socket.set_read_timeout(Some(TIMEOUT)).unwrap();
    socket
}

fn ip_address(address: &str) -> IpAddr {
    address.parse().unwrap()
}

#[test]
fn the_server_sees_the_gateway_and_its_answers_reach_the_client() {
    let lab = Lab::new();
    let (_forwarding, _nat) = lab
        .gateway
        .run(|| (Forwarding::enable("tun").unwrap(), GatewayNat::install("tun", BOTH).unwrap()));
    for addresses in [V4, V6] {
        assert_eq!(lab.client_as_seen_by_server(addresses), ip_address(addresses.gateway));
    }
}

#[test]
fn masquerade_can_be_switched_by_family_while_it_runs() {
    let lab = Lab::new();
    let (_forwarding, mut nat) = lab.gateway.run(|| {
        let v4_only = Masquerade { ipv4: true, ipv6: false };
        (Forwarding::enable("tun").unwrap(), GatewayNat::install("tun", v4_only).unwrap())
    });
    lab.server.run(|| {
        ip("route add 100.64.0.0/11 via 192.0.2.1");
        ip("-6 route add fd00:2021:1111::/107 via 2001:db8::1");
    });
    assert_eq!(lab.client_as_seen_by_server(V4), ip_address(V4.gateway));
    assert_eq!(lab.client_as_seen_by_server(V6), ip_address(V6.client));
    nat.update(BOTH).unwrap();
    assert_eq!(lab.client_as_seen_by_server(V6), ip_address(V6.gateway));
    nat.update(Masquerade { ipv4: false, ipv6: true }).unwrap();
    assert_eq!(lab.client_as_seen_by_server(V4), ip_address(V4.client));
}

#[test]
fn nobody_behind_the_gateway_can_open_a_connection_to_a_client() {
    let lab = Lab::new();
    let (_forwarding, nat) = lab
        .gateway
        .run(|| (Forwarding::enable("tun").unwrap(), GatewayNat::install("tun", BOTH).unwrap()));
    // Somebody there sets a route through the gateway.
    lab.server.run(|| {
        ip("route add 100.64.0.0/11 via 192.0.2.1");
        ip("-6 route add fd00:2021:1111::/107 via 2001:db8::1");
    });
    let knock = |addresses: Addresses, text: &[u8]| {
        let door = lab.client.run(|| socket(addresses.client));
        let stranger = lab.server.run(|| socket(addresses.server));
        stranger.send_to(text, door.local_addr().unwrap()).unwrap();
        (door, stranger)
    };
    // Before, so that neighbours know each other; after, because packets on one path keep their order: once an
    // answer is here, what was sent before it has been here, or never will be.
    let exchange = || {
        for addresses in [V4, V6] {
            lab.client_as_seen_by_server(addresses);
        }
    };
    exchange();
    let guarded = [knock(V4, b"guarded"), knock(V6, b"guarded")];
    exchange();
    let mut buffer = [0; 16];
    for (door, _stranger) in &guarded {
        door.set_nonblocking(true).unwrap();
        let received = door.recv_from(&mut buffer);
        assert_eq!(received.unwrap_err().kind(), std::io::ErrorKind::WouldBlock);
    }
    // It is the guard that stops them.
    nat.remove().unwrap();
    for addresses in [V4, V6] {
        let (door, _stranger) = knock(addresses, b"open");
        let (len, _) = door.recv_from(&mut buffer).unwrap();
        assert_eq!(&buffer[..len], b"open");
    }
}

#[test]
fn a_second_gateway_is_told_that_there_is_one() {
    let gateway = Namespace::new();
    gateway.run(|| {
        let first = GatewayNat::install("tun", BOTH).unwrap();
        let second = GatewayNat::install("tun", BOTH);
        assert!(matches!(second, Err(NatError::InUse)), "{:?}", second.err());
        first.remove().unwrap();
        GatewayNat::install("tun", BOTH).unwrap();
    });
}

#[test]
fn without_the_capability_the_error_says_so() {
    Namespace::new().run(|| {
        drop_capabilities();
        let result = GatewayNat::install("tun", BOTH);
        assert!(matches!(result, Err(NatError::NoPermission)), "{:?}", result.err());
    });
}

#[test]
fn a_host_without_ipv6_masquerades_ipv4() {
    let lab = Lab::new();
    lab.gateway.run(|| set_sysctl("net.ipv6.conf.all.disable_ipv6", "1"));
    let (_forwarding, _nat) = lab.gateway.run(|| {
        let forwarding = Forwarding::enable("tun").unwrap();
        assert_eq!(forwarding.ipv6(), connlib_net::netlink::Ipv6Support::Unavailable);
        (forwarding, GatewayNat::install("tun", BOTH).unwrap())
    });
    assert_eq!(lab.client_as_seen_by_server(V4), ip_address(V4.gateway));
}

#[test]
fn the_table_goes_with_a_process_that_is_killed() {
    // The test starts itself again as the process that is to be killed.
    const ROLE: &str = "CONNLIB_TEST_IS_VICTIM";
    if std::env::var_os(ROLE).is_some() {
        let _nat = GatewayNat::install("tun", BOTH).unwrap();
        println!("\ninstalled");
        loop {
            std::thread::park();
        }
    }
    Namespace::new().run(|| {
        let name =
            "a_gateway_masquerades_its_clients::the_table_goes_with_a_process_that_is_killed";
        let mut victim = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", name, "--nocapture"])
            .env(ROLE, "")
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(victim.stdout.take().unwrap()).lines();
        assert!(lines.any(|line| line.unwrap() == "installed"));
        let in_use = GatewayNat::install("tun", BOTH);
        assert!(matches!(in_use, Err(NatError::InUse)), "{:?}", in_use.err());

        victim.kill().unwrap();
        victim.wait().unwrap();
        // Nobody has cleaned up, and yet it is free.
        GatewayNat::install("tun", BOTH).unwrap();
    });
}

#[test]
fn addresses_that_are_not_clients_keep_theirs() {
    let lab = Lab::new();
    lab.client.run(|| ip("address add 198.51.100.7/32 dev eth0"));
    lab.server.run(|| ip("route add 198.51.100.0/24 via 192.0.2.1"));
    let (_forwarding, _nat) = lab.gateway.run(|| {
        ip("route add 198.51.100.7/32 dev tun");
        (Forwarding::enable("tun").unwrap(), GatewayNat::install("tun", BOTH).unwrap())
    });
    let other = Addresses { client: "198.51.100.7", ..V4 };
    let server = lab.server.run(|| socket(other.server));
    let client = lab.client.run(|| socket(other.client));
    client.send_to(b"ping", server.local_addr().unwrap()).unwrap();
    let (_, peer): (_, SocketAddr) = server.recv_from(&mut [0; 16]).unwrap();
    assert_eq!(peer.ip(), ip_address(other.client));
}
