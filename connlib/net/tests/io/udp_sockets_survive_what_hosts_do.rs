//! Missing families, taken ports, roaming, refusals: the sockets go on.

use std::io::{self, ErrorKind};
use std::net::{IpAddr, SocketAddr};

use crate::namespace::{
    add_addresses, block_on, enter_network, in_namespace, in_thread, ip, run, within,
};
use connlib_net::tun::{LinkSettings, Offloads, READ_BUFFER, Tun};
use connlib_net::udp::{Options, PREFERRED_PORT, RECEIVE_BUFFER, Transmit, UdpSockets};
use connlib_packet::protocol;

fn send(sockets: &mut UdpSockets, destination: SocketAddr, contents: &[u8]) -> io::Result<()> {
    let mut transmit =
        Transmit { source: None, destination, ecn: 2, segment_size: Some(1316), contents };
    sockets.send(&mut transmit)
}

/// The sizes of the datagrams in the next run, and their ECN.
async fn receive(sockets: &mut UdpSockets) -> (Vec<usize>, u8) {
    let mut buffer = vec![0; RECEIVE_BUFFER];
    within(async {
        loop {
            sockets.readable().await.unwrap();
            if let Ok(run) = sockets.recv(&mut buffer) {
                let ecn = run.ecn;
                return (run.datagrams().map(|datagram| datagram.len()).collect(), ecn);
            }
        }
    })
    .await
}

fn local(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}

#[test]
fn the_preferred_port_is_taken_or_left_to_others() {
    in_namespace(async || {
        let first = UdpSockets::bind(Options::default()).unwrap();
        assert_eq!(first.port_v4(), Some(PREFERRED_PORT));
        assert_eq!(first.port_v6(), Some(PREFERRED_PORT));
        let second = UdpSockets::bind(Options::default()).unwrap();
        assert!(second.port_v4().is_some_and(|port| port != PREFERRED_PORT));
        assert!(second.port_v6().is_some_and(|port| port != PREFERRED_PORT));
    });
}

#[test]
fn a_host_whose_ipv6_is_switched_off_keeps_ipv4() {
    in_namespace(async || {
        run("sysctl", "-qw net.ipv6.conf.all.disable_ipv6=1");
        let mut sockets = UdpSockets::bind(Options::default()).unwrap();
        assert!(send(&mut sockets, "[2001:db8::1]:9".parse().unwrap(), b"x").is_err());
        send(&mut sockets, local(PREFERRED_PORT), b"ping").unwrap();
        assert_eq!(receive(&mut sockets).await.0, [4]);
    });
}

#[test]
fn a_host_without_ipv6_keeps_ipv4() {
    in_thread(|| {
        enter_network();
        seccomp::forbid_sockets_of(libc::AF_INET6);
        block_on(async {
            let mut sockets = UdpSockets::bind(Options::default()).unwrap();
            assert_eq!((sockets.port_v4(), sockets.port_v6()), (Some(PREFERRED_PORT), None));
            let refused = send(&mut sockets, "[::1]:9".parse().unwrap(), b"x").unwrap_err();
            assert_eq!(refused.raw_os_error(), Some(libc::EAFNOSUPPORT));
            send(&mut sockets, local(PREFERRED_PORT), b"ping").unwrap();
            assert_eq!(receive(&mut sockets).await.0, [4]);
        });
    });
}

#[test]
fn a_host_without_any_family_is_told_so() {
    in_thread(|| {
        seccomp::forbid_sockets_of(libc::AF_INET6);
        seccomp::forbid_sockets_of(libc::AF_INET);
        block_on(async {
            let error = UdpSockets::bind(Options::default()).unwrap_err();
            assert_eq!(error.v4.source.raw_os_error(), Some(libc::EAFNOSUPPORT));
            assert_eq!(error.v6.source.raw_os_error(), Some(libc::EAFNOSUPPORT));
        });
    });
}

#[test]
fn the_mark_decides_the_route() {
    in_namespace(async || {
        ip("rule add fwmark 0x17 prohibit");
        let marked = Options { mark: Some(0x17), port: 0, ..Options::default() };
        let mut marked = UdpSockets::bind(marked).unwrap();
        let mut unmarked = UdpSockets::bind(Options::default()).unwrap();
        ip("route add 192.0.2.0/24 dev lo");
        let destination = "192.0.2.1:9".parse().unwrap();
        let error = send(&mut marked, destination, b"x").unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EACCES));
        send(&mut unmarked, destination, b"x").unwrap();
    });
}

#[test]
fn big_buffers_do_not_depend_on_the_systems_limits() {
    in_namespace(async || {
        let sockets = UdpSockets::bind(Options::default()).unwrap();
        let sizes = run("ss", "-H -u -a -n -m");
        assert!(sizes.contains("rb8388608") && sizes.contains("tb8388608"), "{sizes}");
        drop(sockets);
    });
}

/// The kernel answers `EINVAL` to a source address that is gone and to port 0, and that is also one of its ways to refuse
/// segmentation. Giving up on offloads and ECN for that would cost every other peer most of its throughput.
#[test]
fn an_invalid_address_costs_nobody_else_the_offload() {
    in_namespace(async || {
        let mut sockets = UdpSockets::bind(Options::default()).unwrap();
        let contents = [7; 10 * 1316];
        let gone: IpAddr = "2001:db8::77".parse().unwrap();
        let mut from_gone = Transmit {
            source: Some(gone),
            destination: "[::1]:9".parse().unwrap(),
            ecn: 2,
            segment_size: Some(1316),
            contents: &contents,
        };
        let error = sockets.send(&mut from_gone).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
        let error = send(&mut sockets, local(0), &contents).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput);

        for destination in
            [local(PREFERRED_PORT), SocketAddr::new("::1".parse().unwrap(), PREFERRED_PORT)]
        {
            send(&mut sockets, destination, &contents).unwrap();
            assert_eq!(receive(&mut sockets).await, (vec![1316; 10], 2));
        }
    });
}

/// Inner packets have IPv6's minimum size, so outer ones do not fit a path with that MTU. They pass in fragments.
#[test]
fn a_path_with_a_small_mtu_gets_fragments_and_others_keep_the_offload() {
    in_namespace(async || {
        let mut small = Tun::open("small", Offloads::ALL).unwrap();
        LinkSettings { mtu: 1280, ..LinkSettings::default() }.apply("small").unwrap();
        add_addresses("small", "198.51.100.1/24 2001:db8::1/64");
        let mut sockets = UdpSockets::bind(Options::default()).unwrap();
        let contents = [7; 10 * 1316];

        for destination in ["198.51.100.2:9", "[2001:db8::2]:9"] {
            send(&mut sockets, destination.parse().unwrap(), &contents).unwrap();
            let mut buffer = vec![0; READ_BUFFER];
            let mut payload = 0;
            while payload < contents.len() + 10 * 8 {
                within(small.readable()).await.unwrap();
                while let Ok((offload, length)) = small.read(&mut buffer) {
                    assert!(length <= 1280 && offload.segmentation.is_none());
                    let (header, next) =
                        if buffer[0] >> 4 == 4 { (20, buffer[9]) } else { (48, buffer[40]) };
                    assert_eq!(next, protocol::UDP);
                    payload += length - header;
                }
            }
            assert_eq!(payload, contents.len() + 10 * 8);
        }
        send(&mut sockets, local(PREFERRED_PORT), &contents).unwrap();
        assert_eq!(receive(&mut sockets).await.0.len(), 10);
    });
}

/// Trying again would cost a failed call each time, with a copy of all bytes into the kernel.
#[test]
fn a_refusal_is_remembered_until_the_sockets_are_renewed() {
    in_namespace(async || {
        let mut tun = Tun::open("tun0", Offloads::ALL).unwrap();
        let set_mtu = |mtu| LinkSettings { mtu, ..LinkSettings::default() }.apply("tun0").unwrap();
        set_mtu(1280);
        add_addresses("tun0", "198.51.100.1/24");
        let mut sockets = UdpSockets::bind(Options::default()).unwrap();
        let mut segmentation_to = async |sockets: &mut UdpSockets, remote: &str| {
            send(sockets, remote.parse().unwrap(), &[7; 10 * 1316]).unwrap();
            let mut buffer = vec![0; READ_BUFFER];
            within(tun.readable()).await.unwrap();
            let (offload, _) = tun.read(&mut buffer).unwrap();
            while tun.read(&mut buffer).is_ok() {}
            offload.segmentation.map(|segmentation| segmentation.segment_size)
        };
        assert_eq!(segmentation_to(&mut sockets, "198.51.100.2:9").await, None);
        set_mtu(1500);
        assert_eq!(segmentation_to(&mut sockets, "198.51.100.2:9").await, None);
        assert_eq!(segmentation_to(&mut sockets, "198.51.100.3:9").await, Some(1316));
        sockets.rebind().unwrap();
        assert_eq!(segmentation_to(&mut sockets, "198.51.100.2:9").await, Some(1316));
    });
}

mod seccomp {
    //! A host that was built without an address family, for the calling thread.

    /// Lets `socket(2)` fail with `EAFNOSUPPORT` for this family.
    pub(crate) fn forbid_sockets_of(family: libc::c_int) {
        const LOAD: u16 = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16;
        const JUMP_IF_EQUAL: u16 = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
        const RETURN: u16 = (libc::BPF_RET | libc::BPF_K) as u16;
        let step = |code, jf, k| libc::sock_filter { code, jt: 0, jf, k };
        // `struct seccomp_data`: the call's number, then at byte 16 its first argument.
        let mut filter = [
            step(LOAD, 0, 0),
            step(JUMP_IF_EQUAL, 3, libc::SYS_socket as u32),
            step(LOAD, 0, 16),
            step(JUMP_IF_EQUAL, 1, family as u32),
            step(RETURN, 0, libc::SECCOMP_RET_ERRNO | libc::EAFNOSUPPORT as u32),
            step(RETURN, 0, libc::SECCOMP_RET_ALLOW),
        ];
        let program = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_mut_ptr() };
        // SAFETY: the program and its filter outlive the calls, and their length is given.
        let results = unsafe {
            [
                libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0),
                libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const program),
            ]
        };
        assert_eq!(results, [0, 0], "seccomp: {}", std::io::Error::last_os_error());
    }
}
